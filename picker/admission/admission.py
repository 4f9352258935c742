"""Requests wait here while their pool could not begin them at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from math import inf

from picker.admission.evictions import Evictable, Evictions
from picker.admission.idle import IdleLane, expires_s
from picker.admission.line import Choose, Line
from picker.admission.places import Places
from picker.admission.refusals import stopping
from picker.admission.sight import PoolSight
from picker.admission.terms import TermsOf
from picker.flight.entry import Entry
from picker.flight.ledger import Ledger
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.request.report import Report
from picker.seams.holding import Holding
from picker.settings import FlowSettings, PickerSettings
from picker.state.pool import PoolRuntime
from picker.state.pools import Pools
from policies.flow.digest import QueueDigest
from policies.flow.idle import IDLE_PRIORITY
from policies.flow.item import Item
from policies.flow.orders import order
from policies.flow.shedding import shed_share
from policies.limits.prices import Usage
from policies.routing.types import PoolView


class Admission:
    """One line for each pool that has not opted out. Single-threaded; ``now`` is the picker's
    clock."""

    def __init__(
        self,
        pools: Pools,
        ledger: Ledger,
        holding: Holding,
        *,
        now: Callable[[], float],
        rng: random.Random,
        name: str = "",
        report: Callable[[], None] = lambda: None,
    ) -> None:
        """``name``: of this picker; ``report`` makes others be informed of what has changed."""
        self._name, self._report = name, report
        self._live: frozenset[str] = frozenset()
        """Other pickers."""
        self._interval_s = 0.0
        self._pools, self._ledger, self._holding = pools, ledger, holding
        self._now, self._rng = now, rng
        self._lines: dict[str, Line] = {}
        self._idle: dict[str, IdleLane] = {}
        """By pool to which requests for idle capacity have come."""
        self._others_s: dict[str, float] = {}
        """By pool: when the last request of another kind came."""
        self._closed = False
        self._evictions = Evictions()
        self._evict_for: int | None = None
        self._terms_of = TermsOf(FlowSettings())

    def configure(self, settings: PickerSettings) -> None:
        """Take over new settings; what waits goes on waiting, but for pools that are gone or have
        opted out: what waits for them goes on at once."""
        self._terms_of = TermsOf(settings.flow)
        self._evict_for = settings.flow.evict_for
        queued = {pool.name for pool in settings.pools if pool.queue}
        for name in [*self._lines]:
            if name not in queued:
                self._lines.pop(name).open()
        for name in queued:
            line = self._lines.get(name)
            pool = self._pools.get(name)
            if pool is None:
                continue
            if line is None or line.pool is not pool:
                if line is not None:
                    line.open()
                line = self._lines[name] = Line(
                    pool,
                    self._ledger,
                    settings.flow.rules,
                    order(settings.flow.order),
                    self._holding,
                    self._now,
                    name=self._name,
                    report=self._report,
                )
                line.sharing.follow(self._live, self._interval_s)
            else:
                line.queue.rules = settings.flow.rules

        for name, lane in [*self._idle.items()]:
            line = self._lines.get(name)
            same = self._pools.get(name) is lane.pool and (
                line is None or lane.places is line.places
            )
            if not same:
                self._idle.pop(name).empty()

    def passes(self, context: RequestContext) -> bool:
        """The pool of a placed request has no queue, or its endpoint would begin it at once."""
        line = self._lines.get(context.pool)
        if context.caller.idle_only:
            return self._lane(context.pool).passes(context)
        self._others_s[context.pool] = context.head.received_s
        return line is None or line.passes(context, sheddable=self._terms_of.sheddable(context))

    async def wait(self, context: RequestContext, choose: Choose) -> None:
        """Return when it is the turn of a placed request, which may be placed anew meanwhile.
        Raises Rejection when its turn does not come."""
        if self._closed:
            raise stopping()
        if context.caller.idle_only:
            await self._wait_idle(context, choose)
            return
        line = self._lines[context.pool]
        item = self._item(context, line)
        self._shed(line, item)
        context.item = item
        held = line.wait(item, context, choose)
        try:
            if item.waits and context.on_wait is not None:
                context.on_wait(item.expires_s - item.arrived_s)
            if item.waits:
                self._make_room(line, item)
            await held.hold
        except BaseException:
            line.left(item.id)
            raise
        if held.refusal is not None:
            raise held.refusal
        known = line.pool.state.slot_of
        if self._pools.get(context.pool) is not line.pool or context.picks[0].address not in known:
            choose(context)

    async def _wait_idle(self, context: RequestContext, choose: Choose) -> None:
        now_s, output = self._now(), context.output_tokens
        context.item = Item(
            id=context.id,
            flow=context.caller.tenant,
            user=context.user,
            priority=IDLE_PRIORITY,
            weight=1.0,
            tokens=context.prompt_tokens + output,
            cost=context.prompt_tokens + output,
            arrived_s=now_s,
            expires_s=expires_s(now_s, context.patience_s),
        )
        await self._lane(context.pool).wait(context.item, context, choose)

    def _lane(self, name: str) -> IdleLane:
        """Of a pool."""
        lane = self._idle.get(name)
        if lane is None:
            line, pool = self._lines.get(name), self._pools[name]
            places = Places(pool, self._ledger) if line is None else line.places
            lane = self._idle[name] = IdleLane(
                *(pool, places, self._holding),
                lambda: (
                    (line := self._lines.get(name)) is not None
                    and (line.busy or line.sharing.requests_elsewhere > 0)
                ),
                lambda: self._others_s.get(name, -inf),
                self._now,
            )
            if self._closed:
                lane.empty()
        return lane

    def view(self, context: RequestContext, pool: PoolRuntime) -> PoolView:
        """The pool's, with what waits for each endpoint as if it were there already."""
        line = self._lines.get(pool.name)
        return pool.state.view if line is None else line.view(context)

    def dropped(self, context: RequestContext) -> None:
        """The request goes nowhere."""
        if context.caller.idle_only:
            if (lane := self._idle.get(context.pool)) is not None:
                lane.dropped(context.id)
        elif context.item is not None:
            kept = self.counted(context)
            self.settle(context.pool, context.item, 0.0)
            if kept:
                self.freed(context.pool)

    def counted(self, context: RequestContext) -> bool:
        """The request is counted where it goes; false: no room was kept for it."""
        if context.caller.idle_only:
            if (lane := self._idle.get(context.pool)) is not None:
                lane.counted(context.id)
            return False
        line = self._lines.get(context.pool) if context.item is not None else None
        return line is not None and line.counted(context.id)

    def reported(self, pool: str, address: str) -> None:
        """An endpoint has reported its load."""
        line = self._lines.get(pool)
        if line is not None and (slot := line.pool.state.slot_of.get(address)) is not None:
            line.reported(slot)
            for item in line.queue.firsts(slot) if self._evict_for is not None else ():
                self._make_room(line, item)
        self._stir_idle(pool)

    def may_be_evicted(self, context: RequestContext) -> bool:
        """A request may be ended for others, as long as its answer has not begun."""
        if self._evict_for is None:
            return False
        return context.caller.idle_only or self._terms_of(context).priority < 0

    def evictable(self, context: RequestContext, evict: Callable[[Rejection], None]) -> None:
        """A decided request can be ended from now on."""
        line = self._lines.get(context.pool)
        if line is not None:
            item = context.item or self._item(context, line)
            if context.caller.idle_only:
                item.priority = IDLE_PRIORITY
            where = context.picks[-1].addresses[0]
            self._evictions.add(context.pool, Evictable(context.id, where, item, evict))

    def answered(self, context: RequestContext) -> None:
        """The answer to a request has begun, or it has ended."""
        self._evictions.remove(context.pool, context.id)

    def freed(self, pool: str) -> None:
        """Endpoints of the pool can do more than before."""
        line = self._lines.get(pool)
        if line is not None and line.busy:
            line.stir()
        self._stir_idle(pool)

    def freed_by(self, entry: Entry, report: Report, usage: Usage | None) -> None:
        """A request has ended, or its engine is done with it: there is room, and what it has cost
        is known, or will be."""
        line = self._lines.get(entry.pool)
        if line is not None:
            line.ended(entry, report, usage)
            if line.busy:
                for leg in entry.legs:
                    line.stir(line.pool.state.slot_of.get(leg.address))
        if (lane := self._idle.get(entry.pool)) is not None:
            lane.ended(entry.id)
            self._stir_idle(entry.pool)

    def _stir_idle(self, pool: str) -> None:
        lane = self._idle.get(pool)
        if lane is not None and lane.busy:
            lane.stir()

    def settle(self, pool: str, item: Item, cost: float) -> None:
        """What a request that has waited has really cost."""
        if (line := self._lines.get(pool)) is not None:
            line.queue.settle(item, cost)

    # -- other pickers

    def queues(
        self, *, everything: bool = False, part: bool = False
    ) -> Iterator[tuple[str, QueueDigest]]:
        """See `QueueSink`."""
        for name, line in self._lines.items():
            for digest in line.sharing.digests(everything=everything, part=part):
                yield name, digest

    def peer_queue(self, picker: str, pool: str, digest: QueueDigest) -> None:
        """See `QueueSink`."""
        line = self._lines.get(pool)
        if line is not None and picker in self._live:
            line.hear(picker, digest)

    def peer_loads_changed(self, pool: str) -> None:
        """See `QueueSink`."""
        line = self._lines.get(pool)
        if line is not None and line.busy:
            line.heard(self._now())

    def peers_live(self, pickers: Iterable[str], interval_s: float) -> None:
        """See `QueueSink`."""
        self._live, self._interval_s = frozenset(pickers), interval_s
        for line in self._lines.values():
            line.sharing.follow(self._live, interval_s)
            line.heard(self._now())

    @property
    def waiting(self) -> int:
        """Requests that wait, for all pools."""
        return sum(len(line.queue) for line in self._lines.values())

    def sight(self) -> list[PoolSight]:
        """What waits for each pool that has a queue."""
        return [line.sight() for line in self._lines.values()]

    def drain(self) -> None:
        """Refuse all that wait and all that would have to: the gateway stops."""
        self._closed = True
        for line in self._lines.values():
            line.empty()
        for lane in self._idle.values():
            lane.empty()

    def _item(self, context: RequestContext, line: Line) -> Item:
        terms, now_s = self._terms_of(context), self._now()
        stated, worth = context.output_tokens, line.costs.worth.tokens
        output = line.costs.expectation.tokens(terms.flow, stated)
        item = Item(
            id=context.id,
            flow=terms.flow,
            user=context.user,
            priority=terms.priority,
            weight=float(context.caller.policy.weight),
            tokens=context.prompt_tokens + output,
            cost=context.prompt_tokens + worth * output,
            prompt_tokens=context.prompt_tokens,
            output_tokens=output,
            stated_tokens=stated,
            arrived_s=now_s,
            expires_s=now_s + terms.ttl_s,
            due_s=terms.due_s,
        )
        line.queue.order.rank(item)
        return item

    def _make_room(self, line: Line, item: Item) -> None:
        """Evict one request for one that waits, if it may have that: one at a time, and the next
        when the endpoint has reported what that has brought."""
        if self._evict_for is None or item.priority < self._evict_for or not item.waits:
            return
        away = self._evictions.take(line.pool.name, line.pool.state.address_of(item.place[0]))
        if away is not None:
            message = "The request was ended for one of higher priority before its answer began."
            away.evict(line.turned_away(Reason.EVICTED, away.item, message))

    def _shed(self, line: Line, item: Item) -> None:
        """Raises Rejection for a share of the requests below priority 0."""
        if item.priority >= 0:
            return
        share = shed_share(line.predicted_wait_s(item), item.expires_s - item.arrived_s)
        if share > 0 and self._rng.random() < share:
            raise line.turned_away(
                Reason.OVERLOADED,
                item,
                "The pool is saturated, and requests of this priority are shed.",
            )
