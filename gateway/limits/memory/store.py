"""The limit store in this process: for a single picker, and for a picker's local share."""

from __future__ import annotations

import gc
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Final

from gateway.limits.buckets import LATE_S, DuplicateReservation
from gateway.limits.memory.batch import lasts
from gateway.limits.memory.cells import (
    Cell,
    Reservation,
    Tenant,
    any_of_other_rules,
    charge_of,
    let_go,
    take_from,
    take_from_others,
)
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
from policies.limits.tally import Count, Hold, handed_over
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Lifetime,
    Rule,
    Standing,
    Take,
    check_amount,
    check_takes,
    is_amount,
    tally_of,
)
from policies.limits.verdict import Granted, Verdict, fits, judge, standing

_LOOK_AT: Final = 2
"""How many cells a reservation checks for idleness, beside one for each cell that it makes."""
_SLACK: Final = 1_024
"""How many more ended leases than running ones may be in the heap."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _steady_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class MemoryStore:
    """`BucketStore` and `UsageStore` in this process. Without a journal everything ends with the
    process. Use it from one event loop.

    A call takes O(log n) of the reservations in flight. A hand goes round all tallies, and forgets
    one that is idle (full, or its windows are over) and that no reservation holds. Each
    reservation moves the hand by two tallies more than it makes, so the hand outruns growth.
    """

    volatile = True
    """See `BucketStore.volatile`: the journal does not keep reservations."""
    waits = False
    """See `BucketStore.waits`."""

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
        self._slots: dict[str, Tenant] = {}
        self._hand: deque[Cell] = deque()
        self._due: list[tuple[int, int, Reservation]] = []
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
        counts, states = self._look(tenant, [take.bucket for take in takes], now_ms, asked=True)
        verdict = judge(takes, states, now_ms)
        if isinstance(verdict, Granted):
            refused = verdict.shadow_refusals
            taken = [take.bucket not in refused for take in takes]
            after = verdict.states
            self._hold(tenant, reservation_id, takes, counts, after, taken, now_ms, lease_s)
        return verdict

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        """See `BucketStore.adopt`."""
        try:
            now_ms, tenant = self._open(slot, reservation_id, takes)
        except DuplicateReservation:
            return False
        counts, states = self._look(tenant, [take.bucket for take in takes], now_ms, asked=True)
        forced = [
            not take.bucket.shadow or fits(take, state)
            for take, state in zip(takes, states, strict=True)
        ]
        after = [
            arithmetic.take(take.bucket.rule, state, take.amount)
            for take, state in zip(takes, states, strict=True)
        ]
        self._hold(tenant, reservation_id, takes, counts, after, forced, now_ms, lease_s)
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
            if not is_amount(charge):
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
            charge = charges.get(hold.key, -1)
            if charge < 0:
                charge = charge_of(tally_of(hold.key), charges)
            self._settle(tenant, hold, charge, now_ms, returned=entry.expired)
        let_go(holds)
        self._drop_if_empty(tenant)
        if usage is not None:
            self._usage.add(slot, bounded(usage))
        return True

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """See `BucketStore.standing`."""
        now_ms = self._clock_ms()
        self._expire(now_ms)
        _, states = self._look(self._slots.get(slot) or Tenant(slot), buckets, now_ms)
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
        now_ms = self._clock_ms()
        collecting = gc.isenabled()
        gc.disable()  # there is no garbage yet, and looking for it takes twice as long as loading
        try:
            for saved in journal.counts():
                tenant = self._slots.get(saved.slot)
                if tenant is None:
                    tenant = self._slots[saved.slot] = Tenant(saved.slot)
                cell = tenant.cells.get(saved.tally) or self._make(tenant, saved.tally, 0)
                cell.counts.append(Count(saved.rule, saved.state, now_ms))
                window = isinstance(saved.rule, CalendarWindow)  # its instant is its start
                cell.charged_ms = max(cell.charged_ms, now_ms if window else saved.state.at_ms)
        finally:
            if collecting:
                gc.enable()

    def _open(self, slot: str, reservation_id: str, takes: Sequence[Take]) -> tuple[int, Tenant]:
        check_takes(takes)
        now_ms = self._clock_ms()
        self._expire(now_ms)
        tenant = self._slots.get(slot) or Tenant(slot)
        if tenant.reservations is not None and reservation_id in tenant.reservations:
            raise DuplicateReservation(slot, reservation_id)
        return now_ms, tenant

    def _look(
        self,
        tenant: Tenant,
        buckets: Sequence[Bucket],
        now_ms: int,
        *,
        asked: bool = False,
    ) -> tuple[list[Count | None], list[State]]:
        """The buckets' counts (None: there is nothing of the tally, it is as good as fresh), and
        their states now. ``asked``: for a reservation."""
        counts: list[Count | None] = []
        states = []
        several: list[Cell] = []
        for bucket in buckets:
            cell, rule = tenant.cells.get(bucket.tally), bucket.rule
            if cell is None:
                counts.append(None)
                states.append(arithmetic.fresh(rule, now_ms))
                continue
            if len(cell.counts) > 1:
                several.append(cell)
            for count in cell.counts:
                if count.rule is rule:
                    break
            else:
                return self._look_among(tenant, buckets, now_ms, asked=asked)
            count.state = arithmetic.advance(rule, count.state, now_ms)
            if asked and isinstance(rule, Lifetime):
                count.state = arithmetic.asked(rule, count.state, now_ms)
            counts.append(count)
            states.append(count.state)
        if several and any_of_other_rules(several, counts):
            return self._look_among(tenant, buckets, now_ms, asked=asked)
        return counts, states

    def _look_among(
        self, tenant: Tenant, buckets: Sequence[Bucket], now_ms: int, *, asked: bool
    ) -> tuple[list[Count | None], list[State]]:
        """The same where a tally has had other rules."""
        cells = [tenant.cells.get(bucket.tally) for bucket in buckets]
        for cell in cells:
            if cell is not None:
                cell.tidy(now_ms)
        counts = [
            None if cell is None else cell.find(bucket.rule, now_ms)
            for bucket, cell in zip(buckets, cells, strict=True)
        ]
        states = []
        for index, (bucket, cell) in enumerate(zip(buckets, cells, strict=True)):
            count = counts[index]
            if cell is not None and count is None:
                count = counts[index] = self._begin(cell, bucket.rule, counts, now_ms)
            if count is None:
                states.append(arithmetic.fresh(bucket.rule, now_ms))
                continue
            if asked:
                count.state = arithmetic.asked(count.rule, count.state, now_ms)
            states.append(count.state)
        return counts, states

    def _begin(
        self, cell: Cell, rule: Rule, present: Sequence[Count | None], now_ms: int
    ) -> Count | None:
        """A count of a rule that is new to its tally; None: nothing was used."""
        others = [count for count in present if count is not None]
        replaced = cell.replaced(rule, others, now_ms)
        if replaced is None:
            return None
        begun = cell.add(rule, cell.begun(rule, replaced, now_ms), others, now_ms)
        left = begun.used
        for _, entry in sorted((cell.tenant.reservations or {}).items()):
            if begun.holders == replaced.holders:
                break
            hold = handed_over(entry.holds, replaced, begun, 0 if entry.expired else left)
            if hold is not None:
                entry.holds = (*entry.holds, hold)
                left -= hold.amount
                begun.holders += 1
        if self._journal is not None and lasts(rule):
            held = begun.used - left  # it is not settled yet
            settled, at_ms = cell.used_at_charge(begun, now_ms) - held, min(cell.charged_ms, now_ms)
            if settled:
                tenant = cell.tenant.name
                self._journal.charge(tenant, cell.key, rule, settled, at_ms, begins=True)
        return begun

    def _hold(
        self,
        tenant: Tenant,
        reservation_id: str,
        takes: Sequence[Take],
        counts: list[Count | None],
        after: Sequence[State],
        taken: Sequence[bool],
        now_ms: int,
        lease_s: float,
    ) -> None:
        """``after``: states of the buckets after the takes; ``taken``: which of these are done."""
        self._slots[tenant.name] = tenant
        holds: list[Hold] = []
        made = 0
        several: list[Cell] = []
        for index, take in enumerate(takes):
            bucket, count = take.bucket, counts[index]
            cell = tenant.cells.get(bucket.tally)
            if taken[index]:
                if cell is None:
                    cell = self._make(tenant, bucket.tally, now_ms)
                    made += 1
                if count is None:
                    present = [one for one in counts if one is not None]
                    count = counts[index] = cell.add(bucket.rule, after[index], present, now_ms)
                count.taken_ms = now_ms
                holds.append(take_from(cell, count, take.amount, bucket.key, after[index]))
            if cell is not None:
                cell.charged_ms = now_ms
                if len(cell.counts) > 1:
                    several.append(cell)
        if several and any_of_other_rules(several, counts):
            holds += take_from_others(tenant, takes, counts, now_ms)
        lease_until_ms = self._steady_ms() + round(lease_s * 1_000)
        entry = Reservation(reservation_id, tenant, tuple(holds), lease_until_ms)
        if tenant.reservations is None:
            tenant.reservations = {}
        tenant.reservations[reservation_id] = entry
        self._entries += 1
        heapq.heappush(self._due, (lease_until_ms, next(self._order), entry))
        self._turn(_LOOK_AT + made, now_ms)

    def _make(self, tenant: Tenant, key: str, now_ms: int) -> Cell:
        cell = tenant.cells[key] = Cell(tenant, key, now_ms)
        self._hand.append(cell)
        return cell

    def _settle(
        self, tenant: Tenant, hold: Hold, charge: int, now_ms: int, *, returned: bool
    ) -> None:
        tally, count = hold.tally, hold.counted
        count.settle(0 if returned else hold.amount, hold.began_ms, charge, now_ms)
        if charge:
            tally.charged_ms = now_ms
            if self._journal is not None and lasts(count.rule):
                key = tally_of(hold.key)
                self._journal.charge(tenant.name, key, count.rule, charge, now_ms)

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
                let_go(entry.holds)
                self._drop_if_empty(entry.tenant)

    def _forget(self, entry: Reservation) -> None:
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
            if cell.tidy(now_ms):
                del cell.tenant.cells[cell.key]
                self._drop_if_empty(cell.tenant)
            else:
                self._hand.append(cell)

    def _drop_if_empty(self, tenant: Tenant) -> None:
        if not tenant.cells and tenant.reservations is None:
            self._slots.pop(tenant.name, None)
