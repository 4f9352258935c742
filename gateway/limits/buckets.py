"""The interface to a limit store's buckets. The same tests run against each implementation.

A *slot* is a tenant. Calls for one slot are atomic to each other; nothing spans two slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from gateway.limits.usage import UsageRecord
from policies.limits.types import Bucket, Standing, Take
from policies.limits.verdict import Verdict

LATE_S: Final = 3_600.0
"""How long after the end of its lease a reservation can still be settled."""


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


class BucketStore(Protocol):
    """Reservations in buckets, by slot. A method of a store that is not in this process raises
    StoreUnavailable."""

    @property
    def volatile(self) -> bool:
        """Whether reservations end with this process. Then a request of an earlier process is not
        known, and must be adopted before it is settled."""
        ...

    @property
    def waits(self) -> bool:
        """Whether a call may have to wait, for what is not in this process. What never waits, from
        `adopt` to `standing`, can be run to its end at once."""
        ...

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        """Take everything or nothing. A reservation that is not settled within ``lease_s`` seconds
        is given back.

        Raises DuplicateReservation, and LimitError when two takes name one bucket.
        """
        ...

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        """Take everything, into debt if too little is left: for a reservation that was granted
        elsewhere.

        False, and nothing is done, when the reservation is known: a repeated call is harmless.
        """
        ...

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> int:
        """Let the leases of the reservations that are still held (not settled, lease not over) end
        ``lease_s`` seconds from now at the earliest. Returns the number of these."""
        ...

    async def settle(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None = None,
    ) -> bool:
        """End a reservation: in one step, charge each bucket, by its key, instead of the held
        amount, and count the usage.

        A held bucket without a charge is charged 0, so no charge and no usage gives everything
        back. A charge to a bucket that is not held (a shadow one that would have refused) is
        ignored. A user who would be one row too many for the tenant and day is counted under
        `gateway.limits.usage.OTHERS`.

        False, and nothing is done, when the reservation was settled before or is unknown. After the
        end of the lease it still charges, for `LATE_S`. Raises LimitError for an impossible charge.
        """
        ...

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """The standings of the buckets now, in their order."""
        ...

    async def close(self) -> None:
        """Finish what was begun, and let go of files and connections, also those for usage."""
        ...
