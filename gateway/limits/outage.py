"""What is kept during an outage of the limit store: how to decide, what to make up for, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.limits.store import UsageRecord
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
    attempted: bool = False
    """It may have been done."""
