"""Decisions without the limit store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from gateway.limits.buckets import BucketStore, StoreUnavailable
from gateway.limits.outage_counters import OutageCounters
from policies.limits.plan import OnStoreFailure
from policies.limits.share import scaled_take
from policies.limits.types import Bucket, Standing, Take
from policies.limits.verdict import Granted, Verdict


class LocalLimits:
    """Decides by tenant, as `OnStoreFailure` says."""

    def __init__(
        self,
        buckets: BucketStore,
        *,
        mode_of: Callable[[str], OnStoreFailure],
        share: Callable[[], Fraction],
    ) -> None:
        """``buckets``: for the share; in this process. ``mode_of``: by slot. ``share``: of every
        limit, above 0 and at most 1: one over the number of pickers."""
        self.counters = OutageCounters()
        self._buckets = buckets
        self._mode_of = mode_of
        self._share = share

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> tuple[Verdict, bool]:
        """The verdict, and whether the share holds the reservation. Raises StoreUnavailable for a
        tenant that fails closed."""
        mode = self._mode_of(slot)
        if mode is OnStoreFailure.CLOSED:
            self.counters.refused_closed += 1
            raise StoreUnavailable("the limit store is down and limits fail closed")
        if mode is OnStoreFailure.OPEN:
            self.counters.granted_open += 1
            return Granted(()), False
        share = self._share()
        verdict = await self._buckets.reserve(
            slot, reservation_id, [scaled_take(take, share) for take in takes], lease_s
        )
        granted = isinstance(verdict, Granted)
        if granted:
            self.counters.granted_share += 1
        else:
            self.counters.denied_share += 1
        return verdict, granted

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> None:
        """Renew reservations that the share holds."""
        await self._buckets.renew(slot, reservation_ids, lease_s)

    async def settle(self, slot: str, reservation_id: str, charges: Mapping[str, int]) -> None:
        """Settle a reservation that the share holds."""
        await self._buckets.settle(slot, reservation_id, charges)

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """The standings of the share. Raises StoreUnavailable for a tenant without one."""
        if self._mode_of(slot) is not OnStoreFailure.SHARE:
            raise StoreUnavailable("the limit store is down")
        share = self._share()
        shares = [scaled_take(Take(bucket, 0), share).bucket for bucket in buckets]
        return await self._buckets.standing(slot, shares)
