"""Endpoints that a pool should have, and changes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from picker.request.role import Role

EndpointKey = tuple[str, str]
"""Pool and address."""


@dataclass(frozen=True, slots=True)
class KvPorts:
    """Where an endpoint publishes what its prefix cache holds, on the address's host."""

    port: int
    """Of vLLM's KV events."""
    replay_port: int | None = None
    """Where earlier ones can be asked for; None: nowhere."""


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """An endpoint that the pool should have."""

    address: str
    """``ip:port``."""
    draining: bool = False
    """Finishes what it has, gets nothing new."""
    role: Role = Role.BOTH
    rank: int | None = None
    """Data-parallel rank of the engine behind the address; None: the engine has no ranks."""
    labels: tuple[tuple[str, str], ...] = ()
    """Names and values, sorted by name."""
    kv_events: KvPorts | None = None
    """None: not known of this endpoint in particular."""


@dataclass(frozen=True, slots=True)
class EndpointChanges:
    """How the endpoints of a pool change. False when nothing does."""

    pool: str
    upserts: tuple[EndpointSpec, ...] = ()
    """New endpoints, and those that stay but are no longer as they were."""
    deletes: tuple[str, ...] = ()
    """Addresses of endpoints that are gone."""

    def __bool__(self) -> bool:
        return bool(self.upserts or self.deletes)

    def apply_to(self, endpoints: dict[str, EndpointSpec]) -> None:
        """Change these, by address."""
        for address in self.deletes:
            endpoints.pop(address, None)
        endpoints.update((spec.address, spec) for spec in self.upserts)


def changes_between(
    pool: str, before: Mapping[str, EndpointSpec], after: Iterable[EndpointSpec]
) -> EndpointChanges:
    """What leads from the endpoints ``before``, by address, to those ``after``; of several with
    one address the last one counts."""
    wanted = {spec.address: spec for spec in after}
    return EndpointChanges(
        pool,
        tuple(spec for address, spec in wanted.items() if before.get(address) != spec),
        tuple(address for address in before if address not in wanted),
    )


@dataclass(frozen=True, slots=True)
class SlotChanges:
    """Endpoints that came and went, with their slots."""

    added: Mapping[str, int]
    """Address to slot."""
    removed: Mapping[str, int]
    """Address to the slot that it had. The slot is free or has another owner already: whatever is
    known by slot must forget this one."""
