"""What is kept during an outage of the limit store: how to decide, what to make up for, counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add

from gateway.limits.store import UsageRecord
from policies.limits.prices import MICROS
from policies.limits.types import Take


@dataclass(slots=True)
class Counters:
    """For metrics; each only grows."""

    outages: int = 0
    unanswered: int = 0
    """Calls of the store that failed: late, refused, or without a connection."""
    granted_open: int = 0
    granted_share: int = 0
    denied_share: int = 0
    refused_closed: int = 0
    adopted: int = 0
    """Reservations granted here that the store holds now, or had held all along."""
    queued: int = 0
    """Settlements, and releases of what the store may hold in vain."""
    delivered: int = 0
    unknown: int = 0
    """Delivered settlements that the store did not know (any more)."""
    forgotten: int = 0
    """Settlements of reservations that the store had lost, and that were adopted anew."""
    dropped: int = 0
    """Settlements given up: too many were waiting, the store was down when this was closed, or they
    cannot be delivered at all."""


@dataclass(slots=True)
class Outstanding:
    """A reservation granted here or by the store, and not settled yet."""

    slot: str
    id: str
    takes: Sequence[Take]
    lease_until_s: float
    adopt: bool
    """The store does not hold it, as far as is known."""
    shared: bool = False
    """The local share holds it."""
    behind: bool = False
    """The store may not know how long its lease is by now."""


@dataclass(slots=True)
class Settlement:
    """One that waits for the store."""

    slot: str
    id: str
    charges: Mapping[str, int]
    usage: UsageRecord | None
    reservation: Outstanding | None
    running: bool = False
    """The reservation's lease had not ended: a store that does not know it has lost it."""
    attempted: bool = False
    """It may have been done."""

    def lost(self) -> Outstanding | None:
        """The reservation that the store has lost, and something with it, if it does not know it
        at the first attempt."""
        return self.reservation if self.running and (self.charges or self.usage) else None


def totals(lost: Iterable[Settlement]) -> str:
    """What is lost with settlements, for the log: all together, and the most of each tenant."""
    by_slot: dict[str, list[int]] = {}
    for job in lost:
        if job.usage is not None:
            sums = by_slot.setdefault(job.slot, [0, 0, 0, 0])
            used = job.usage
            counts = (used.requests, used.input_tokens, used.output_tokens, used.cost_micros)
            sums[:] = map(add, sums, counts)
    most = sorted(by_slot.items(), key=lambda item: item[1], reverse=True)[:_NAMED]
    everything = [sum(column) for column in zip(*by_slot.values(), strict=True)] or [0] * 4
    return "; ".join(
        f"{whose}: {n} requests, {i} input and {o} output tokens, {c / MICROS:.6f} of money"
        for whose, (n, i, o, c) in (
            (f"in all, of {len(by_slot)} tenants", everything),
            *((repr(slot), sums) for slot, sums in most),
        )
    )


_NAMED = 20
