"""The limit store in this process: for a single picker, and for a picker's local share."""

from __future__ import annotations

import gc
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from gateway.limits.buckets import LATE_S, DuplicateReservation
from gateway.limits.memory.batch import lasts
from gateway.limits.memory.journal import Journal
from gateway.limits.memory.usage_rows import UsageRows
from gateway.limits.usage import (
    MAX_USERS_PER_DAY,
    USAGE_DAYS,
    UsageRecord,
    bounded,
)
from policies.limits import arithmetic
from policies.limits.arithmetic import State
from policies.limits.types import (
    Bucket,
    Hold,
    Rule,
    Standing,
    Take,
    check_amount,
    check_takes,
)
from policies.limits.verdict import Denied, Verdict, fits, judge, standing

_LOOK_AT: Final = 2
"""How many cells a reservation checks for idleness, beside one for each cell that it makes."""
_SLACK: Final = 1_024
"""How many more ended leases than running ones may be in the heap."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _steady_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class _Cell:
    """A bucket and its state. It is small: there is one for each bucket in use."""

    __slots__ = ("epoch", "holders", "key", "rule", "state", "tenant")

    def __init__(self, tenant: _Tenant, key: str, rule: Rule, state: State) -> None:
        self.tenant, self.key, self.rule, self.state = tenant, key, rule, state
        self.epoch = 0
        """How often its rule was replaced by one of another kind."""
        self.holders = 0
        """Number of remembered reservations that took from it. While there is one the cell is kept,
        even if it is full: the reservation is settled under the rule that the cell has then."""


class _Tenant:
    __slots__ = ("cells", "name", "reservations")

    def __init__(self, name: str) -> None:
        self.name = name
        self.cells: dict[str, _Cell] = {}
        self.reservations: dict[str, _Entry] | None = None


@dataclass(slots=True)
class _Entry:
    """A remembered reservation."""

    id: str
    tenant: _Tenant
    holds: Sequence[Hold]
    """(): it is settled, and is only left in the heap."""
    lease_until_ms: int
    """By the steady clock."""
    expired: bool = False
    settled: bool = False


class MemoryStore:
    """`BucketStore` and `UsageStore` in this process. Without a journal everything ends with the
    process. Use it from one event loop.

    A call takes O(log n) of the reservations in flight. A hand goes round all buckets, and forgets
    a bucket that is idle (full, or its window is over) and that no reservation holds. Each
    reservation moves the hand by two buckets more than it makes, so the hand outruns growth.
    """

    volatile = True
    """See `BucketStore.volatile`: the journal does not keep reservations."""

    def __init__(
        self,
        *,
        clock_ms: Callable[[], int] | None = None,
        steady_ms: Callable[[], int] | None = None,
        late_s: float = LATE_S,
        usage_days: int = USAGE_DAYS,
        max_users_per_day: int = MAX_USERS_PER_DAY,
        journal: Journal | None = None,
    ) -> None:
        """``clock_ms``: whole milliseconds since the Unix epoch; this clock may be set.
        ``steady_ms``: whole milliseconds since any instant, for leases; this clock is never set.
        None: the machine's clocks, but a ``clock_ms`` that is given alone is used for leases, too.
        ``journal``: keeps buckets and usage over restarts; with one, ``usage_days`` and
        ``max_users_per_day`` are the journal's."""
        self._clock_ms = clock_ms or _wall_ms
        self._steady_ms = steady_ms or clock_ms or _steady_ms
        self._late_ms = round(late_s * 1_000)
        self._slots: dict[str, _Tenant] = {}
        self._hand: deque[_Cell] = deque()
        self._due: list[tuple[int, int, _Entry]] = []
        self._order = itertools.count()
        self._entries = 0
        self._journal = journal
        self._usage = journal or UsageRows(
            usage_days=usage_days, max_users_per_day=max_users_per_day, clock_ms=self._clock_ms
        )
        if journal is not None:
            self._load(journal)

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        """See `BucketStore.reserve`."""
        now_ms, tenant = self._open(slot, reservation_id, takes)
        cells, states = self._look(tenant, [take.bucket for take in takes], now_ms)
        verdict = judge(takes, states, now_ms)
        if not isinstance(verdict, Denied):
            fitting = [fits(take, state) for take, state in zip(takes, states, strict=True)]
            self._hold(tenant, reservation_id, takes, cells, states, fitting, now_ms, lease_s)
        return verdict

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        """See `BucketStore.adopt`."""
        try:
            now_ms, tenant = self._open(slot, reservation_id, takes)
        except DuplicateReservation:
            return False
        cells, states = self._look(tenant, [take.bucket for take in takes], now_ms)
        forced = [
            not take.bucket.shadow or fits(take, state)
            for take, state in zip(takes, states, strict=True)
        ]
        self._hold(tenant, reservation_id, takes, cells, states, forced, now_ms, lease_s)
        return True

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> int:
        """See `BucketStore.renew`."""
        self._expire(self._clock_ms())
        tenant = self._slots.get(slot)
        if tenant is None or tenant.reservations is None:
            return 0
        lease_until_ms = self._steady_ms() + round(lease_s * 1_000)
        held = 0
        for id_ in reservation_ids:
            entry = tenant.reservations.get(id_)
            if entry is not None and not entry.expired:
                entry.lease_until_ms = max(entry.lease_until_ms, lease_until_ms)
                held += 1
        return held

    async def settle(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None = None,
    ) -> bool:
        """See `BucketStore.settle`."""
        for key, charge in charges.items():
            check_amount(f"charge to {key!r}", charge)
        now_ms = self._clock_ms()
        self._expire(now_ms)
        tenant = self._slots.get(slot)
        if tenant is None or tenant.reservations is None:
            return False
        entry = tenant.reservations.get(reservation_id)
        if entry is None:
            return False
        holds, entry.holds, entry.settled = entry.holds, (), True
        self._forget(entry)
        for hold in holds:
            self._settle(
                tenant, hold, charges.get(hold.take.bucket.key, 0), now_ms, returned=entry.expired
            )
        _let_go(tenant, holds)
        self._drop_if_empty(tenant)
        if usage is not None:
            self._usage.add(slot, bounded(usage))
        return True

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """See `BucketStore.standing`."""
        now_ms = self._clock_ms()
        self._expire(now_ms)
        _, states = self._look(self._slots.get(slot) or _Tenant(slot), buckets, now_ms)
        return [
            standing(bucket, state, now_ms) for bucket, state in zip(buckets, states, strict=True)
        ]

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `UsageStore.usage`."""
        return await self._usage.usage(slot, first, last)

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `UsageStore.usage_slots`."""
        return await self._usage.usage_slots(first, last)

    async def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            await self._journal.close()

    def _load(self, journal: Journal) -> None:
        collecting = gc.isenabled()
        gc.disable()  # there is no garbage yet, and looking for it takes twice as long as loading
        try:
            for saved in journal.buckets():
                tenant = self._slots.get(saved.slot)
                if tenant is None:
                    tenant = self._slots[saved.slot] = _Tenant(saved.slot)
                self._make(tenant, saved.key, saved.rule, saved.state)
        finally:
            if collecting:
                gc.enable()

    def _open(self, slot: str, reservation_id: str, takes: Sequence[Take]) -> tuple[int, _Tenant]:
        check_takes(takes)
        now_ms = self._clock_ms()
        self._expire(now_ms)
        tenant = self._slots.get(slot) or _Tenant(slot)
        if tenant.reservations is not None and reservation_id in tenant.reservations:
            raise DuplicateReservation(slot, reservation_id)
        return now_ms, tenant

    def _look(
        self, tenant: _Tenant, buckets: Sequence[Bucket], now_ms: int
    ) -> tuple[list[_Cell | None], list[State]]:
        """The buckets' cells (None: there is none, it is as good as fresh), and their states now,
        under the rules that are passed."""
        cells = [tenant.cells.get(bucket.key) for bucket in buckets]
        states = []
        for bucket, cell in zip(buckets, cells, strict=True):
            rule = bucket.rule
            if cell is None:
                states.append(arithmetic.fresh(rule, now_ms))
                continue
            if cell.rule is not rule and cell.rule != rule:
                if not arithmetic.same_kind(cell.rule, rule):
                    cell.epoch += 1
                cell.state = arithmetic.change_rule(cell.rule, rule, cell.state, now_ms)
                cell.rule = rule
            cell.state = arithmetic.advance(rule, cell.state, now_ms)
            states.append(cell.state)
        return cells, states

    def _hold(
        self,
        tenant: _Tenant,
        reservation_id: str,
        takes: Sequence[Take],
        cells: Sequence[_Cell | None],
        states: Sequence[State],
        taken: Sequence[bool],
        now_ms: int,
        lease_s: float,
    ) -> None:
        self._slots[tenant.name] = tenant
        holds = []
        made = 0
        for take, cell, state, is_taken in zip(takes, cells, states, taken, strict=True):
            if not is_taken:
                continue
            if cell is None:
                cell = self._make(tenant, take.bucket.key, take.bucket.rule, state)
                made += 1
            cell.state = arithmetic.take(take.bucket.rule, state, take.amount)
            cell.holders += 1
            holds.append(Hold(take, state.at_ms, cell.epoch))
        lease_until_ms = self._steady_ms() + round(lease_s * 1_000)
        entry = _Entry(reservation_id, tenant, tuple(holds), lease_until_ms)
        if tenant.reservations is None:
            tenant.reservations = {}
        tenant.reservations[reservation_id] = entry
        self._entries += 1
        heapq.heappush(self._due, (lease_until_ms, next(self._order), entry))
        self._turn(_LOOK_AT + made, now_ms)

    def _make(self, tenant: _Tenant, key: str, rule: Rule, state: State) -> _Cell:
        cell = _Cell(tenant, key, rule, state)
        tenant.cells[key] = cell
        self._hand.append(cell)
        return cell

    def _settle(
        self, tenant: _Tenant, hold: Hold, charge: int, now_ms: int, *, returned: bool
    ) -> None:
        bucket = hold.take.bucket
        cell = tenant.cells[bucket.key]
        state = arithmetic.advance(cell.rule, cell.state, now_ms)
        held = 0 if returned or cell.epoch != hold.epoch else hold.take.amount
        cell.state = arithmetic.settle(cell.rule, state, held, hold.at_ms, charge)
        if charge and self._journal is not None and lasts(cell.rule):
            self._journal.charge(tenant.name, bucket.key, cell.rule, charge, now_ms)

    def _expire(self, now_ms: int) -> None:
        """Give back what reservations hold whose leases have ended, and forget those whose leases
        ended long ago."""
        steady_ms = self._steady_ms()
        while self._due and self._due[0][0] <= steady_ms:
            _, order, entry = heapq.heappop(self._due)
            if entry.settled:
                continue
            if not entry.expired and entry.lease_until_ms > steady_ms:  # renewed
                heapq.heappush(self._due, (entry.lease_until_ms, order, entry))
            elif not entry.expired:
                entry.expired = True
                for hold in entry.holds:
                    self._settle(entry.tenant, hold, 0, now_ms, returned=False)
                late_ms = entry.lease_until_ms + self._late_ms
                heapq.heappush(self._due, (late_ms, order, entry))
            else:
                self._forget(entry)
                _let_go(entry.tenant, entry.holds)
                self._drop_if_empty(entry.tenant)

    def _forget(self, entry: _Entry) -> None:
        reservations = entry.tenant.reservations
        if reservations is not None:
            del reservations[entry.id]
            if not reservations:
                entry.tenant.reservations = None
        self._entries -= 1
        if len(self._due) > 2 * self._entries + _SLACK:
            self._due = [due for due in self._due if not due[2].settled]
            heapq.heapify(self._due)

    def _turn(self, steps: int, now_ms: int) -> None:
        """Move the hand on, and forget cells that are idle."""
        for _ in range(min(steps, len(self._hand))):
            cell = self._hand.popleft()
            if cell.holders == 0 and arithmetic.is_idle(
                cell.rule, arithmetic.advance(cell.rule, cell.state, now_ms)
            ):
                del cell.tenant.cells[cell.key]
                self._drop_if_empty(cell.tenant)
            else:
                self._hand.append(cell)

    def _drop_if_empty(self, tenant: _Tenant) -> None:
        if not tenant.cells and tenant.reservations is None:
            self._slots.pop(tenant.name, None)


def _let_go(tenant: _Tenant, holds: Sequence[Hold]) -> None:
    for hold in holds:
        tenant.cells[hold.take.bucket.key].holders -= 1
