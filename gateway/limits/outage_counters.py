"""What outages of the limit store did, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class OutageCounters:
    """Each number only grows."""

    outages: int = 0
    unanswered: int = 0
    """Calls of the store that failed: too late, refused, or without a connection."""
    granted_open: int = 0
    granted_share: int = 0
    denied_share: int = 0
    refused_closed: int = 0
    adopted: int = 0
    """Reservations that the store was to adopt and holds now."""
    queued: int = 0
    """Settlements that had to wait, and releases of reservations that the store may hold in
    vain."""
    delivered: int = 0
    """Settlements that waited and are done."""
    unknown: int = 0
    """Settlements that waited and whose reservations the store does not know (any more)."""
    forgotten: int = 0
    """Settlements whose reservations the store had lost, and was made to adopt again."""
    dropped: int = 0
    """Settlements given up: too many waited, the store was down at the end, or they can never be
    done."""
