"""Rules, meters and policies: which limits a request counts against, and by how much."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct

from policies.limits.prices import Cost, Usage
from policies.limits.types import (
    MAX_AMOUNT,
    TOKEN_DIMENSIONS,
    Bucket,
    Dimension,
    Rule,
    Take,
)


class By(enum.StrEnum):
    """What a rule has separate buckets for, within a tenant."""

    __hash__ = object.__hash__  # Enum's own is written in Python

    KEY = "key"
    USER = "user"
    MODEL = "model"
    POOL = "pool"
    SESSION = "session"
    AGENT = "agent"


_MAX_FOUND: Final = 4_096
_TOKENS_OR_MONEY: Final = TOKEN_DIMENSIONS | {Dimension.MONEY}
_ORDER: Final = {by: place for place, by in enumerate(By)}


class OnStoreFailure(enum.Enum):
    """How requests are decided while the limit store is down."""

    OPEN = "open"
    """All are granted; their usage is charged when the store is back."""
    CLOSED = "closed"
    """All are refused: 503."""
    SHARE = "share"
    """Each picker grants its share of every limit, from buckets that are full when the store goes
    down."""


class Subject(Struct, frozen=True):
    """The properties of a request that limits depend on. The number of possible values is bounded:
    ``model`` is a name of the catalogue, ``key`` the id of the first key of a rotated key's line,
    ``session`` and ``agent`` are `KnownNames`. "": the request has none."""

    tenant: str
    key: str = ""
    user: str = ""
    model: str = ""
    pool: str = ""
    session: str = ""
    agent: str = ""

    def of(self, by: By) -> str:
        """The value that a limit by ``by`` counts separately."""
        return str(getattr(self, by.value))


@dataclass(frozen=True, slots=True)
class LimitRule:
    """One limit as an operator wrote it."""

    name: str
    """Unique among the rules of a policy, and stable: the buckets' keys begin with it."""
    dimension: Dimension
    rule: Rule
    by: tuple[By, ...] = ()
    """One bucket for each combination of these values; (): one for the tenant."""
    models: tuple[str, ...] = ()
    """Patterns (``*``, ``?``, ``[...]``) of the models that it applies to; (): all."""
    pools: tuple[str, ...] = ()
    """Names of the pools that it applies to; (): all."""
    shadow: bool = False
    """See `Bucket.shadow`."""
    weights: Cost | None = None
    """The weighted tokens of a usage; None for other dimensions."""
    thing: str = ""
    """Name of what is counted, without ``|``; "": `name`. Rules of the same thing, here or in
    another configuration, share what was used: see `Bucket.tally`."""

    def applies(self, subject: Subject) -> bool:
        """Whether the request counts against this rule. A request without a key or user does not
        count against a limit by key or user."""
        return (
            all(subject.of(by) for by in self.by)
            and (not self.models or matches(subject.model, self.models))
            and (not self.pools or subject.pool in self.pools)
        )

    def bucket(self, subject: Subject) -> Bucket:
        """The bucket of the request. Its key begins with the rule's name and a ``|``, and its tally
        with the thing."""
        values = [(by, subject.of(by)) for by in sorted(self.by, key=_ORDER.__getitem__)]
        thing = self.thing or self.name
        key = "|".join((self.name, thing, *(f"{by.value}={value}" for by, value in values)))
        whose = [f"tenant {subject.tenant}", *(f"{by.value} {value}" for by, value in values)]
        return Bucket(
            key=key,
            dimension=self.dimension,
            rule=self.rule,
            name=f"{self.name} of {', '.join(whose)}",
            shadow=self.shadow,
        )


@dataclass(frozen=True, slots=True)
class Meter:
    """A bucket, and how much a usage takes from it."""

    bucket: Bucket
    cost: Cost | None = None
    """For weighted tokens the weights; for money the model's price, None: free. None for other
    dimensions."""

    _parts: tuple[int, int, int] = field(init=False, repr=False, compare=False)
    """Without a cost: the amount of a request, of an input token and of an output token."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", _PARTS.get(self.bucket.dimension, _A_REQUEST))

    def amount(self, usage: Usage) -> int:
        """Whole units of the bucket's dimension, at most MAX_AMOUNT."""
        if self.cost is not None:
            amount = self.cost.micros(usage)
        else:
            request, input_, output = self._parts
            amount = request + input_ * usage.input_tokens + output * usage.output_tokens
        return min(MAX_AMOUNT, amount)


_A_REQUEST: Final = (1, 0, 0)
_PARTS: Final = {
    Dimension.INPUT_TOKENS: (0, 1, 0),
    Dimension.OUTPUT_TOKENS: (0, 0, 1),
    Dimension.TOTAL_TOKENS: (0, 1, 1),
    Dimension.WEIGHTED_TOKENS: (0, 0, 0),
    Dimension.MONEY: (0, 0, 0),
}


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices by pattern of model names; the first pattern that fits counts. A model without a price
    costs nothing."""

    prices: Sequence[tuple[str, Cost]] = ()
    _found: dict[str, Cost | None] = field(default_factory=dict, compare=False, repr=False)

    def of(self, model: str) -> Cost | None:
        """The model's price; None: it has none."""
        if model not in self._found:
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            self._found[model] = next(
                (cost for pattern, cost in self.prices if fnmatchcase(model, pattern)), None
            )
        return self._found[model]


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What a tenant may do: its plan and its own settings together."""

    tenant: str
    rules: tuple[LimitRule, ...] = ()
    models: tuple[str, ...] = ("*",)
    """Patterns of the models that it may use."""
    priority: int = 0
    """Higher is more important; below 0 is shed first."""
    weight: int = 1
    """Share of a contended pool, relative to other tenants of the same priority."""
    flow_headers: bool = False
    """Whether its clients may name an objective and a fairness id."""
    on_store_failure: OnStoreFailure = OnStoreFailure.OPEN
    disabled: bool = False
    plan: str = ""
    """Name of its plan, "" for none."""
    prices: PriceList = PriceList()
    client_priority: bool = False
    """Whether its clients may set the engine's ``priority`` of their requests."""
    clamp_max_tokens: bool = False
    """Whether a request that asks for more output than a limit can ever grant gets less, instead of
    being refused."""
    limited_by: frozenset[By] = field(init=False, repr=False, compare=False)
    """What its rules have separate buckets for."""
    limits_tokens: bool = field(init=False, repr=False, compare=False)
    """Whether an enforced rule counts tokens or money."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "limited_by", frozenset(by for r in self.rules for by in r.by))
        counted = {rule.dimension for rule in self.rules if not rule.shadow}
        object.__setattr__(self, "limits_tokens", not counted.isdisjoint(_TOKENS_OR_MONEY))

    def meters(self, subject: Subject) -> tuple[Meter, ...]:
        """A meter for every rule that applies, in the rules' order."""
        return tuple(
            Meter(rule.bucket(subject), self._cost(rule, subject.model))
            for rule in self.rules
            if rule.applies(subject)
        )

    def _cost(self, rule: LimitRule, model: str) -> Cost | None:
        return self.prices.of(model) if rule.dimension is Dimension.MONEY else rule.weights


def takes(meters: Sequence[Meter], usage: Usage) -> list[Take]:
    """What a request of this usage, often an expected one, takes from each bucket."""
    return [Take(meter.bucket, meter.amount(usage)) for meter in meters]


def charges(meters: Sequence[Meter], usage: Usage) -> Mapping[str, int]:
    """What a request of this usage is charged, by bucket key."""
    return {meter.bucket.key: meter.amount(usage) for meter in meters}


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits the whole name. Upper and lower case differ."""
    return any(pattern == "*" or fnmatchcase(name, pattern) for pattern in patterns)
