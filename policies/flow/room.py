"""Where one more request would begin at once, and where it would only wait in an engine's queue."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

import numpy as np

from policies.flow.rivals import NOBODY, Before
from policies.routing.types import Bools, Floats, PoolView, Slots

_AHEAD_S: Final = 0.15
"""Prefill that an engine may have before it when it gets one more: it must not run dry while the
end of a prefill is told of and the next request is on its way."""
_QUEUED: Final = 2.0
"""Requests that an engine may have in its queue when it gets one more, for the same reason: what
comes between two of its steps stands there for a moment."""
_ALWAYS: Final = 2.0
"""Requests of ours that an engine may have whatever it reports: it is busy with others' requests
then, and to wait here would let all of these go before."""
_AT_FIRST: Final = 16.0
_GROWTH: Final = 2.0
"""As long as an engine's bound is not known it gets up to twice of what it was seen to run, and 16
more: within a few reports that is as much as it can, and a burst does not flood it before."""
_STEADY: Final = 4
"""Reports in a row with as many requests running, while more wait, that show a full batch: what
waits for a prefill comes to run."""
_SURE: Final = 2
"""Reports in a row with a bound used up, while nothing waits in the engine, that show that it can
more: the last that were sent may not have come there by the first."""
_FASTEST: Final = 6
_SPARE: Final = 0.05
"""Share of an engine's batch, and of its KV cache, that requests leave to others which may be shed:
those would have to wait for an end otherwise, and ends are rare when answers are long."""
_SPARE_AHEAD: Final = 0.5
"""Share of the prefill that an engine may have before it, for the same requests."""
_KV_FREE: Final = 0.02
"""Share of the KV cache that must be free for anything to begin. A cache that is full while nothing
waits may be full of what can be evicted: not every engine leaves that out of its count."""


@dataclass(slots=True)
class Reserved:
    """What has been let go and is not counted in the pool's columns yet; each of shape (n,)."""

    requests: Floats
    prefill_tokens: Floats

    @classmethod
    def none(cls, slots: int) -> Reserved:
        """Nothing, for so many slots."""
        return cls(np.zeros(slots), np.zeros(slots))

    def add(self, slot: int, requests: float, prefill_tokens: float) -> None:
        """More, or less, in one slot."""
        self.requests[slot] += requests
        if self.requests.item(slot):
            self.prefill_tokens[slot] += prefill_tokens
        else:
            self.prefill_tokens[slot] = 0.0  # no remainder of rounding

    def put(self, slot: int, requests: float, prefill_tokens: float) -> None:
        """So much in one slot, whatever it had."""
        self.requests[slot], self.prefill_tokens[slot] = requests, prefill_tokens

    @property
    def any(self) -> bool:
        """Something in some slot."""
        return bool(self.requests.any())

    def clear(self) -> None:
        """Nothing in any."""
        self.requests[:] = self.prefill_tokens[:] = 0.0

    def grow(self, slots: int) -> None:
        """The pool has so many slots now."""
        more = slots - self.requests.size
        if more > 0:
            self.requests = np.concatenate([self.requests, np.zeros(more)])
            self.prefill_tokens = np.concatenate([self.prefill_tokens, np.zeros(more)])


class Batches:
    """How many requests each engine runs at a time, at most: learned from those that had requests
    waiting with KV cache to spare, since no engine tells. One that reports nothing has no bound."""

    def __init__(self) -> None:
        self._most: Floats = np.zeros(0)
        """By slot: 0 = not known."""
        self._ran: Floats = np.zeros(0)
        """By slot: the most that it was seen to run; infinite: it has not reported."""
        self._same: dict[int, tuple[float, int]] = {}
        """By slot with requests waiting: how many ran, and in how many reports one after the
        other."""
        self._pressed: dict[int, int] = {}
        """By slot whose bound is used up, though nothing waits there: in how many reports one after
        the other."""

    def of(self, slots: Slots) -> Floats:
        """Bounds of some slots; infinite where none is known."""
        if slots.size and self._most.size <= slots.max():
            self._grow(int(slots.max()) + 1)
        most = self._most.take(slots)
        return np.where(most > 0, most, _GROWTH * self._ran.take(slots) + _AT_FIRST)

    def bound(self, slot: int) -> float:
        """Bound of one slot; infinite: none is known."""
        if slot >= self._most.size:
            return inf
        most = self._most.item(slot)
        return most if most > 0 else _GROWTH * self._ran.item(slot) + _AT_FIRST

    def saw(
        self,
        slot: int,
        *,
        running: float,
        waiting: float,
        kv_usage: float,
        ahead_s: float,
        ours: float = 0.0,
    ) -> None:
        """An engine has reported its load, while it had ``ahead_s`` of prefill before it: what
        waits for a prefill does not wait for a place in the batch. ``ours``: requests under way
        there; some of them are on their way, so that fewer run than a bound lets through."""
        if self._most.size <= slot:
            self._grow(slot + 1)
        self._press(slot, waiting=waiting, ours=ours)
        ran = self._ran.item(slot)
        self._ran[slot] = running if ran == inf else max(ran, running)
        full = waiting > _QUEUED and kv_usage < 0.9 and running > 0
        times = 0
        if full:
            before, times = self._same.get(slot, (running, 0))
            times = times + 1 if before == running else 1
        self._same[slot] = running, times
        full = full and (ahead_s <= 0 or times >= _STEADY)
        if full or running > self._most.item(slot) > 0:
            self._most[slot] = running

    def reset(self, slot: int) -> None:
        """The slot has another endpoint."""
        self._same.pop(slot, None)
        self._pressed.pop(slot, None)
        if slot < self._most.size:
            self._most[slot], self._ran[slot] = 0.0, inf

    def _press(self, slot: int, *, waiting: float, ours: float) -> None:
        """Raise a bound that keeps requests from an engine where nothing waits, faster and
        faster."""
        if waiting >= 1 or ours < self.bound(slot) + 1:
            self._pressed.pop(slot, None)
            return
        times = self._pressed[slot] = self._pressed.get(slot, 0) + 1
        if times < _SURE:
            return
        if self._most.item(slot) > 0:
            self._most[slot] += 2.0 ** min(times - 1, _FASTEST)
        else:
            self._ran[slot] = max(self._ran.item(slot), ours)

    def _grow(self, slots: int) -> None:
        more = max(slots, 2 * self._most.size) - self._most.size
        self._most = np.concatenate([self._most, np.zeros(more)])
        self._ran = np.concatenate([self._ran, np.full(more, inf)])


def has_room(
    view: PoolView,
    reserved: Reserved,
    batches: Batches,
    slot: int,
    tokens_per_s: float,
    before: Before = NOBODY,
) -> bool:
    """`room` of one slot, in a tenth of the time. ``before``: what else is to go there first."""
    requests = view.in_flight_requests.item(slot) + reserved.requests.item(slot) + before.requests
    if requests < _ALWAYS:
        return True
    ahead = view.in_flight_prefill_tokens.item(slot) + reserved.prefill_tokens.item(slot)
    if ahead + before.tokens > _AHEAD_S * tokens_per_s:
        return False
    waiting, adapters = view.waiting_requests.item(slot), view.lora_slots.item(slot)
    if waiting >= 1 and view.kv_usage.item(slot) > 1.0 - _KV_FREE:
        return False
    if waiting >= _QUEUED and not view.lora_active.item(slot) >= adapters > 0:
        return False
    return requests < batches.bound(slot) + _QUEUED


def has_spare_room(
    view: PoolView,
    reserved: Reserved,
    batches: Batches,
    slot: int,
    tokens_per_s: float,
    before: Before = NOBODY,
) -> bool:
    """The engine would begin one more request at once, and others soon after: requests that may be
    shed leave it a part of itself."""
    requests = view.in_flight_requests.item(slot) + reserved.requests.item(slot) + before.requests
    if requests < _ALWAYS:
        return True
    ahead = view.in_flight_prefill_tokens.item(slot) + reserved.prefill_tokens.item(slot)
    if ahead + before.tokens > _SPARE_AHEAD * _AHEAD_S * tokens_per_s:
        return False
    waiting = view.waiting_requests.item(slot)
    if waiting >= 1 and view.kv_usage.item(slot) > 1.0 - _SPARE:
        return False
    if requests >= (1.0 - _SPARE) * batches.bound(slot):
        return False
    return has_room(view, reserved, batches, slot, tokens_per_s, before)


def room(
    view: PoolView,
    reserved: Reserved,
    batches: Batches,
    slots: Slots,
    tokens_per_s: float,
) -> Bools:
    """Flags of the ``slots``: the engine would begin one more request at once. It has little to
    prefill before it, nothing to speak of in its queue, a place in its batch and KV cache left; or
    hardly anything of ours.
    ``tokens_per_s``: speed of prefill."""
    requests = view.in_flight_requests.take(slots) + reserved.requests.take(slots)
    ahead = view.in_flight_prefill_tokens.take(slots) + reserved.prefill_tokens.take(slots)
    begins: Bools = ahead <= _AHEAD_S * tokens_per_s
    adapters, waiting = view.lora_slots.take(slots), view.waiting_requests.take(slots)
    # With all adapter slots taken, those that wait may wait for one of these.
    taken = (view.lora_active.take(slots) >= adapters) & (adapters > 0)
    begins &= (waiting < _QUEUED) | taken
    begins &= (waiting < 1) | (view.kv_usage.take(slots) <= 1.0 - _KV_FREE)
    begins &= requests < batches.of(slots) + _QUEUED
    begins |= requests < _ALWAYS
    return begins
