"""Requests that take idle capacity only, such as lines of batches. They stand in no queue with
others: while anything else waits for the pool, none of them goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from msgspec import Struct

from picker.admission.places import Places
from picker.admission.refusals import stopping
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.seams.holding import Hold, Holding
from picker.state.pool import PoolRuntime
from policies.flow.idle import PRESENT_S, is_idle, rest_s
from policies.flow.item import Item

Choose = Callable[[RequestContext], None]

_MOST_HELD: Final = 8
"""Held ready, so that what frees is used at once. Each holds what it has reserved of its tenant's
limits, so there are few: who sends them is to send no more than go on."""
_HELD_S: Final = 20.0
_PLACED_S: Final = 0.02
"""Time after which it is asked anew where a held request should go."""
_LOOK_S: Final = 0.1


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
        self._set_alarm(now_s)
        try:
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

    def dropped(self, id_: str) -> int | None:
        """A request goes nowhere; the slot that was taken for it."""
        slot, uncached = self._starting.pop(id_, (None, 0.0))
        if slot is not None:
            self.places.let_go.add(slot, -1.0, -uncached)
        return slot

    def ended(self, id_: str) -> None:
        """An endpoint has worked off a request, or lost it."""
        self._running.pop(id_, None)

    def stir(self) -> None:
        """Something has changed: let those go for which there is idle capacity now."""
        now_s = self._now()
        while self._held and self._held[0].item.expires_s <= now_s:
            self._refuse(self._held[0], _nothing_idle())
        while self._held and not self._is_contended():
            held = self._held[0]
            if now_s >= held.placed_s + _PLACED_S:
                held.placed_s = now_s
                try:
                    held.choose(held.context)
                except Rejection as rejection:
                    self._refuse(held, rejection)
                    continue
            if not self._take(held.context):
                break
            self._held.popleft()
            held.hold.release()
        if self._held:
            self._set_alarm(now_s)

    def empty(self) -> None:
        """Refuse those that are held: the picker stops, or the pool is gone."""
        self._closed = True
        while self._held:
            self._refuse(self._held[0], stopping())

    def _take(self, context: RequestContext) -> bool:
        if self._closed or self._is_contended():
            return False
        pick, now_s = context.picks[0], self._now()
        slot = self.pool.state.slot_of.get(pick.address)
        if slot is None or now_s < self._rests_s.get(slot, -inf):
            return False
        places, view = self.places, self.pool.state.view
        places.grow()
        speed, present = places.believed_speed, now_s < self._others_s() + PRESENT_S
        bound = places.bound(slot)
        taken, running = places.let_go, [*self._running.values()].count(slot)
        running += sum(starting[0] == slot for starting in self._starting.values())
        if not is_idle(
            *(view, taken, slot),
            running=running,
            bound=bound,
            tokens_per_s=speed,
            present=present,
        ):
            return False
        uncached = max(0.0, context.prompt_tokens - pick.matched_tokens)
        self._rests_s[slot] = now_s + rest_s(uncached, speed, present=present)
        self._starting[context.id] = slot, uncached
        taken.add(slot, 1.0, uncached)
        return True

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
