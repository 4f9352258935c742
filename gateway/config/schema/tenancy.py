"""Plans, and the tenants and API keys that are written in the configuration file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

from pydantic import Field

from gateway.config.schema.fault import Fault, repeats
from gateway.config.schema.limit import Limit
from gateway.config.schema.secret import Secret, TextOrSecret, revealed
from gateway.config.schema.section import Section
from gateway.config.schema.terms import Instant, ModelPattern, Name, Priority

_OnStoreFailure = Literal["open", "closed", "share"]
_Weight = Annotated[int, Field(ge=1, le=1_000_000)]
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
Digest = Annotated[TextOrSecret, "64 hexadecimal digits or [secret](#secrets)"]


class Plan(Section):
    """What tenants get that refer to it."""

    name: Name
    """Name of the plan, unique."""
    priority: Priority = 0
    """Priority class, -1000 to 1000: requests of a higher one leave the [queue](#flow) first. Those
    below 0 may be shed when their pool is full."""
    weight: _Weight = 1
    """Share of a full pool, relative to other tenants of the same priority."""
    flow_headers: bool = False
    """Take the word of the tenant's clients for the objective and the fairness id of a request, see
    `flow.trust_headers`. Fairness ids divide the tenant into flows; each has its own share, by the
    tenant's weight. false: these headers are ignored."""
    models: tuple[ModelPattern, ...] = ("*",)
    """Patterns of the models that may be used, as clients name them. `[]`: none."""
    on_store_failure: _OnStoreFailure = "open"
    """What happens while the limit store is away. open: requests are admitted, and counted when
    it is back. closed: 503. share: each picker admits its share of every limit."""
    client_priority: bool = False
    """Clients may set `priority` in a request's body: the engine's own, which says whose request is
    scheduled first, over all tenants. false: it is taken out."""
    clamp_max_tokens: bool = False
    """A request whose `max_tokens` (by any name, times `n`) is more than a limit can ever grant
    gets as much as is left, but no less than a quarter of the limit, and the answer says so in
    `x-max-tokens-clamped`. false: it is refused, and the answer says what would fit."""
    limits: tuple[Limit, ...] = ()
    """[Limits](#limit) of each tenant of the plan."""

    def faults(self) -> Iterable[Fault]:
        """The names of limits."""
        return repeated_names(self.limits)


class TenantKey(Section):
    """An API key, by its hash. Keys that `penstock keys create` makes are not written here."""

    id: Name
    """Public name of the key, in lists, logs and usage; unique among the keys of all tenants."""
    sha256: Digest
    """SHA-256 of the whole key, 64 hexadecimal digits (`printf %s "$KEY" | sha256sum`), or where
    they are: `{env: NAME}`, `{file: PATH}`. The key itself is stored nowhere. Make it long and
    random: a short one can be guessed from its hash."""
    expires: Instant | None = None
    """The key is refused from this time on: a date and time with its zone. Null: it does not
    expire."""
    models: tuple[ModelPattern, ...] = ("*",)
    """Patterns of the models that it may use, among those of its tenant."""
    limits: tuple[Limit, ...] = ()
    """[Limits](#limit) of this key alone, beside its tenant's. One that has the name of a limit by
    key of its tenant replaces that limit for this key."""

    def faults(self) -> Iterable[Fault]:
        """The hash, and the names of limits."""
        return [*_not_a_digest(self.sha256), *repeated_names(self.limits)]

    @property
    def digest(self) -> bytes:
        """The hash, 32 bytes. Raises LookupError for a reference that was never resolved."""
        return bytes.fromhex(revealed(self.sha256))


class Tenant(Section):
    """A team, customer or service: what it may use, and how much. A key that is left out has the
    value of its plan; without a plan, the default of `plans[]`."""

    name: Name
    """Name of the tenant, unique; it labels metrics and usage."""
    plan: Name | None = None
    """Plan that it refers to. Null: none, and so no limits but its own."""
    priority: Priority | None = None
    """Priority class, -1000 to 1000. Null: the plan's."""
    weight: _Weight | None = None
    """Share of a full pool, relative to other tenants of the same priority. Null: the plan's."""
    flow_headers: bool | None = None
    """Take its clients' word for objective and fairness id. Null: the plan's."""
    models: tuple[ModelPattern, ...] | None = None
    """Patterns of the models that it may use. `[]`: none. Null: the plan's."""
    on_store_failure: _OnStoreFailure | None = None
    """What happens while the limit store is away. Null: the plan's."""
    client_priority: bool | None = None
    """Clients may set the engine's `priority`. Null: the plan's."""
    clamp_max_tokens: bool | None = None
    """Reduce a `max_tokens` that a limit can never grant. Null: the plan's."""
    limits: tuple[Limit, ...] = ()
    """[Limits](#limit) beside the plan's. One with the same name replaces the plan's."""
    disabled: bool = False
    """Refuse all its requests (403)."""
    keys: tuple[TenantKey, ...] = ()
    """API keys by their hashes."""

    def faults(self) -> Iterable[Fault]:
        """The names of limits."""
        return repeated_names(self.limits)


def repeated_names(limits: Sequence[Limit]) -> list[Fault]:
    """A fault for every limit whose name an earlier one has."""
    names = [limit.effective_name for limit in limits]
    return [
        Fault(
            ("limits", index, "name"),
            "a name that no other limit here has",
            got=names[index],
            hint=f"limits[{first}] has it already; give one of them a name",
        )
        for index, first in repeats(names)
    ]


def _not_a_digest(given: str | Secret) -> list[Fault]:
    try:
        text = revealed(given)
    except LookupError:  # a reference that nobody has resolved yet
        return []
    if _DIGEST.fullmatch(text):
        return []
    return [
        Fault(
            ("sha256",),
            "64 hexadecimal digits: the SHA-256 of the key",
            got="a value that is not shown, because it may be a key",
            hint='printf %s "$KEY" | sha256sum',
        )
    ]
