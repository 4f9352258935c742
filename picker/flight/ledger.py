"""In-flight ledger: what this picker has sent where and not seen the end of, as columns."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from picker.flight.leg import Leg
from picker.flight.prefill import PrefillSpeed
from picker.request.role import Role
from picker.seams.peers import ALL, Loads, endpoint_keys
from picker.state.endpoints import PoolState
from picker.state.spec import EndpointKey


@dataclass(slots=True)
class _Lane:
    """What this picker has in flight on one endpoint, in order of dispatch."""

    open: dict[tuple[str, Role], Leg] = field(default_factory=dict)
    """By request and role: one endpoint may do both of a request's parts."""
    prefilling: dict[tuple[str, Role], Leg] = field(default_factory=dict)
    prefill_tokens: float = 0.0
    kv_tokens: float = 0.0
    busy_until_s: float = 0.0
    """When the prefill of everything sent so far is believed to be done."""


class Ledger:
    """Counts requests in flight into the in-flight columns of their pool's view, at once.

    Engines prefill in order of arrival, so a leg's prefill is due when the endpoint has worked off
    what is ahead of it, at the speed learned for the pool. Open and close cost O(1) but for a heap
    of prefills under way.
    """

    def __init__(self, pools: Mapping[str, PoolState]) -> None:
        """``pools`` is read at every call: pools may come and go in it."""
        self._pools = pools
        self._lanes: dict[EndpointKey, _Lane] = {}
        self._speeds: dict[str, PrefillSpeed] = {}
        self._due: list[tuple[float, int, Leg]] = []
        self._opened = 0
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
        lane.open[leg.key] = lane.prefilling[leg.key] = leg
        self._opened += 1
        self._changed.add(key)
        heapq.heappush(self._due, (leg.prefill_due_s, self._opened, leg))

    def close(self, leg: Leg, *, ttft_s: float | None = None, now_s: float | None = None) -> bool:
        """Take back a leg that has ended; False when it is not counted.

        With ``ttft_s`` the pool's speed learns from it, and whatever was sent to the endpoint
        before it counts as prefilled. With ``now_s`` the time it leaves unused is given back.
        """
        if leg.counted_in is None:
            return False
        key = (leg.pool, leg.address)
        lane = self._lanes[key]
        if ttft_s is not None:
            self.speed(leg.pool).observe(leg.backlog_tokens + leg.uncached_tokens, ttft_s)
            self._settle_before(lane, leg)
        self._settle(leg, lane)
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
        due = self._due
        while due and due[0][0] <= now_s:
            leg = heapq.heappop(due)[2]
            if not leg.prefill_done:
                self._settle(leg, self._lanes[leg.pool, leg.address])

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

    def _settle_before(self, lane: _Lane, leg: Leg) -> None:
        while lane.prefilling:
            first = next(iter(lane.prefilling.values()))
            if first is leg or first.started_s > leg.started_s:
                return
            self._settle(first, lane)

    def _settle(self, leg: Leg, lane: _Lane) -> None:
        if leg.prefill_done:
            return
        leg.prefill_done = True
        del lane.prefilling[leg.key]
        lane.prefill_tokens -= leg.uncached_tokens
        self._changed.add((leg.pool, leg.address))
        if leg.in_columns and leg.counted_in is not None:
            leg.counted_in.view.in_flight_prefill_tokens[leg.slot] -= leg.uncached_tokens


_EMPTY = _Lane()
