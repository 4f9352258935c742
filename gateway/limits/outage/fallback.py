"""A limit store that goes on while the store that it wraps is down, and makes up for it afterwards.

While the store is *down* no request waits for it: `LocalLimits` decides, settlements are queued,
and one task asks the store from time to time whether it answers. When it does, `Recovery` brings it
up to date, and only then does it decide again.

Every settlement is done exactly once. The store sees to that: a settlement ends its reservation, so
a repeated one finds nothing. But the store may adopt a reservation again, so while its settlement
is under way, or after it was queued here, repetitions are refused here. For that reason a
reservation may only be settled through the `FallbackStore` that made it. A reservation is adopted
when the store may have lost its data, and when it does not know a reservation whose lease runs.
Only settlements that were under way when the store lost its data stay lost, because they may have
been done.

Recovery is patient: a store that is too slow for requests still gets the settlements, while
decisions are made here. The end is patient, too: `close` delivers what waits for some seconds; what
is left then is lost, and logged by tenant.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Final, Protocol

from gateway.limits.buckets import BucketStore, StoreUnavailable
from gateway.limits.outage.local import LocalLimits
from gateway.limits.outage.records import Record, Records, totals
from gateway.limits.outage.recovery import Recovery
from gateway.limits.outage.states import (
    RecordEvent,
    RecordState,
    StoreEvent,
    StoreMode,
    store_after,
)
from gateway.limits.usage import UsageRecord, UsageStore
from policies.limits.types import Bucket, Standing, Take, check_amount
from policies.limits.verdict import Granted, Verdict

_LOG: Final = logging.getLogger("penstock.limits")
_LAST_RETRY_S: Final = 0.1
_NO_RECOVERY: Final = (StoreMode.UP, StoreMode.CLOSING)


class RemoteStore(BucketStore, UsageStore, Protocol):
    """A store that is not in this process."""

    async def check(self) -> None:
        """Return when the store answers. Raises StoreUnavailable."""
        ...


class FallbackStore:
    """`BucketStore` and `UsageStore`. Use it from one event loop."""

    volatile = False
    """See `BucketStore.volatile`."""
    waits = True
    """See `BucketStore.waits`."""

    def __init__(
        self,
        store: RemoteStore,
        *,
        patient: RemoteStore,
        local: LocalLimits,
        failures: int = 3,
        retry_s: float = 0.2,
        max_retry_s: float = 1.0,
        max_pending: int = 100_000,
        close_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``patient``: the same store with timeouts for recovery, longer than requests can wait.

        The store is down after ``failures`` calls in a row without an answer, or after one lost
        connection. It is first asked whether it answers after ``retry_s``, then at intervals that
        double up to ``max_retry_s``. ``max_pending``: settlements that wait. ``close_s``: the
        longest time that `close` takes to deliver these.
        """
        self.counters = local.counters
        self._store, self._patient, self._local = store, patient, local
        self._max_failures = failures
        self._retry_s, self._max_retry_s = retry_s, max_retry_s
        self._close_s = close_s
        self._records = Records(max_waiting=max_pending, counters=self.counters, clock=clock)
        self._recovery = Recovery(
            patient, self._records, self.counters, failed=self._failed, clock=clock
        )
        self._clock = clock
        self._mode = StoreMode.UP
        self._failures = 0
        self._recovering: asyncio.Task[None] | None = None

    @property
    def mode(self) -> StoreMode:
        """Who decides, and what is done for the store."""
        return self._mode

    @property
    def pending(self) -> int:
        """Number of settlements that wait for the store."""
        return len(self._records.waiting)

    def lost(self) -> None:
        """The store may have lost its data, and may be back already: it adopts what is in flight,
        at once. A false alarm is harmless."""
        self._records.lost()
        self._on(StoreEvent.MISSED)

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        """See `BucketStore.reserve`. Raises StoreUnavailable only for tenants that fail closed."""
        self._records.forget_old()
        sent = not self._mode.down
        if sent:
            try:
                verdict = await self._store.reserve(slot, reservation_id, takes, lease_s)
            except StoreUnavailable as error:
                self._failed(error)
            except BaseException:  # cancelled, or a fault of ours: the store may hold it
                self._release_later(slot, reservation_id)
                raise
            else:
                self._failures = 0
                if isinstance(verdict, Granted):
                    self._begin(slot, reservation_id, takes, lease_s)
                return verdict
        granted = False
        try:
            verdict, shared = await self._local.reserve(slot, reservation_id, takes, lease_s)
            granted = isinstance(verdict, Granted)
        finally:
            if sent and not granted:  # the store may hold it all the same
                self._release_later(slot, reservation_id)
        if granted:
            record = self._begin(slot, reservation_id, takes, lease_s, RecordState.ABSENT)
            record.shared = shared
        return verdict

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        """See `BucketStore.adopt`. While the store is down: it will adopt it later, and True."""
        adopted, state = True, RecordState.ABSENT
        if not self._mode.down:
            try:
                adopted = await self._store.adopt(slot, reservation_id, takes, lease_s)
                state = RecordState.HELD
            except StoreUnavailable as error:
                self._failed(error)
        self._begin(slot, reservation_id, takes, lease_s, state)
        return adopted

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> int:
        """See `BucketStore.renew`. Never StoreUnavailable: a store that does not answer now learns
        of it later. Only reservations that were made here are renewed."""
        held = [
            record
            for id_ in reservation_ids
            if (record := self._records.extend(slot, id_, lease_s)) is not None
        ]
        if shared := [record.id for record in held if record.shared]:
            await self._local.renew(slot, shared, lease_s)
        theirs = [record for record in held if record.state is not RecordState.ABSENT]
        if not theirs:
            return len(held)
        missed = RecordEvent.EXTENDED
        if not self._mode.down:
            try:
                renewed = await self._store.renew(slot, [record.id for record in theirs], lease_s)
            except StoreUnavailable as error:
                self._failed(error)
            else:
                self._failures = 0
                if renewed >= len(theirs):
                    return len(held)
                missed = RecordEvent.LOST  # some are; the store will know the others
        for record in theirs:
            record.on(missed)
        self._on(StoreEvent.MISSED)
        return len(held)

    async def settle(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None = None,
    ) -> bool:
        """See `BucketStore.settle`. Never StoreUnavailable: a settlement that cannot be delivered
        now is queued, and True."""
        for key, charge in charges.items():
            check_amount(f"charge to {key!r}", charge)
        if not self._mode.down:  # nothing is sent to a store that may have lost the reservation
            self._records.apply_losses()
        record = self._records.end(slot, reservation_id, charges, usage)
        if record is None:
            return False
        if record.shared:
            await self._local.settle(slot, reservation_id, charges)
        if self._mode.down or record.state is RecordState.UNADOPTED:
            return self._queue(record)
        record.on(RecordEvent.SEND)
        try:
            done = await self._store.settle(slot, reservation_id, charges, usage)
        except StoreUnavailable as error:
            self._failed(error)
            record.on(RecordEvent.UNANSWERED)
            return self._queue(record)
        except asyncio.CancelledError:
            record.on(RecordEvent.UNANSWERED)
            self._queue(record)
            raise
        self._failures = 0
        if not record.answered(done=done):
            self.counters.forgotten += 1
            return self._queue(record)
        self._records.close(record)
        return done

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """See `BucketStore.standing`. While the store is down: of the local share, or
        StoreUnavailable."""
        if not self._mode.down:
            try:
                return await self._store.standing(slot, buckets)
            except StoreUnavailable as error:
                self._failed(error)
        return await self._local.standing(slot, buckets)

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `UsageStore.usage`. StoreUnavailable while the store is down, because what is queued
        would be missing."""
        self._require_up()
        return await self._store.usage(slot, first, last)

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `UsageStore.usage_slots`; like `usage`."""
        self._require_up()
        return await self._store.usage_slots(first, last)

    async def close(self) -> None:
        """Deliver what waits, for ``close_s`` at most, then close the store."""
        self._on(StoreEvent.CLOSE)
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait({self._recovering})
        try:
            async with asyncio.timeout(self._close_s):
                while (  # noqa: ASYNC110 - the store is asked, and nothing tells when it answers
                    self._records.behind and not await self._recovery.run(in_full=True)
                ):
                    await asyncio.sleep(_LAST_RETRY_S)
        except TimeoutError:
            _LOG.warning("limit store is too slow or away at the end")
        if self.pending:
            lost = self._records.waiting
            _LOG.error("%d settlements are lost; %s", len(lost), totals(lost))
            self.counters.dropped += len(lost)
        await self._store.close()

    def _require_up(self) -> None:
        if self._mode.down:
            raise StoreUnavailable("the limit store is down")

    def _begin(
        self,
        slot: str,
        reservation_id: str,
        takes: Sequence[Take],
        lease_s: float,
        state: RecordState = RecordState.HELD,
    ) -> Record:
        record = Record(slot, reservation_id, state, takes, self._clock() + lease_s)
        self._records.begin(record)
        if state is RecordState.ABSENT:
            self._on(StoreEvent.MISSED)
        return record

    def _release_later(self, slot: str, reservation_id: str) -> None:
        self._queue(Record(slot, reservation_id, RecordState.SENT))

    def _queue(self, record: Record) -> bool:
        self._records.queue(record)
        self._on(StoreEvent.MISSED)
        return True

    def _failed(self, error: StoreUnavailable) -> None:
        self._failures += 1
        self.counters.unanswered += 1
        if error.lost:
            self._records.lost()
        if error.lost or self._failures >= self._max_failures or self._mode.down:
            if not self._mode.down:
                self.counters.outages += 1
                _LOG.warning("limit store is down: %s; deciding without it", error)
            self._on(StoreEvent.FAILED)

    def _on(self, event: StoreEvent) -> None:
        self._mode = store_after(self._mode, event)
        if self._recovering is None and self._mode not in _NO_RECOVERY:
            self._recovering = asyncio.create_task(self._recover(), name="limit store recovery")

    async def _recover(self) -> None:
        wait_s = self._retry_s
        try:
            while self._mode not in _NO_RECOVERY:
                if self._mode is StoreMode.DOWN:
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, self._max_retry_s)
                    if await self._answers(self._store):
                        self._on(StoreEvent.ANSWERED)
                    elif await self._answers(self._patient):
                        self._on(StoreEvent.ANSWERED_LATE)
                    else:
                        continue
                if await self._recovery.run(in_full=self._mode is not StoreMode.SLOW):
                    self._caught_up()
                elif not self._mode.down:
                    await asyncio.sleep(self._retry_s)
        finally:
            self._recovering = None

    def _caught_up(self) -> None:
        was_down = self._mode.down
        self._on(StoreEvent.CAUGHT_UP)
        if self._mode is StoreMode.UP:
            self._failures = 0
            if was_down:
                _LOG.warning("limit store is back; %d delivered so far", self.counters.delivered)

    async def _answers(self, store: RemoteStore) -> bool:
        try:
            await store.check()
        except StoreUnavailable as error:
            if error.lost:
                self._records.lost()
            return False
        return True
