"""The requests that wait for one pool, and when each of them goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from heapq import nlargest
from itertools import islice
from math import inf
from typing import Final

from msgspec import Struct

from picker.admission.costs import Costs
from picker.admission.places import Places
from picker.admission.refusals import retry_after_s, stopping, turned_away
from picker.admission.sharing import Sharing
from picker.admission.sight import PoolSight, sight_of
from picker.flight.entry import Entry
from picker.flight.ledger import Ledger
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.request.report import Ending, Report
from picker.seams.holding import Hold, Holding
from picker.state.pool import PoolRuntime
from policies.flow.digest import QueueDigest
from policies.flow.item import Item, Place
from policies.flow.order import Order
from policies.flow.pace import LONGEST_S, Pace
from policies.flow.queue import FlowQueue
from policies.flow.returns import Returns
from policies.flow.rules import FlowRules
from policies.limits.prices import NOTHING, Usage
from policies.routing.types import PoolView

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.1
"""Longest time without a look while somebody waits: what is not told is seen then."""
_SHORTEST_S: Final = 0.001
_LONGEST: Final = 4
_PLACED_S: Final = 0.05
_INVITED_S: Final = 0.005
"""Time after which it is asked anew where a request should go that waits."""
_HEARD_S: Final = 0.003
"""From what another picker reports to the look at what it changes."""
_HEARD_S_AN_ENDPOINT: Final = 0.0001
"""For which something waits: the more there are, the longer a look takes."""
_MOVES: Final = 16
"""Requests that turn out to be better off elsewhere, at most in one look at an endpoint: to place
one takes time."""
_AWAY: Final = 64
"""Requests that wait for an endpoint that is gone and are placed anew in one look."""

Choose = Callable[[RequestContext], None]
"""Chooses the endpoints of a request; raises Rejection."""


class Held(Struct, eq=False):
    """A request that waits."""

    item: Item
    context: RequestContext
    hold: Hold
    choose: Choose
    slot: int
    """The endpoint that it waits for, by its slot: where it would go now."""
    uncached_tokens: float
    """That it would have to prefill there."""
    placed_s: float
    """When it was asked where it should go."""
    others: tuple[int, ...] = ()
    """Slots of the endpoints of its other parts: where it decodes, if that is apart."""
    refusal: Rejection | None = None
    """It goes no further."""


class Line:
    """One pool's. Single-threaded."""

    def __init__(
        self,
        pool: PoolRuntime,
        ledger: Ledger,
        rules: FlowRules,
        order: Order,
        holding: Holding,
        now: Callable[[], float],
        *,
        name: str = "",
        report: Callable[[], None] = lambda: None,
    ) -> None:
        """``name``: of this picker; ``report`` makes others be informed of what has changed."""
        self.pool = pool
        self.queue = FlowQueue(rules, order)
        self._report = report
        self.pace = Pace(now())
        self._returns = Returns()
        self._ledger, self._holding, self._now = ledger, holding, now
        self._held: dict[str, Held] = {}
        self._let_go: dict[str, Held] = {}
        """Those that may go on, and are not counted in the pool's columns yet."""
        self._places = Places(pool, ledger)
        self.costs = Costs(self._places)
        self.sharing = Sharing(name, pool, self.queue, self._places, self._claims, now)
        self._alarm_s = inf
        self._invited_s = -inf
        self._will_look = False
        self._bounded_s = -inf
        self._moved_s = now()
        """When somebody was let go, or began to wait where nobody did."""

    @property
    def places(self) -> Places:
        """What each endpoint has before it."""
        return self._places

    @property
    def busy(self) -> bool:
        """Somebody waits."""
        return bool(self._held)

    def passes(self, context: RequestContext, *, sheddable: bool) -> bool:
        """The endpoint chosen would begin the request at once, and nobody waits for it."""
        slot = self.pool.state.slot_of.get(context.picks[0].address)
        if slot is None:
            return True
        if self._places.waiting_for(slot) or not self._begins(slot, context, sheddable):
            return False
        if not self.sharing.alone:
            if self.sharing.contended(slot):
                return False  # whose turn it is, is a matter of the queue
            uncached = context.prompt_tokens - context.picks[0].matched_tokens
            self.sharing.sent(slot, max(0.0, uncached))
        return True

    def wait(self, item: Item, context: RequestContext, choose: Choose) -> Held:
        """Let a placed request wait for the endpoint that was chosen, or for another one that turns
        out to be better; it may be refused, or let go, before this returns."""
        now_s = self._now()
        held = Held(item, context, self._holding.hold(), choose, 0, 0.0, now_s)
        self._assign(held, now_s)
        item.cost = self.costs.waiting(item, context, held.uncached_tokens)
        if not self._held:
            self.pace = Pace(now_s)
            self._moved_s = now_s
        self._held[item.id] = held
        self.pace.came(item.priority, item.cost, now_s)
        self._turn_away(self.queue.offer(item, self._place(held)))
        if not self.sharing.alone:
            self._bound(now_s)
        if item.waits and self._has_room(held.slot):
            self._look_at(held.slot, now_s)  # those before it wait for something else
        if item.waits:
            self._set_alarm(now_s)
            self._report()
        return held

    def view(self, context: RequestContext) -> PoolView:
        """The pool's, with what waits for each endpoint as if it were there already, but for the
        request itself."""
        if not self._held and not self._let_go and not self._places.elsewhere.any:
            return self.pool.state.view
        own = self._held.get(context.id) or self._let_go.get(context.id)
        if own is None:
            return self._places.view(-1, 0.0)
        return self._places.view(own.slot, own.uncached_tokens)

    def counted(self, id_: str) -> bool:
        """A request is counted where it goes, or goes nowhere; false: no room was kept for it."""
        held = self._let_go.pop(id_, None)
        if held is not None:
            self._places.let_go.add(held.slot, -1.0, -held.uncached_tokens)
            for slot in held.others:
                self._places.let_go.add(slot, -1.0, 0.0)
        return held is not None

    def left(self, id_: str) -> None:
        """A request's client has left, whether it still waits or not."""
        if (held := self._held.get(id_)) is not None:
            self.queue.cancel(id_)
            self._unhold(held)
        elif self.counted(id_):
            self.stir()

    def empty(self) -> None:
        """Refuse all that wait: the picker stops."""
        for held in [*self._held.values()]:
            self._give_up(held, stopping())

    def open(self) -> None:
        """Let everything go on: there is no queue any more."""
        for held in [*self._held.values()]:
            self.queue.cancel(held.item.id)
            self._unhold(held)
            held.hold.release()

    def ended(self, entry: Entry, report: Report, usage: Usage | None) -> None:
        """A request has ended: learn from it, and charge what it has really cost."""
        if report.reason is Ending.UNREPORTED:
            return  # it may be known later; until then it counts as expected
        cost, used = self.costs.spent(entry, report, usage), usage or NOTHING
        if entry.item is not None:
            self.queue.settle(
                entry.item,
                cost,
                prompt_tokens=used.input_tokens,
                output_tokens=used.output_tokens,
            )

    def reported(self, slot: int) -> None:
        """An engine has reported its load."""
        self._places.reported(slot)
        self.stir(slot)

    def stir(self, slot: int | None = None) -> None:
        """Something has changed, at one endpoint or anywhere: let go what there is room for."""
        if not self._held:
            return
        now_s = self._now()
        for item in self.queue.expired(now_s):
            self._refuse(item, self._when_late(item, now_s))
        self.queue.miss(now_s + self.costs.begin_time.most_s)
        self._ledger.settle_prefills(now_s)
        if slot is None:
            self._look_everywhere(now_s)
        else:
            self._look_at(slot, now_s)
        if self._held:
            self._set_alarm(now_s)

    def hear(self, picker: str, digest: QueueDigest) -> None:
        """Take what another picker reports of its queue."""
        heard, now_s = self.sharing.hear(picker, digest), self._now()
        if heard is None or not self._held:
            return
        for priority, cost in heard.came.items():
            self.pace.came(priority, cost, now_s)
        for cost in heard.given.values():
            self.pace.given(cost, now_s)
            self._moved_s = now_s
        self._bound(now_s)
        self.heard(now_s)

    def heard(self, now_s: float) -> None:
        """What others have reported may be their leave to go: look soon, once for all reports."""
        if self._held and not self._will_look:
            endpoints = len(self.queue.places())
            self._look_again(now_s + max(_HEARD_S, _HEARD_S_AN_ENDPOINT * endpoints))

    def predicted_wait_s(self, item: Item, *, behind_cost: float = 0.0) -> float:
        """How long the item would wait if it came now, with so much before it besides what waits.
        At least as long as the pool has begun nothing by now while somebody waited: what takes a
        place for long may keep it for long."""
        now_s = self._now()
        stuck_s = now_s - self._moved_s
        if not self._held:
            stuck_s = min(stuck_s, now_s - item.arrived_s)
        ahead = self.queue.ahead_cost(item) + behind_cost
        able_per_s = self._places.believed_speed * max(1, self.pool.state.responsive(now_s).size)
        wait_s = self.pace.wait_s(ahead, item.priority, now_s, able_per_s=able_per_s)
        return max(wait_s, min(stuck_s, LONGEST_S))

    def sight(self) -> PoolSight:
        """What waits, and whether the endpoints have room."""
        well = self.pool.state.responsive(self._now())
        full = 1.0 - float(self._places.roomy(well).mean()) if well.size else 1.0
        classes = sight_of(self.queue, self._now(), self.predicted_wait_s) if self._held else ()
        return PoolSight(self.pool.name, full, classes)

    # -- inside

    def _bound(self, now_s: float) -> None:
        """Turn away this picker's part of what is too much over all pickers; once in an interval,
        after which it is known that the others have done theirs."""
        if now_s >= self._bounded_s + self.sharing.interval_s:
            self._bounded_s = now_s
            self._turn_away(self.queue.overflow())

    def _turn_away(self, items: Iterable[Item]) -> None:
        for away in items:
            full = self.turned_away(Reason.QUEUE_FULL, away, "The queue of the pool is full.")
            self._refuse(away, full)

    def _look_again(self, at_s: float) -> None:
        def look() -> None:
            self._will_look = False
            self.stir()

        if not self._will_look:
            self._will_look = True
            self._holding.call_at(at_s, look)

    def _let(self, held: Held) -> None:
        self._unhold(held)
        self._let_go[held.item.id] = held
        self._places.let_go.add(held.slot, 1.0, held.uncached_tokens)
        for slot in held.others:
            self._places.let_go.add(slot, 1.0, 0.0)
        self._moved_s = self._now()
        self.pace.given(held.item.cost, self._moved_s)
        self.sharing.sent(held.slot, held.uncached_tokens)
        held.hold.release()

    def _refuse(self, item: Item, refusal: Rejection) -> None:
        held = self._held[item.id]
        self._unhold(held)
        held.refusal = refusal
        held.hold.release()

    def _give_up(self, held: Held, refusal: Rejection) -> None:
        self.queue.cancel(held.item.id)
        self._refuse(held.item, refusal)

    def _unhold(self, held: Held) -> None:
        del self._held[held.item.id]
        self._places.waiting.add(held.slot, -1.0, -held.uncached_tokens)
        if not self.sharing.alone:
            self._report()

    def _assign(self, held: Held, now_s: float) -> None:
        """It waits for the endpoint that was chosen."""
        pick = held.context.picks[0]
        held.slot = self.pool.state.slot_of[pick.address]
        held.others = tuple(self._other_slots(held.context))
        held.uncached_tokens = max(0.0, held.context.prompt_tokens - pick.matched_tokens)
        held.placed_s = now_s
        self._places.grow()
        self._places.waiting.add(held.slot, 1.0, held.uncached_tokens)

    def _look_at(self, slot: int, now_s: float) -> None:
        """An endpoint may have room: what waits for it goes on, in its order, and else what waits
        for others and would rather go there by now."""
        if not self._serves(slot, now_s):
            return
        moves = 0
        while self._has_room(slot):
            self._fetch(slot, now_s)
            if not (waiting := self._places.waiting_for(slot)):
                break
            if not self._serve(slot, now_s):
                moves += 1
                if moves > _MOVES or self._places.waiting_for(slot) >= waiting:
                    return
        if self._held and not self._places.waiting_for(slot) and self._has_room(slot):
            self._invite(now_s)

    def _fetch(self, slot: int, now_s: float) -> None:
        """Whose turn it is may wait for another endpoint, which has become full since: ask anew
        where it should go, before others go here that come after it."""
        item = self.queue.next()
        if item is None or item.place[0] == slot:
            return
        held = self._held[item.id]
        if now_s >= held.placed_s + _PLACED_S and not self._has_room(held.slot):
            self._place_anew(held, now_s)

    def _look_everywhere(self, now_s: float) -> None:
        well = self.pool.state.candidates(now_s)
        waits = self._places.waiting.requests.nonzero()[0].tolist()
        usable = set(well.tolist())
        for slot in waits:
            if slot in usable:
                self._look_at(slot, now_s)
            else:
                self._move_away(slot, now_s)
        if self._held and self._places.roomy(well).any():
            self._invite(now_s)

    def _serve(self, slot: int, now_s: float) -> bool:
        """Let the next go that waits for an endpoint with room, if it would still go there, or
        where there is room as well."""
        for item in self.queue.firsts(slot):
            held = self._held[item.id]
            if not self._begins(slot, held.context, item.priority < 0):
                continue
            if held.placed_s < now_s:
                self._place_anew(held, now_s)
            if self._begin(held):
                return True
        return False

    def _begin(self, held: Held) -> bool:
        """Let it go if there is room for it where it waits."""
        item = held.item
        if not item.waits or not self._begins(held.slot, held.context, item.priority < 0):
            return False
        if not self.sharing.goes(held.slot, held.item):
            return False
        self._take(held)
        return True

    def _take(self, held: Held) -> None:
        """Its turn has come: it is charged as it is expected to cost here and now."""
        cost = self.costs.taken(held.item, held.context, held.uncached_tokens)
        self.queue.take(held.item, self._now(), cost)
        self._let(held)

    def _invite(self, now_s: float) -> None:
        """There is room where nobody waits: those that are next where most waits may be better off
        there."""
        if now_s < self._invited_s + _INVITED_S:
            return
        self._invited_s = now_s
        depths = self.queue.places()
        for place in nlargest(_LONGEST, depths, key=lambda place: depths[place].cost):
            while self._moves(place, now_s):
                pass

    def _moves(self, place: Place, now_s: float) -> bool:
        """Ask anew where the next should go that waits in a place; whether it is let go there."""
        item = self.queue.first(place)
        held = None if item is None else self._held[item.id]
        if held is None or now_s < held.placed_s + _PLACED_S:
            return False
        self._place_anew(held, now_s)
        return self._begin(held)

    def _serves(self, slot: int, now_s: float) -> bool:
        """The endpoint is well; or silent, as all of them are."""
        state = self.pool.state
        return state.is_well(slot, now_s) or bool(state.healthy(now_s)[slot])

    def _move_away(self, slot: int, now_s: float) -> None:
        """An endpoint is gone, or not well: what waits for it waits for others. Where there is no
        better one it goes there in spite of that: better a request that waits than a refusal."""
        here = (held for held in self._held.values() if held.slot == slot)
        some = [*islice(here, _AWAY)]
        if len(some) == _AWAY:  # the others' turn is another one of the event loop
            self._look_again(now_s)
        for held in some:
            self._place_anew(held, now_s)
            if held.item.waits and not self._serves(held.slot, now_s):
                self._take(held)

    def _place_anew(self, held: Held, now_s: float) -> None:
        try:
            held.choose(held.context)
        except Rejection as rejection:
            self._give_up(held, rejection)
            return
        except Exception:  # its own: others and their alarms go on
            log.exception("request %s: placing it anew failed", held.context.request_id)
            failure = Rejection(Reason.INTERNAL, "The endpoint picker failed on this request.")
            self._give_up(held, failure)
            return
        self._places.waiting.add(held.slot, -1.0, -held.uncached_tokens)
        self._assign(held, now_s)
        self.queue.move(held.item, self._place(held))

    def _begins(self, slot: int, context: RequestContext, sheddable: bool) -> bool:
        """The endpoint would begin the request at once."""
        if not self.sharing.has_room(slot, sheddable=sheddable):
            return False
        if context.adapter and not self._places.has_adapter_room(slot, context):
            return False
        return len(context.picks) < 2 or all(
            self.sharing.has_room(one, sheddable=sheddable)
            and self._places.has_adapter_room(one, context)
            for one in self._other_slots(context)
        )

    def _other_slots(self, context: RequestContext) -> Iterator[int]:
        known = self.pool.state.slot_of
        return (known[pick.address] for pick in context.picks[1:] if pick.address in known)

    def _has_room(self, slot: int) -> bool:
        return self.sharing.has_room(slot)

    def _claims(self, slot: int, item: Item) -> float | None:
        held = self._held[item.id]
        return held.uncached_tokens if self._places.has_adapter_room(slot, held.context) else None

    @staticmethod
    def _place(held: Held) -> Place:
        return held.slot, held.context.adapter

    def _set_alarm(self, now_s: float) -> None:
        at_s = min(
            self.queue.next_expiry_s(), self._ledger.next_due_s(self.pool.name), now_s + _LOOK_S
        )
        at_s = min(at_s, self.sharing.next_s())
        at_s = max(at_s, now_s + _SHORTEST_S)
        if at_s < self._alarm_s or self._alarm_s <= now_s:
            self._alarm_s = at_s
            self._holding.call_at(at_s, lambda: self._ring(at_s))

    def _ring(self, at_s: float) -> None:
        """It may be a little early: event loops count milliseconds."""
        if at_s == self._alarm_s:
            self._alarm_s = inf
            self.stir()

    def _when_late(self, item: Item, now_s: float) -> Rejection:
        waited_s = now_s - item.arrived_s
        message = f"The request waited {waited_s:.1f} s for its pool, which is as long as it may."
        return self.turned_away(Reason.QUEUE_TIMEOUT, item, message)

    def turned_away(self, why: Reason, item: Item, message: str) -> Rejection:
        """It does not wait, and is told when to come back."""
        now_s, wait_s = self._now(), self.predicted_wait_s(item)
        ttft_s = item.tokens / self._places.believed_speed
        returning = self._returns.before(item.priority, now_s)
        back_s = self.predicted_wait_s(item, behind_cost=returning) if returning else wait_s
        retry_s = retry_after_s(item, back_s)
        self._returns.add(now_s + retry_s, item.priority, item.cost)
        return turned_away(why, message, retry_s=retry_s, ttft_s=wait_s + ttft_s)
