"""Reservations that run, and settlements that wait: what a store may not know, or may have lost."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Final

from gateway.limits.buckets import LATE_S
from gateway.limits.outage.states import RecordEvent, RecordState, record_after
from gateway.limits.outage_counters import OutageCounters
from gateway.limits.usage import UsageRecord
from policies.limits.prices import MICROS
from policies.limits.types import Take

_LOG: Final = logging.getLogger("penstock.limits")
_NAMED: Final = 20


@dataclass(slots=True)
class Record:
    """A reservation from its grant, here or by the store, until the store has its settlement."""

    slot: str
    id: str
    state: RecordState
    takes: Sequence[Take] = ()
    lease_until_s: float = 0.0
    shared: bool = False
    """The local share holds it, too."""
    charges: Mapping[str, int] = field(default_factory=dict)
    usage: UsageRecord | None = None
    recoverable: bool = False
    """It was settled within its lease and for more than nothing: a store that does not know it at
    the first attempt has lost it. It is adopted again for that reason at most once."""

    def on(self, event: RecordEvent) -> None:
        """Change the state."""
        self.state = record_after(self.state, event)

    def answered(self, *, done: bool) -> bool:
        """The store has answered to the settlement. ``done``: it knew the reservation. Returns
        whether the reservation is over."""
        ended = done or not self.recoverable or self.state is not RecordState.SENDING
        self.recoverable = False
        self.on(RecordEvent.CLOSED if ended else RecordEvent.FORGOTTEN)
        return ended


class Records:
    """All records of a store, by name: slot and id of the reservation."""

    def __init__(
        self, *, max_waiting: int, counters: OutageCounters, clock: Callable[[], float]
    ) -> None:
        """``max_waiting``: of settlements. ``clock``: monotonic, seconds."""
        self.waiting: deque[Record] = deque()
        """Settlements, the oldest first."""
        self._running: dict[tuple[str, str], Record] = {}
        """Roughly in the order in which their leases end."""
        self._settled: dict[tuple[str, str], float] = {}
        """Names of settlements that wait or may be done, and until when they are remembered."""
        self._in_doubt = False
        self._max_waiting = max_waiting
        self._counters = counters
        self._clock = clock

    def begin(self, record: Record) -> None:
        """A reservation was granted."""
        self._running[record.slot, record.id] = record

    def extend(self, slot: str, reservation_id: str, lease_s: float) -> Record | None:
        """Let a lease end ``lease_s`` seconds from now at the earliest; None: there is none, or it
        has ended."""
        now_s = self._clock()
        record = self._running.get((slot, reservation_id))
        if record is None or record.lease_until_s <= now_s:
            return None
        record.lease_until_s = max(record.lease_until_s, now_s + lease_s)
        self._running[slot, reservation_id] = self._running.pop((slot, reservation_id))
        return record

    def end(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None,
    ) -> Record | None:
        """A reservation, perhaps an unknown one, is settled; None: it was settled before."""
        name = (slot, reservation_id)
        if name in self._settled:
            return None
        self._settled[name] = self._clock() + LATE_S
        record = self._running.pop(name, None)
        if record is None:
            record = Record(slot, reservation_id, RecordState.SENT)
        record.charges, record.usage = dict(charges), usage
        record.recoverable = record.lease_until_s > self._clock() and bool(charges or usage)
        record.on(RecordEvent.ENDED)
        return record

    def close(self, record: Record) -> None:
        """The store has the settlement, and will refuse its repetitions."""
        self._settled.pop((record.slot, record.id), None)

    def queue(self, record: Record) -> None:
        """A settlement must wait. If too many do, the oldest is dropped."""
        if len(self.waiting) >= self._max_waiting:
            self.waiting.popleft().on(RecordEvent.CLOSED)
            self._counters.dropped += 1
            if self._counters.dropped % 1_000 == 1:
                _LOG.error(
                    "limit store is away and %d settlements wait: the oldest are lost (%d so far)",
                    self._max_waiting,
                    self._counters.dropped,
                )
        self.waiting.append(record)
        self._counters.queued += 1

    def lost(self) -> None:
        """The store may have lost its data. `apply_losses` changes the records, once for several
        losses."""
        self._in_doubt = True

    def apply_losses(self) -> None:
        """Change all records if the store may have lost its data."""
        if self._in_doubt:
            self._in_doubt = False
            for record in (*self._running.values(), *self.waiting):
                record.on(RecordEvent.LOST)

    def running(self, state: RecordState) -> Iterator[Record]:
        """The running reservations in a state; absent ones only as long as their leases run."""
        now_s = self._clock()
        for record in self._running.values():
            ended = state is RecordState.ABSENT and record.lease_until_s <= now_s
            if record.state is state and not ended:
                yield record

    @property
    def behind(self) -> bool:
        """Whether the store must be brought up to date."""
        return (
            bool(self.waiting)
            or self._in_doubt
            or any(self.running(RecordState.BEHIND))
            or any(self.running(RecordState.ABSENT))
        )

    def forget_old(self) -> None:
        """Forget reservations that were not settled and that the store has forgotten, too, and
        names of settlements that are not repeated any more."""
        now_s = self._clock()
        while self._running:
            name = next(iter(self._running))
            if self._running[name].lease_until_s > now_s - LATE_S:
                break
            del self._running[name]
        while self._settled:
            name = next(iter(self._settled))
            if self._settled[name] > now_s and len(self._settled) <= 2 * self._max_waiting:
                break
            del self._settled[name]


def totals(lost: Iterable[Record]) -> str:
    """The usage of settlements that are lost, for the log: of all, and of the tenants with most."""
    by_slot: dict[str, list[int]] = {}
    for record in lost:
        if record.usage is not None:
            sums = by_slot.setdefault(record.slot, [0, 0, 0, 0])
            used = record.usage
            counts = (used.requests, used.input_tokens, used.output_tokens, used.cost_micros)
            sums[:] = map(add, sums, counts)
    most = sorted(by_slot.items(), key=lambda item: item[1], reverse=True)[:_NAMED]
    everything = [sum(column) for column in zip(*by_slot.values(), strict=True)] or [0] * 4
    return "; ".join(
        f"{whose}: {n} requests, {i} input and {o} output tokens, {c / MICROS:.6f} of money"
        for whose, (n, i, o, c) in (
            (f"in all, of {len(by_slot)} tenants", everything),
            *((repr(slot), sums) for slot, sums in most),
        )
    )
