"""Requests that take idle capacity only, such as lines of batches. They stand in no queue with
others: while anything else waits for the pool, none of them goes on."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from math import inf
from typing import Final

from msgspec import Struct, structs

from picker.admission.places import Places
from picker.admission.refusals import stopping
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.seams.holding import Hold, Holding
from picker.state.pool import PoolRuntime
from policies.flow.idle import PRESENT_S, is_idle, rest_s
from policies.flow.item import Item

log = logging.getLogger(__name__)

Choose = Callable[[RequestContext], None]

_MOST_HELD: Final = 8
"""Held ready, so that what frees is used at once. Each holds what it has reserved of its tenant's
limits, so there are few: who sends them is to send no more than go on."""
_HELD_S: Final = 20.0
_PLACED_S: Final = 0.02
"""Time after which it is asked anew where a held request should go."""
_LOOK_S: Final = 0.1
_LOOKED_AT: Final = 64
_FOUND: Final = 4
"""Endpoints that are looked at for idle capacity at once, and that one is placed among."""


class _Held(Struct, eq=False):
    item: Item
    context: RequestContext
    hold: Hold
    choose: Choose
    placed_s: float
    refusal: Rejection | None = None


class IdleLane:
    """One pool's. Single-threaded."""

    def __init__(
        self,
        pool: PoolRuntime,
        places: Places,
        holding: Holding,
        is_contended: Callable[[], bool],
        others_s: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """``is_contended``: somebody waits for the pool in its queue; ``others_s``: when the last
        request of another kind came."""
        self.pool = pool
        self.places = places
        self._holding, self._now = holding, now
        self._is_contended, self._others_s = is_contended, others_s
        self._held: deque[_Held] = deque()
        self._starting: dict[str, tuple[int, float]] = {}
        """Slot and uncached tokens of those that were let go and are not counted yet, by id."""
        self._running: dict[str, int] = {}
        """Slots of those that are under way, by id."""
        self._there: Counter[int] = Counter()
        """How many are under way or starting, by slot."""
        self._turn = 0
        self._rests_s: dict[int, float] = {}
        """By slot: until when it gets nothing more."""
        self._alarm_s = inf
        self._closed = False

    @property
    def busy(self) -> bool:
        """Some are held."""
        return bool(self._held)

    def passes(self, context: RequestContext) -> bool:
        """The endpoint chosen for a placed request is idle; then it counts as taken."""
        return not self._held and self._take(context)

    async def wait(self, item: Item, context: RequestContext, choose: Choose) -> None:
        """Return when there is idle capacity for a placed request. Raises Rejection when there is
        none in time, or others are held already."""
        if self._closed:
            raise stopping()
        if len(self._held) >= _MOST_HELD:
            raise _nothing_idle()
        now_s = self._now()
        held = _Held(item, context, self._holding.hold(), choose, now_s)
        self._held.append(held)
        try:
            if len(self._held) == 1 and not self._is_contended():
                self._go(held, now_s)
            if held in self._held:
                self._set_alarm(now_s)
                if context.on_wait is not None:
                    context.on_wait(_HELD_S)
            await held.hold
        except BaseException:
            if held in self._held:
                self._held.remove(held)
            self.dropped(context.id)
            raise
        if held.refusal is not None:
            raise held.refusal

    def counted(self, id_: str) -> None:
        """A request is counted where it goes."""
        slot = self.dropped(id_)
        if slot is not None:
            self._running[id_] = slot
            self._there[slot] += 1

    def dropped(self, id_: str) -> int | None:
        """A request goes nowhere; the slot that was taken for it."""
        slot, uncached = self._starting.pop(id_, (None, 0.0))
        if slot is not None:
            self.places.let_go.add(slot, -1.0, -uncached)
            self._left(slot)
        return slot

    def ended(self, id_: str) -> None:
        """An endpoint has worked off a request, or lost it."""
        slot = self._running.pop(id_, None)
        if slot is not None:
            self._left(slot)

    def stir(self) -> None:
        """Something has changed: let those go for which there is idle capacity now."""
        now_s = self._now()
        while self._held and self._held[0].item.expires_s <= now_s:
            self._refuse(self._held[0], _nothing_idle())
        while self._held and not self._is_contended():
            held = self._held[0]
            if now_s >= held.placed_s + _PLACED_S:
                held.placed_s = now_s
                self._place(held)
            if held in self._held and not self._go(held, now_s):
                break
        if self._held:
            self._set_alarm(now_s)

    def empty(self) -> None:
        """Refuse those that are held: the picker stops, or the pool is gone."""
        self._closed = True
        while self._held:
            self._refuse(self._held[0], stopping())

    def _go(self, held: _Held, now_s: float) -> bool:
        """Let one go where it was placed, or else where there is idle capacity."""
        if not self._take(held.context):
            idle = self._idle_now(now_s)
            if not idle or not self._place(held, idle) or not self._take(held.context):
                return False
        self._held.remove(held)
        held.hold.release()
        return True

    def _place(self, held: _Held, among: frozenset[str] | None = None) -> bool:
        """Ask anew where one should go, ``among`` some endpoints or all; false: nowhere."""
        head = held.context.head
        if among is not None:
            among = among if head.subset is None else among & head.subset
            held.context.head = structs.replace(head, subset=among)
        try:
            held.choose(held.context)
        except Rejection as rejection:
            if among is None:
                self._refuse(held, rejection)
            return False
        except Exception:  # its own: others go on
            log.exception("request %s: placing it anew failed", held.context.request_id)
            message = "The endpoint picker failed on this request."
            self._refuse(held, Rejection(Reason.INTERNAL, message))
            return False
        finally:
            held.context.head = head
        return True

    def _take(self, context: RequestContext) -> bool:
        """Take idle capacity for a request where it was placed."""
        if self._closed or self._is_contended():
            return False
        pick, now_s = context.picks[0], self._now()
        slot = self.pool.state.slot_of.get(pick.address)
        if slot is None or not self._is_idle(slot, now_s):
            return False
        uncached = max(0.0, context.prompt_tokens - pick.matched_tokens)
        speed, present = self.places.believed_speed, self._is_present(now_s)
        self._rests_s[slot] = now_s + rest_s(uncached, speed, present=present)
        self._starting[context.id] = slot, uncached
        self._there[slot] += 1
        self.places.let_go.add(slot, 1.0, uncached)
        return True

    def _idle_now(self, now_s: float) -> frozenset[str]:
        """A few endpoints with idle capacity, other ones each time."""
        slots = [*self.pool.state.slot_of.items()]
        self._turn = (self._turn + 1) % len(slots) if slots else 0
        found: list[str] = []
        for address, slot in (slots[self._turn :] + slots[: self._turn])[:_LOOKED_AT]:
            if self._is_idle(slot, now_s):
                found.append(address)
                if len(found) == _FOUND:
                    break
        return frozenset(found)

    def _is_idle(self, slot: int, now_s: float) -> bool:
        if now_s < self._rests_s.get(slot, -inf):
            return False
        self.places.grow()
        return is_idle(
            *(self.pool.state.view, self.places.let_go, slot),
            running=self._there[slot],
            bound=self.places.bound(slot),
            tokens_per_s=self.places.believed_speed,
            present=self._is_present(now_s),
        )

    def _is_present(self, now_s: float) -> bool:
        return now_s < self._others_s() + PRESENT_S

    def _left(self, slot: int) -> None:
        self._there[slot] -= 1
        if self._there[slot] <= 0:
            del self._there[slot]

    def _refuse(self, held: _Held, refusal: Rejection) -> None:
        self._held.remove(held)
        held.refusal = refusal
        held.hold.release()

    def _set_alarm(self, now_s: float) -> None:
        due_s = min((at_s for at_s in self._rests_s.values() if at_s > now_s), default=inf)
        at_s = min(due_s, now_s + _LOOK_S)
        if at_s < self._alarm_s or self._alarm_s <= now_s:
            self._alarm_s = at_s
            self._holding.call_at(at_s, lambda: self._ring(at_s))

    def _ring(self, at_s: float) -> None:
        if at_s == self._alarm_s:
            self._alarm_s = inf
            self.stir()


def expires_s(now_s: float, patience_s: float) -> float:
    """Until when a request is held that comes now."""
    return now_s + min(_HELD_S, 0.9 * patience_s)


def _nothing_idle() -> Rejection:
    message = "There is no idle capacity now, and this request takes nothing else."
    return Rejection(Reason.OVERLOADED, message, headers=(("retry-after", "1"),))
