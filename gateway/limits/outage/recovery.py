"""Brings a limit store up to date that was down, or that lost its data.

In this order: the store adopts running reservations that it does not hold, into debt if too little
is left; it renews leases that were renewed without it, unless it has let them end; and it gets the
settlements that wait, each exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from gateway.limits.buckets import BucketStore, StoreUnavailable
from gateway.limits.outage.records import Record, Records
from gateway.limits.outage.states import RecordEvent, RecordState
from gateway.limits.outage_counters import OutageCounters

_LOG: Final = logging.getLogger("penstock.limits")
_BATCH: Final = 256
_MIN_LEASE_S: Final = 1.0


class Recovery:
    """Works on the records of one store. Use it from one task at a time."""

    def __init__(
        self,
        store: BucketStore,
        records: Records,
        counters: OutageCounters,
        *,
        failed: Callable[[StoreUnavailable], None],
        clock: Callable[[], float],
    ) -> None:
        """``store``: a patient one. ``failed`` is called for every call that it does not answer.
        ``clock``: that of the records."""
        self._store = store
        self._records = records
        self._counters = counters
        self._failed = failed
        self._clock = clock

    async def run(self, *, in_full: bool) -> bool:
        """Bring the store up to date. False: it did not answer to all calls.

        ``in_full``: go on until nothing is left, including what comes in the meantime. Otherwise
        deliver the settlements that wait now.
        """
        batches = -(-len(self._records.waiting) // _BATCH)
        while True:
            self._records.apply_losses()
            if not (await self._adopt_all() and await self._renew_all() and await self._deliver()):
                return False
            batches -= 1
            if not self._records.behind or (batches <= 0 and not in_full):
                return True

    async def _adopt_all(self) -> bool:
        absent = list(self._records.running(RecordState.ABSENT))
        for start in range(0, len(absent), _BATCH):
            batch = (r for r in absent[start : start + _BATCH] if r.state is RecordState.ABSENT)
            if not all(await asyncio.gather(*map(self._adopt, batch))):
                return False
        return True

    async def _adopt(self, record: Record) -> bool:
        lease_s = max(record.lease_until_s - self._clock(), _MIN_LEASE_S)
        try:
            taken = await self._store.adopt(record.slot, record.id, record.takes, lease_s)
        except StoreUnavailable as error:
            self._failed(error)
            return False
        record.on(RecordEvent.ADOPTED if taken else RecordEvent.KNOWN)
        self._counters.adopted += 1
        return True

    async def _renew_all(self) -> bool:
        by_slot: dict[str, list[Record]] = {}
        for record in self._records.running(RecordState.BEHIND):
            by_slot.setdefault(record.slot, []).append(record)
        for slot, behind in by_slot.items():
            until_s = max(record.lease_until_s for record in behind)
            lease_s = max(until_s - self._clock(), _MIN_LEASE_S)
            try:
                await self._store.renew(slot, [record.id for record in behind], lease_s)
            except StoreUnavailable as error:
                self._failed(error)
                return False
            for record in behind:
                if record.lease_until_s <= until_s:  # it was not extended in the meantime
                    record.on(RecordEvent.RENEWED)
        return True

    async def _deliver(self) -> bool:
        """Deliver a batch of settlements; those without an answer wait on."""
        waiting = self._records.waiting
        batch = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
        try:
            return all(await asyncio.gather(*map(self._settle, batch)))
        finally:
            left = [record for record in batch if record.state is not RecordState.OVER]
            for record in left:
                record.on(RecordEvent.UNANSWERED)  # also when this was cancelled
            waiting.extendleft(reversed(left))

    async def _settle(self, record: Record) -> bool:
        done = False
        while record.state is not RecordState.OVER:
            if record.state is RecordState.UNADOPTED and not await self._adopt(record):
                return False
            record.on(RecordEvent.SEND)
            try:
                done = await self._store.settle(
                    record.slot, record.id, record.charges, record.usage
                )
            except StoreUnavailable as error:
                self._failed(error)
                return False
            except Exception:  # noqa: BLE001 - one bad settlement must not hold up the others
                _LOG.exception("settlement %s of %s cannot be delivered", record.id, record.slot)
                self._counters.dropped += 1
                record.on(RecordEvent.CLOSED)
                return True
            self._counters.forgotten += not record.answered(done=done)
        if done:
            self._counters.delivered += 1
        else:
            self._counters.unknown += 1
        return True
