"""The interface of limit stores. The same tests run against each of them.

A *slot* is a tenant: calls for one slot are atomic to each other, nothing spans two slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from policies.limits.types import MAX_AMOUNT, Bucket, Standing, Take
from policies.limits.verdict import Verdict

LATE_S = 3_600.0
"""How long after its lease's end a reservation can still be settled."""
USAGE_DAYS = 400
"""How long usage rows are kept, by default."""
MAX_USERS_PER_DAY = 10_000
"""Most usage rows of a tenant and day that name a user, by default."""
OTHERS = "(others)"
"""User to whom usage is booked that would be one such row too many."""


class StoreUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The store did not answer in time or refused; the call may or may not have taken effect."""

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost
        """The connection broke or could not be made: the store may come back without its data."""


class DuplicateReservation(ValueError):  # noqa: N818 - reads as what it is
    """The reservation id is in use in this slot: ids must be unique among all pickers."""

    def __init__(self, slot: str, reservation_id: str) -> None:
        super().__init__(f"reservation {reservation_id!r} of {slot!r} exists: ids must be unique")


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What was used on a day (UTC) by one key and user of a tenant with one model.

    ``cached_tokens`` are part of ``input_tokens``; ``cost_micros`` are micro-units of money.
    """

    day: date
    key: str
    user: str
    model: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_micros: int
    requests: int = 1


def bounded(usage: UsageRecord) -> UsageRecord:
    """Of one settlement, as it is booked: each count from 0 to MAX_AMOUNT."""
    counts = (
        usage.input_tokens,
        usage.cached_tokens,
        usage.output_tokens,
        usage.cost_micros,
        usage.requests,
    )
    if min(counts) >= 0 and max(counts) <= MAX_AMOUNT:
        return usage
    within = (min(max(0, count), MAX_AMOUNT) for count in counts)
    return UsageRecord(usage.day, usage.key, usage.user, usage.model, *within)


class LimitStore(Protocol):
    """Reservations, buckets and usage by slot. Every method raises StoreUnavailable where the store
    is not in this process."""

    @property
    def patient(self) -> LimitStore:
        """The same store, for what can wait longer than a request: recovery."""
        ...

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        """Take everything or nothing. What was taken is given back after ``lease_s`` seconds unless
        settled before.

        Raises DuplicateReservation, and LimitError when two takes name one bucket.
        """
        ...

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        """Take everything whatever is left, into debt if need be: for what was granted elsewhere.

        False, and nothing done, when the reservation is known: calling it again is harmless.
        """
        ...

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> int:
        """Let the leases of those that are still held (neither settled nor over) end ``lease_s``
        seconds from now at the earliest; how many these are."""
        ...

    async def settle(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None = None,
    ) -> bool:
        """End a reservation: charge each bucket, by its key, instead of what was held, and add the
        usage, at once. A held bucket without a charge is charged 0; charges to buckets that are
        not held (shadow ones that would have refused) are ignored. What is used by a user who
        would be one row too many for the tenant and day is booked to `OTHERS`.

        False, and nothing done, when it was settled before or is unknown. After the lease's end it
        still charges, for `LATE_S`. Raises LimitError for a charge that cannot be.
        """
        ...

    async def release(self, slot: str, reservation_id: str) -> bool:
        """Settle without any charge or usage."""
        ...

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """How the buckets stand now, in their order."""
        ...

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """One summed row for each day, key, user and model, in this order, both days included."""
        ...

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """The slots that have usage on any of the days, both included, by name. It may name one
        whose settlements came to nothing."""
        ...

    async def check(self) -> None:
        """Return when the store answers."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of connections."""
        ...
