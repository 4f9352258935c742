"""What happens to limits while their store is away, and how it is made up for afterwards.

While the store is *down* nobody waits for it: reservations are decided here (`OnStoreFailure`),
settlements are queued, and one task asks the store, now and then, whether it is back. Then, in this
order: what was granted here and is still in flight is adopted by the store, into debt if need be;
leases that were renewed here are renewed there, unless the store has let them end; queued
settlements are delivered, each exactly once; only then do reservations go to the store again.

Exactly once rests on the store: a settlement ends its reservation, so a repeated one finds nothing.
While one is under way or was queued here its repetitions are refused here, since adopting may bring
the reservation back: a reservation may only be settled through the `FallbackStore` that made it.
If the store comes back without its data, what is in flight is adopted anew; so is a reservation
whose lease runs and that the store does not know (any more), when it is renewed or settled. Only
settlements that were on their way when it broke stay lost with the rest, because they may have been
done.

Recovery is patient (`LimitStore.patient`): a store that is too slow for requests is still given
what they used, while decisions are made here. So is the end: `close` delivers what waits for some
seconds; what is left then is lost, and logged by tenant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from fractions import Fraction
from typing import Final

from gateway.limits.memory.store import MemoryStore
from gateway.limits.outage.records import (
    Counters,
    Outstanding,
    Settlement,
    totals,
)
from gateway.limits.store import LATE_S, LimitStore, StoreUnavailable, UsageRecord
from policies.limits.plan import OnStoreFailure
from policies.limits.share import scaled_take
from policies.limits.types import Bucket, Standing, Take, check_amount
from policies.limits.verdict import Granted, Verdict

_LOG: Final = logging.getLogger("penstock.limits")
_BATCH: Final = 256
_MIN_LEASE_S: Final = 1.0
_LAST_RETRY_S: Final = 0.1


class FallbackStore:
    """`LimitStore` that decides by itself while the one it wraps is down. One event loop."""

    def __init__(
        self,
        store: LimitStore,
        *,
        mode_of: Callable[[str], OnStoreFailure],
        share: Fraction = Fraction(1),
        failures: int = 3,
        retry_s: float = 0.2,
        max_retry_s: float = 1.0,
        max_pending: int = 100_000,
        close_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        share_store: MemoryStore | None = None,
    ) -> None:
        """``mode_of`` a slot. ``share``: one over the number of pickers.

        Down after ``failures`` calls in a row without an answer, or one lost connection. The first
        question whether it is back comes after ``retry_s``, then doubling up to ``max_retry_s``.
        ``close_s``: most time that `close` takes to deliver what waits. Raises ValueError for a
        share that is not above 0 and at most 1.
        """
        self.counters = Counters()
        self._store, self._patient = store, store.patient
        self._mode_of = mode_of
        self.set_share(share)
        self._share_store = share_store or MemoryStore()
        self._max_failures = failures
        self._retry_s, self._max_retry_s = retry_s, max_retry_s
        self._max_pending = max_pending
        self._close_s = close_s
        self._clock = clock
        self._outstanding: dict[tuple[str, str], Outstanding] = {}
        self._pending: deque[Settlement] = deque()
        self._settled: dict[tuple[str, str], float] = {}
        self._failures = 0
        self._down = False
        self._lost = False
        self._losses = 0
        self._closing = False
        self._mender: asyncio.Task[None] | None = None

    @property
    def patient(self) -> FallbackStore:
        """See `LimitStore.patient`: nobody waits long for this one."""
        return self

    def set_share(self, share: Fraction) -> None:
        """From now on: one over the number of pickers. What was granted stays granted. Raises
        ValueError for one that is not above 0 and at most 1."""
        if not 0 < share <= 1:
            raise ValueError(f"the share must be above 0 and at most 1, got {share}")
        self._share = share

    @property
    def down(self) -> bool:
        """Whether decisions are made here."""
        return self._down

    @property
    def pending(self) -> int:
        """Settlements waiting for the store."""
        return len(self._pending)

    def lost(self) -> None:
        """The store may have lost its data, and is perhaps back already: what is in flight is
        adopted anew, at once. It is harmless to be wrong."""
        self._lost = True
        self._losses += 1
        self._mend()

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        """See `LimitStore.reserve`. StoreUnavailable only under `OnStoreFailure.CLOSED`."""
        self._forget_old()
        sent = not self._down
        if not sent:
            self._mend()
        else:
            try:
                given = await self._store.reserve(slot, reservation_id, takes, lease_s)
            except StoreUnavailable as error:
                self._failed(error)
            except asyncio.CancelledError:
                self._queue(Settlement(slot, reservation_id, {}, None, None))
                raise
            else:
                self._failures = 0
                if isinstance(given, Granted):
                    self._remember(slot, reservation_id, takes, lease_s, adopt=False)
                return given
        verdict: Verdict | None = None
        with contextlib.suppress(StoreUnavailable):
            verdict = await self._decide(slot, reservation_id, takes, lease_s)
        if sent and not isinstance(verdict, Granted):  # the store may hold it nevertheless
            self._queue(Settlement(slot, reservation_id, {}, None, None))
        if verdict is None:
            raise StoreUnavailable("the limit store is down and limits fail closed")
        return verdict

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        """See `LimitStore.adopt`. While down: remembered for later, and True."""
        if not self._down:
            try:
                adopted = await self._store.adopt(slot, reservation_id, takes, lease_s)
            except StoreUnavailable as error:
                self._failed(error)
            else:
                self._remember(slot, reservation_id, takes, lease_s, adopt=False)
                return adopted
        self._remember(slot, reservation_id, takes, lease_s, adopt=True)
        return True

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> int:
        """See `LimitStore.renew`. Never StoreUnavailable: what the store cannot be told now is
        kept here, and adopted for as long. Only what was reserved here is renewed."""
        now_s = self._clock()
        until_s = now_s + lease_s
        held = [id_ for id_ in reservation_ids if self._keep(slot, id_, now_s, until_s)]
        shared = [id_ for id_ in held if self._outstanding[slot, id_].shared]
        if shared:
            await self._share_store.renew(slot, shared, lease_s)
        theirs = [
            kept
            for id_ in held
            if (kept := self._outstanding.get((slot, id_))) is not None and not kept.adopt
        ]
        if not theirs:
            return len(held)
        if not self._down:
            try:
                renewed = await self._store.renew(slot, [kept.id for kept in theirs], lease_s)
            except StoreUnavailable as error:
                self._failed(error)
            else:
                self._failures = 0
                if renewed >= len(theirs):
                    return len(held)
                # The store has lost some; those that it has it does not adopt.
                for kept in theirs:
                    kept.adopt = self._is_outstanding(kept)
        for kept in theirs:
            kept.behind = True
        self._mend()
        return len(held)

    async def settle(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None = None,
    ) -> bool:
        """See `LimitStore.settle`. Never StoreUnavailable: what cannot be delivered now is queued,
        and True."""
        for key, charge in charges.items():
            check_amount(f"charge to {key!r}", charge)
        name = (slot, reservation_id)
        if name in self._settled:
            return False
        self._settled[name] = self._clock() + LATE_S
        reservation = self._outstanding.pop(name, None)
        if reservation is not None and reservation.shared:
            await self._share_store.settle(slot, reservation_id, charges)
        running = reservation is not None and reservation.lease_until_s > self._clock()
        job = Settlement(slot, reservation_id, dict(charges), usage, reservation, running)
        if self._down or (reservation is not None and reservation.adopt):
            return self._queue(job)
        try:
            done = await self._store.settle(slot, reservation_id, charges, usage)
        except StoreUnavailable as error:
            self._failed(error)
            job.attempted = True
            return self._queue(job)
        except asyncio.CancelledError:
            job.attempted = True
            self._queue(job)
            raise
        self._failures = 0
        if not done and (lost := job.lost()) is not None:
            self.counters.forgotten += 1
            lost.adopt = True
            return self._queue(job)
        self._settled.pop(name, None)
        return done

    async def release(self, slot: str, reservation_id: str) -> bool:
        """See `LimitStore.release`; queued like a settlement."""
        return await self.settle(slot, reservation_id, {})

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """See `LimitStore.standing`. While down: of the local share, or StoreUnavailable."""
        if not self._down:
            try:
                return await self._store.standing(slot, buckets)
            except StoreUnavailable as error:
                self._failed(error)
        if self._mode_of(slot) is not OnStoreFailure.SHARE:
            raise StoreUnavailable("the limit store is down")
        shares = [scaled_take(Take(bucket, 0), self._share).bucket for bucket in buckets]
        return await self._share_store.standing(slot, shares)

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `LimitStore.usage`. StoreUnavailable while down; without what is queued."""
        if self._down:
            raise StoreUnavailable("the limit store is down")
        return await self._store.usage(slot, first, last)

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `LimitStore.usage_slots`. StoreUnavailable while down; without what is queued."""
        if self._down:
            raise StoreUnavailable("the limit store is down")
        return await self._store.usage_slots(first, last)

    async def check(self) -> None:
        """Return when the store answers."""
        await self._store.check()

    async def close(self) -> None:
        """Deliver what waits, for ``close_s`` at most, then close the store."""
        self._closing = True
        if self._mender is not None:
            self._mender.cancel()
            await asyncio.wait({self._mender})
        try:
            async with asyncio.timeout(self._close_s):
                while self._behind() and not await self._reconcile():  # noqa: ASYNC110
                    await asyncio.sleep(_LAST_RETRY_S)
        except TimeoutError:
            _LOG.warning("limit store is too slow or away at the end")
        if self._pending:
            count = len(self._pending)
            _LOG.error("%d settlements are lost; %s", count, totals(self._pending))
            self.counters.dropped += count
        await self._store.close()

    def _behind(self) -> bool:
        """Whether the store is to be told something."""
        now_s = self._clock()
        return bool(self._pending) or any(
            kept.behind or (kept.adopt and kept.lease_until_s > now_s)
            for kept in self._outstanding.values()
        )

    async def _decide(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        mode = self._mode_of(slot)
        if mode is OnStoreFailure.CLOSED:
            self.counters.refused_closed += 1
            raise StoreUnavailable("the limit store is down")
        if mode is OnStoreFailure.OPEN:
            self.counters.granted_open += 1
            self._remember(slot, reservation_id, takes, lease_s, adopt=True)
            return Granted(())
        verdict = await self._share_store.reserve(
            slot, reservation_id, [scaled_take(take, self._share) for take in takes], lease_s
        )
        if isinstance(verdict, Granted):
            self.counters.granted_share += 1
            self._remember(slot, reservation_id, takes, lease_s, adopt=True, shared=True)
        else:
            self.counters.denied_share += 1
        return verdict

    def _remember(
        self,
        slot: str,
        reservation_id: str,
        takes: Sequence[Take],
        lease_s: float,
        *,
        adopt: bool,
        shared: bool = False,
    ) -> None:
        until_s = self._clock() + lease_s
        self._outstanding[slot, reservation_id] = Outstanding(
            slot, reservation_id, takes, until_s, adopt, shared
        )
        if adopt and not self._down:
            self._mend()

    def _keep(self, slot: str, reservation_id: str, now_s: float, until_s: float) -> bool:
        """Let its lease end later; whether it had not ended."""
        reservation = self._outstanding.get((slot, reservation_id))
        if reservation is None or reservation.lease_until_s <= now_s:
            return False
        reservation.lease_until_s = max(reservation.lease_until_s, until_s)
        # The order is that of leases' ends, roughly: see `_forget_old`.
        self._outstanding[slot, reservation_id] = self._outstanding.pop((slot, reservation_id))
        return True

    def _forget_old(self) -> None:
        """Reservations that nobody settled, when the store has forgotten them, too; settlements
        that were queued, when nobody repeats them any more."""
        oldest_s = self._clock() - LATE_S
        while self._outstanding:
            key = next(iter(self._outstanding))
            if self._outstanding[key].lease_until_s > oldest_s:
                break
            del self._outstanding[key]
        while self._settled:
            key = next(iter(self._settled))
            if self._settled[key] > self._clock() and len(self._settled) <= 2 * self._max_pending:
                break
            del self._settled[key]

    def _queue(self, job: Settlement) -> bool:
        if len(self._pending) >= self._max_pending:
            self._pending.popleft()
            self.counters.dropped += 1
            if self.counters.dropped % 1_000 == 1:
                _LOG.error(
                    "limit store is away and %d settlements wait: the oldest are lost (%d so far)",
                    self._max_pending,
                    self.counters.dropped,
                )
        self._pending.append(job)
        self.counters.queued += 1
        self._mend()
        return True

    def _failed(self, error: StoreUnavailable) -> None:
        self._failures += 1
        self.counters.unanswered += 1
        self._lost = self._lost or error.lost
        if not self._down and (error.lost or self._failures >= self._max_failures):
            self._down = True
            self.counters.outages += 1
            _LOG.warning("limit store is down: %s; deciding without it", error)
            self._mend()

    def _mend(self) -> None:
        if self._mender is None and not self._closing:
            self._mender = asyncio.create_task(self._until_mended(), name="limit store recovery")

    async def _until_mended(self) -> None:
        wait_s = self._retry_s
        try:
            while True:
                fast = True
                if self._down:
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, self._max_retry_s)
                    fast = await self._answers(self._store)
                    if not fast and not await self._answers(self._patient):
                        continue
                losses = self._losses
                if await self._reconcile(in_full=fast):
                    if self._losses != losses:
                        continue
                    self._lost = False
                    if fast:
                        break
                elif not self._down:
                    await asyncio.sleep(self._retry_s)
            if self._down:
                _LOG.warning("limit store is back; %d delivered so far", self.counters.delivered)
            self._down = False
            self._failures = 0
        finally:
            self._mender = None

    async def _answers(self, store: LimitStore) -> bool:
        try:
            await store.check()
        except StoreUnavailable as error:
            self._lost = self._lost or error.lost
            return False
        return True

    async def _reconcile(self, *, in_full: bool = True) -> bool:
        """Adopt and deliver; whether the store answered to all. ``in_full``: until nothing is
        left, what comes meanwhile as well; otherwise what is there now."""
        everything = self._lost
        batches = -(-len(self._pending) // _BATCH)
        while True:
            now_s = self._clock()
            held = [
                reservation
                for reservation in self._outstanding.values()
                if (reservation.adopt or everything) and reservation.lease_until_s > now_s
            ]
            everything = False
            for i in range(0, len(held), _BATCH):
                batch = [kept for kept in held[i : i + _BATCH] if self._is_outstanding(kept)]
                if not all(await asyncio.gather(*map(self._adopt, batch))):
                    return False
            if not await self._renew_all():
                return False
            if self._pending and not await self._deliver_some():
                return False
            batches -= 1
            if not self._behind() or (batches <= 0 and not in_full):
                return True

    def _is_outstanding(self, reservation: Outstanding) -> bool:
        """Still, and nobody is settling it."""
        return self._outstanding.get((reservation.slot, reservation.id)) is reservation

    async def _adopt(self, reservation: Outstanding) -> bool:
        """Have the store hold it; whether it answered."""
        reservation.adopt = True  # whoever settles it meanwhile is to wait
        lease_s = max(reservation.lease_until_s - self._clock(), _MIN_LEASE_S)
        try:
            await self._patient.adopt(reservation.slot, reservation.id, reservation.takes, lease_s)
        except StoreUnavailable as error:
            self._failed(error)
            return False
        reservation.adopt = False
        self.counters.adopted += 1
        return True

    async def _renew_all(self) -> bool:
        """Tell the store of leases that were renewed without it; whether it answered."""
        behind: dict[str, list[Outstanding]] = {}
        for reservation in self._outstanding.values():
            if reservation.behind:
                reservation.behind = False
                behind.setdefault(reservation.slot, []).append(reservation)
        while behind:
            slot, some = behind.popitem()
            lease_s = max(reservation.lease_until_s for reservation in some) - self._clock()
            try:
                await self._patient.renew(
                    slot, [reservation.id for reservation in some], max(lease_s, _MIN_LEASE_S)
                )
            except StoreUnavailable as error:
                self._failed(error)
                for reservation in (*some, *(r for others in behind.values() for r in others)):
                    reservation.behind = True
                return False
        return True

    async def _deliver_some(self) -> bool:
        """Deliver a batch; whether the store answered to all; the others wait on."""
        jobs = [self._pending.popleft() for _ in range(min(_BATCH, len(self._pending)))]
        try:
            answered = await asyncio.gather(*map(self._deliver, jobs))
        except asyncio.CancelledError:
            self._pending.extendleft(reversed(jobs))
            raise
        left = [job for job, done in zip(jobs, answered, strict=True) if not done]
        self._pending.extendleft(reversed(left))
        return not left

    async def _deliver(self, job: Settlement) -> bool:
        reservation = job.reservation
        if (
            reservation is not None
            and (reservation.adopt or (self._lost and not job.attempted))
            and not await self._adopt(reservation)
        ):
            return False
        lost = None if job.attempted else job.lost()
        job.attempted = True
        try:
            done = await self._patient.settle(job.slot, job.id, job.charges, job.usage)
            if not done and lost is not None:
                self.counters.forgotten += 1
                job.attempted = False
                if not await self._adopt(lost):
                    return False
                job.attempted = True
                done = await self._patient.settle(job.slot, job.id, job.charges, job.usage)
        except StoreUnavailable as error:
            self._failed(error)
            return False
        except Exception:  # noqa: BLE001 - one bad settlement must not hold up the others
            _LOG.exception("settlement %s of %s cannot be delivered", job.id, job.slot)
            self.counters.dropped += 1
            return True
        if done:
            self.counters.delivered += 1
        else:
            self.counters.unknown += 1
        return True
