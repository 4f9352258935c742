"""In-flight ledger: what this picker has sent where and not seen the end of, as columns."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Final

import numpy as np

from picker.flight.leg import Leg
from picker.flight.prefill import PrefillSpeed
from picker.request.role import Role
from picker.seams.peers import ALL, Loads, endpoint_keys
from picker.state.endpoints import PoolState
from picker.state.spec import EndpointKey

_LOOKED_AT: Final = 64
_MAX_SHOWN: Final = 4096


@dataclass(slots=True)
class _Lane:
    """What this picker has in flight on one endpoint, in order of dispatch."""

    open: dict[tuple[str, Role], Leg] = field(default_factory=dict)
    """By request and role: one endpoint may do both of a request's parts."""
    awaited: dict[tuple[str, Role], Leg] = field(default_factory=dict)
    """Those whose first token nobody has told of."""
    prefill_tokens: float = 0.0
    kv_tokens: float = 0.0
    busy_until_s: float = 0.0
    """When the prefill of everything sent so far is believed to be done."""


@dataclass(slots=True)
class _Told:
    """What an engine has told of its first tokens."""

    total: float
    at_s: float
    shown_s: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_SHOWN))
    """When first tokens came that ended requests have shown, and that are not in the total."""
    part: float = 0.0
    """Of a first token that is not one of this picker's yet, or of one too many: -1 to 0.5."""

    def shown_until(self, at_s: float) -> int:
        """How many were shown until then; they are forgotten."""
        before, later = len(self.shown_s), [came_s for came_s in self.shown_s if came_s > at_s]
        self.shown_s = deque(later, maxlen=_MAX_SHOWN)
        return before - len(later)


class Ledger:
    """Counts requests in flight into the in-flight columns of their pool's view, at once.

    Engines prefill in order of arrival, so a leg's prefill is due when the endpoint has worked off
    what is ahead of it, at the speed learned for the pool; an engine that counts its first tokens
    corrects that at each scrape. Open and close cost O(1) but for a heap of prefills under way.
    """

    def __init__(self, pools: Mapping[str, PoolState]) -> None:
        """``pools`` is read at every call: pools may come and go in it."""
        self._pools = pools
        self._lanes: dict[EndpointKey, _Lane] = {}
        self._speeds: dict[str, PrefillSpeed] = {}
        self._due: dict[str, list[tuple[float, int, Leg]]] = {}
        """By pool."""
        self._opened = 0
        self._told: dict[EndpointKey, _Told] = {}
        """Of engines that count first tokens."""
        self._changed: set[EndpointKey] = set()

    def __len__(self) -> int:
        """Legs of this picker in flight."""
        return sum(len(lane.open) for lane in self._lanes.values())

    def speed(self, pool: str) -> PrefillSpeed:
        """What is learned about the prefill speed of a pool."""
        speed = self._speeds.get(pool)
        if speed is None:
            speed = self._speeds[pool] = PrefillSpeed()
        return speed

    def open(self, leg: Leg, now_s: float) -> None:
        """Count a request that is being sent. Raises ValueError when it is open there already and
        KeyError when pool or address are unknown."""
        self.settle_prefills(now_s)
        state = self._pools[leg.pool]
        slot = state.slot_of[leg.address]
        key = (leg.pool, leg.address)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        elif leg.key in lane.open:
            raise ValueError(f"request {leg.id!r} is already in flight on {leg.address}")
        leg.prompt_tokens = float(round(max(0.0, leg.prompt_tokens)))
        leg.uncached_tokens = min(leg.prompt_tokens, float(round(max(0.0, leg.uncached_tokens))))
        leg.output_tokens = float(round(max(0.0, leg.output_tokens)))
        view = state.view
        leg.backlog_tokens = float(view.in_flight_prefill_tokens[slot])
        # Of other pickers.
        ahead_tokens = max(0.0, leg.backlog_tokens - lane.prefill_tokens)
        speed = self.speed(leg.pool)
        due_s = max(now_s, lane.busy_until_s) + speed.prefill_s(leg.uncached_tokens)
        if key not in self._told or len(lane.awaited) <= _LOOKED_AT:
            lane.busy_until_s = due_s
        leg.prefill_due_s = due_s + speed.prefill_s(ahead_tokens)
        leg.started_s, leg.prefill_done = now_s, False
        leg.slot, leg.generation, leg.counted_in = slot, state.generation_of(slot), state
        kv_tokens = leg.prompt_tokens + leg.output_tokens
        view.in_flight_requests[slot] += 1.0
        view.in_flight_prefill_tokens[slot] += leg.uncached_tokens
        view.in_flight_kv_tokens[slot] += kv_tokens
        lane.prefill_tokens += leg.uncached_tokens
        lane.kv_tokens += kv_tokens
        lane.open[leg.key] = lane.awaited[leg.key] = leg
        self._changed.add(key)
        self._expect(leg)

    def close(self, leg: Leg, *, ttft_s: float | None = None, now_s: float | None = None) -> bool:
        """Take back a leg that has ended; False when it is not counted.

        With ``ttft_s`` the pool's speed learns from it, and it counts as prefilled with whatever
        was sent to the endpoint before it. With ``now_s`` the time it leaves unused is given back.
        """
        if leg.counted_in is None:
            return False
        key = (leg.pool, leg.address)
        lane = self._lanes[key]
        if ttft_s is not None:
            self.speed(leg.pool).observe(leg.backlog_tokens + leg.uncached_tokens, ttft_s)
            self._first_token(leg, lane, leg.started_s + ttft_s)
        self._settle(leg, lane)
        lane.awaited.pop(leg.key, None)
        del lane.open[leg.key]
        kv_tokens = leg.prompt_tokens + leg.output_tokens
        lane.kv_tokens -= kv_tokens
        if leg.in_columns:
            view, slot = leg.counted_in.view, leg.slot
            view.in_flight_requests[slot] -= 1.0
            view.in_flight_kv_tokens[slot] -= kv_tokens
        leg.counted_in = None
        self._changed.add(key)
        if not lane.open:
            del self._lanes[key]
        elif now_s is not None and now_s < lane.busy_until_s:
            left_s = self.speed(leg.pool).prefill_s(lane.prefill_tokens)
            lane.busy_until_s = min(lane.busy_until_s, now_s + left_s)
        return True

    def settle_prefills(self, now_s: float) -> None:
        """Take legs whose prefill is due off the prefill backlog; call before ranking."""
        for due in self._due.values():
            while due and due[0][0] <= now_s:
                leg = heapq.heappop(due)[2]
                if leg.counted_in is None or leg.prefill_done:
                    continue
                if leg.prefill_due_s > now_s:  # it was put off
                    self._expect(leg)
                else:
                    self._settle(leg, self._lanes[leg.pool, leg.address])

    def next_due_s(self, pool: str) -> float:
        """When the next prefill under way in a pool may be done; infinite: none is."""
        due = self._due.get(pool)
        return due[0][0] if due else inf

    def engine_told(self, pool: str, address: str, first_tokens: float, at_s: float) -> None:
        """An engine has produced so many first tokens since it began, as of ``at_s``.

        They belong to the requests that it got first: those are prefilled, and the others are not,
        whatever was believed. Requests of other pickers and clients are among them, in the
        proportion in which they are in flight.
        """
        key = (pool, address)
        told = self._told.get(key)
        if told is not None and at_s < told.at_s:
            return  # another picker read it, and that came late
        if told is None or first_tokens < told.total:  # known for the first time, or begun anew
            self._told[key] = _Told(first_tokens, at_s)
            return
        new = first_tokens - told.total
        told.total, told.at_s = first_tokens, at_s
        shown = told.shown_until(at_s)
        lane = self._lanes.get(key)
        if lane is None:
            told.part = 0.0
            return
        new = told.part + new * self._share(lane, key) - shown
        while new >= 0.5 and lane.awaited:
            leg = next(iter(lane.awaited.values()))
            if leg.started_s > at_s:
                break
            del lane.awaited[leg.key]
            self._settle(leg, lane)
            new -= 1
        told.part = max(-1.0, new) if new < 0.5 else 0.0
        self._expect_awaited(lane, self.speed(pool), at_s)

    def sweep(self) -> None:
        """Forget what engines told that are in no pool any more."""
        for pool, address in tuple(self._told):
            state = self._pools.get(pool)
            if state is None or address not in state.slot_of:
                del self._told[pool, address]

    def opened_until(self, pool: str, address: str, until_s: float) -> list[Leg]:
        """Legs on an endpoint that were opened at ``until_s`` or before."""
        lane = self._lanes.get((pool, address))
        if lane is None:
            return []
        return [leg for leg in lane.open.values() if leg.started_s <= until_s]

    def in_flight(self, pool: str, address: str) -> int:
        """Legs of this picker that are open on an endpoint."""
        lane = self._lanes.get((pool, address))
        return 0 if lane is None else len(lane.open)

    def loads(self, *, everything: bool = False) -> Iterator[Loads]:
        """By pool: of the endpoints whose loads have changed since they were last asked for, or
        all there is."""
        endpoints = self._lanes.keys() if everything else self._changed
        by_pool: dict[str, list[str]] = {pool: [] for pool in self._pools} if everything else {}
        for pool, address in endpoints:
            by_pool.setdefault(pool, []).append(address)
        self._changed = set()
        for pool, addresses in by_pool.items():
            numbers: list[float] = []
            for address in addresses:
                lane = self._lanes.get((pool, address)) or _EMPTY
                numbers += len(lane.open), lane.prefill_tokens, lane.kv_tokens
            rows = np.array(numbers).reshape(-1, 3)
            yield Loads(pool, endpoint_keys(addresses), rows, ALL if everything else None)

    @property
    def changed(self) -> bool:
        """Loads have changed since they were last asked for."""
        return bool(self._changed)

    def _share(self, lane: _Lane, key: EndpointKey) -> float:
        """Of the requests in flight on an endpoint, those of this picker. The engine counts those
        of other clients too, and each sequence of a request that has many."""
        state = self._pools.get(key[0])
        slot = None if state is None else state.slot_of.get(key[1])
        if state is None or slot is None:
            return 1.0
        view = state.view
        seen = view.running_requests.item(slot) + view.waiting_requests.item(slot)
        return min(1.0, len(lane.open) / max(1.0, seen, view.in_flight_requests.item(slot)))

    def _expect(self, leg: Leg) -> None:
        self._opened += 1
        due = self._due.get(leg.pool)
        if due is None:
            due = self._due[leg.pool] = []
        heapq.heappush(due, (leg.prefill_due_s, self._opened, leg))

    def _expect_awaited(self, lane: _Lane, speed: PrefillSpeed, at_s: float) -> None:
        """At ``at_s`` the engine had all of these still to do, the first of them perhaps in part:
        half of it is the best guess. Of a long queue the beginning is enough: the rest is looked at
        when its turn comes."""
        due_s, part = at_s, 0.5
        for leg in islice(lane.awaited.values(), _LOOKED_AT):
            due_s = max(due_s, leg.started_s) + part * speed.prefill_s(leg.uncached_tokens)
            part = 1.0
            leg.prefill_due_s = due_s
            if leg.prefill_done:
                leg.prefill_done = False
                self._count_prefill(leg, lane, leg.uncached_tokens)
                self._expect(leg)
        if len(lane.awaited) <= _LOOKED_AT:
            lane.busy_until_s = due_s

    def _first_token(self, leg: Leg, lane: _Lane, came_s: float) -> None:
        """A leg had its first token at ``came_s``, and those that were sent before it had theirs by
        then. What came before the engine's count was read is in it."""
        told = self._told.get((leg.pool, leg.address))
        while leg.key in lane.awaited:
            first = next(iter(lane.awaited.values()))
            del lane.awaited[first.key]
            self._settle(first, lane)
            if told is not None and came_s > told.at_s:
                told.shown_s.append(came_s)

    def _settle(self, leg: Leg, lane: _Lane) -> None:
        if leg.prefill_done:
            return
        leg.prefill_done = True
        self._count_prefill(leg, lane, -leg.uncached_tokens)

    def _count_prefill(self, leg: Leg, lane: _Lane, tokens: float) -> None:
        lane.prefill_tokens += tokens
        self._changed.add((leg.pool, leg.address))
        if leg.in_columns and leg.counted_in is not None:
            leg.counted_in.view.in_flight_prefill_tokens[leg.slot] += tokens


_EMPTY = _Lane()
