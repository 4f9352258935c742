"""The limit store inside this process: for a single picker, and for a local share."""

from __future__ import annotations

import gc
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from gateway.limits.memory.journal import Journal
from gateway.limits.memory.journal_file import lasts
from gateway.limits.store import (
    LATE_S,
    MAX_USERS_PER_DAY,
    USAGE_DAYS,
    DuplicateReservation,
    UsageRecord,
    bounded,
)
from gateway.limits.usage_rows import Ledger
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

_LOOK_AT = 2
"""Cells looked at for idleness by each reservation, beside one for each cell that it makes."""
_SLACK = 1_024
"""Ended leases that may lie in the heap beside as many running ones."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _steady_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class _Cell:
    """A bucket's state. Kept small: there are as many as buckets in use."""

    __slots__ = ("epoch", "holders", "key", "rule", "slot", "state")

    def __init__(self, slot: _Slot, key: str, rule: Rule, state: State) -> None:
        self.slot, self.key, self.rule, self.state = slot, key, rule, state
        self.epoch = 0
        """How many rules of another kind it has had."""
        self.holders = 0
        """Reservations that took from it and are remembered. While there are any it is kept, even
        full, because they are settled under the rule that it has then."""


class _Slot:
    __slots__ = ("cells", "name", "reservations")

    def __init__(self, name: str) -> None:
        self.name = name
        self.cells: dict[str, _Cell] = {}
        self.reservations: dict[str, _Entry] | None = None


@dataclass(slots=True)
class _Entry:
    """A reservation that is remembered."""

    id: str
    slot: _Slot
    holds: Sequence[Hold]
    """(): settled; it only waits in the heap for its turn."""
    lease_until_ms: int
    """By the steady clock."""
    expired: bool = False
    settled: bool = False


class MemoryStore:
    """`LimitStore` in this process. Without a journal, what it knows ends with it. Use it from one
    event loop.

    Costs O(log n) of the reservations in flight. A bucket that is idle (full, or its window over)
    and that no reservation holds is forgotten when the hand that goes round all of them comes by.
    Each reservation moves the hand by two buckets more than it makes, so the hand outruns growth.
    """

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
        """``clock_ms`` tells whole milliseconds since the Unix epoch, and may be set; ``steady_ms``
        tells those since any instant, and is never set: leases go by it. None: the machine's; but
        leases go by a ``clock_ms`` that is given alone. ``journal``: what is known before and
        after; with one, ``usage_days`` and ``max_users_per_day`` are the journal's."""
        self._clock_ms = clock_ms or _wall_ms
        self._steady_ms = steady_ms or clock_ms or _steady_ms
        self._late_ms = round(late_s * 1_000)
        self._slots: dict[str, _Slot] = {}
        self._hand: deque[_Cell] = deque()
        self._due: list[tuple[int, int, _Entry]] = []
        self._order = itertools.count()
        self._entries = 0
        self._ledger = Ledger(usage_days=usage_days, max_users_per_day=max_users_per_day)
        self._journal = journal
        if journal is not None:
            self._load(journal)

    @property
    def patient(self) -> MemoryStore:
        """See `LimitStore.patient`."""
        return self

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        """See `LimitStore.reserve`."""
        now_ms, place = self._open(slot, reservation_id, takes)
        cells, states = self._look(place, [take.bucket for take in takes], now_ms)
        verdict = judge(takes, states, now_ms)
        if not isinstance(verdict, Denied):
            fitting = [fits(take, state) for take, state in zip(takes, states, strict=True)]
            self._hold(place, reservation_id, takes, cells, states, fitting, now_ms, lease_s)
        return verdict

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        """See `LimitStore.adopt`."""
        try:
            now_ms, place = self._open(slot, reservation_id, takes)
        except DuplicateReservation:
            return False
        cells, states = self._look(place, [take.bucket for take in takes], now_ms)
        forced = [
            not take.bucket.shadow or fits(take, state)
            for take, state in zip(takes, states, strict=True)
        ]
        self._hold(place, reservation_id, takes, cells, states, forced, now_ms, lease_s)
        return True

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> int:
        """See `LimitStore.renew`."""
        self._expire(self._clock_ms())
        place = self._slots.get(slot)
        if place is None or place.reservations is None:
            return 0
        lease_until_ms = self._steady_ms() + round(lease_s * 1_000)
        held = 0
        for id_ in reservation_ids:
            entry = place.reservations.get(id_)
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
        """See `LimitStore.settle`."""
        for key, charge in charges.items():
            check_amount(f"charge to {key!r}", charge)
        now_ms = self._clock_ms()
        self._expire(now_ms)
        place = self._slots.get(slot)
        if place is None or place.reservations is None:
            return False
        entry = place.reservations.get(reservation_id)
        if entry is None:
            return False
        holds, entry.holds, entry.settled = entry.holds, (), True
        self._forget(entry)
        for hold in holds:
            self._settle(
                place, hold, charges.get(hold.take.bucket.key, 0), now_ms, returned=entry.expired
            )
        _let_go(place, holds)
        self._drop_if_empty(place)
        if usage is not None:
            usage = bounded(usage)
            if self._journal is not None:
                self._journal.add(slot, usage)
            else:
                self._ledger.add(slot, usage, now_ms)
        return True

    async def release(self, slot: str, reservation_id: str) -> bool:
        """See `LimitStore.release`."""
        return await self.settle(slot, reservation_id, {})

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """See `LimitStore.standing`."""
        now_ms = self._clock_ms()
        self._expire(now_ms)
        _, states = self._look(self._slots.get(slot) or _Slot(slot), buckets, now_ms)
        return [
            standing(bucket, state, now_ms) for bucket, state in zip(buckets, states, strict=True)
        ]

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `LimitStore.usage`."""
        if self._journal is not None:
            return await self._journal.usage(slot, first, last)
        return self._ledger.usage(slot, first, last)

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `LimitStore.usage_slots`."""
        if self._journal is not None:
            return await self._journal.usage_slots(first, last)
        return self._ledger.usage_slots(first, last)

    async def check(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            await self._journal.close()

    def _load(self, journal: Journal) -> None:
        collecting = gc.isenabled()
        gc.disable()  # nothing is garbage yet, and looking for it takes twice as long as loading
        try:
            for saved in journal.buckets():
                place = self._slots.get(saved.slot)
                if place is None:
                    place = self._slots[saved.slot] = _Slot(saved.slot)
                self._make(place, saved.key, saved.rule, saved.state)
        finally:
            if collecting:
                gc.enable()

    def _open(self, slot: str, reservation_id: str, takes: Sequence[Take]) -> tuple[int, _Slot]:
        check_takes(takes)
        now_ms = self._clock_ms()
        self._expire(now_ms)
        place = self._slots.get(slot) or _Slot(slot)
        if place.reservations is not None and reservation_id in place.reservations:
            raise DuplicateReservation(slot, reservation_id)
        return now_ms, place

    def _look(
        self, place: _Slot, buckets: Sequence[Bucket], now_ms: int
    ) -> tuple[list[_Cell | None], list[State]]:
        """Cells (None: not kept, as good as fresh) and states now, under the rules passed."""
        cells = [place.cells.get(bucket.key) for bucket in buckets]
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
        place: _Slot,
        reservation_id: str,
        takes: Sequence[Take],
        cells: Sequence[_Cell | None],
        states: Sequence[State],
        taken: Sequence[bool],
        now_ms: int,
        lease_s: float,
    ) -> None:
        self._slots[place.name] = place
        holds = []
        made = 0
        for take, cell, state, is_taken in zip(takes, cells, states, taken, strict=True):
            if not is_taken:
                continue
            if cell is None:
                cell = self._make(place, take.bucket.key, take.bucket.rule, state)
                made += 1
            cell.state = arithmetic.take(take.bucket.rule, state, take.amount)
            cell.holders += 1
            holds.append(Hold(take, state.at_ms, cell.epoch))
        lease_until_ms = self._steady_ms() + round(lease_s * 1_000)
        entry = _Entry(reservation_id, place, tuple(holds), lease_until_ms)
        if place.reservations is None:
            place.reservations = {}
        place.reservations[reservation_id] = entry
        self._entries += 1
        heapq.heappush(self._due, (lease_until_ms, next(self._order), entry))
        self._turn(_LOOK_AT + made, now_ms)

    def _make(self, place: _Slot, key: str, rule: Rule, state: State) -> _Cell:
        cell = _Cell(place, key, rule, state)
        place.cells[key] = cell
        self._hand.append(cell)
        return cell

    def _settle(
        self, place: _Slot, hold: Hold, charge: int, now_ms: int, *, returned: bool
    ) -> None:
        bucket = hold.take.bucket
        cell = place.cells[bucket.key]
        state = arithmetic.advance(cell.rule, cell.state, now_ms)
        held = 0 if returned or cell.epoch != hold.epoch else hold.take.amount
        cell.state = arithmetic.settle(cell.rule, state, held, hold.at_ms, charge)
        if charge and self._journal is not None and lasts(cell.rule):
            self._journal.charge(place.name, bucket.key, cell.rule, charge, now_ms)

    def _expire(self, now_ms: int) -> None:
        """Give back what leases held that have ended; forget those that ended long ago."""
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
                    self._settle(entry.slot, hold, 0, now_ms, returned=False)
                late_ms = entry.lease_until_ms + self._late_ms
                heapq.heappush(self._due, (late_ms, order, entry))
            else:
                self._forget(entry)
                _let_go(entry.slot, entry.holds)
                self._drop_if_empty(entry.slot)

    def _forget(self, entry: _Entry) -> None:
        reservations = entry.slot.reservations
        if reservations is not None:
            del reservations[entry.id]
            if not reservations:
                entry.slot.reservations = None
        self._entries -= 1
        if len(self._due) > 2 * self._entries + _SLACK:
            self._due = [due for due in self._due if not due[2].settled]
            heapq.heapify(self._due)

    def _turn(self, steps: int, now_ms: int) -> None:
        """Move the hand on: forget cells that are idle."""
        for _ in range(min(steps, len(self._hand))):
            cell = self._hand.popleft()
            if cell.holders == 0 and arithmetic.is_idle(
                cell.rule, arithmetic.advance(cell.rule, cell.state, now_ms)
            ):
                del cell.slot.cells[cell.key]
                self._drop_if_empty(cell.slot)
            else:
                self._hand.append(cell)

    def _drop_if_empty(self, place: _Slot) -> None:
        if not place.cells and place.reservations is None:
            self._slots.pop(place.name, None)


def _let_go(place: _Slot, holds: Sequence[Hold]) -> None:
    for hold in holds:
        place.cells[hold.take.bucket.key].holders -= 1
