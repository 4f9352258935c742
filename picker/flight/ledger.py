"""In-flight ledger: what this picker has sent where and not seen the end of."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from picker.flight.prefill import PrefillSpeed
from picker.state.endpoints import PoolState

_LEASE_BUCKET_S = 10.0


@dataclass(slots=True)
class InFlight:
    """One request in flight. Tokens are whole numbers, so that sums come back to exactly 0."""

    id: str
    pool: str
    address: str
    prompt_tokens: float
    uncached_tokens: float
    output_tokens: float
    """Expected, 0 = unknown."""
    started_s: float
    lease_until_s: float
    backlog_tokens: float
    """Prefill backlog of the endpoint, without this request, at dispatch."""
    prefill_due_s: float
    """When its prefill is believed to be done."""
    prefill_done: bool
    slot: int
    generation: int
    counted_in: PoolState
    """The pool whose columns hold it, as long as the slot is of this generation."""


@dataclass(slots=True)
class _Lane:
    """Entries of one endpoint, in order of dispatch."""

    open: dict[str, InFlight] = field(default_factory=dict)
    prefilling: dict[str, InFlight] = field(default_factory=dict)
    busy_until_s: float = 0.0
    """When the prefill of everything sent so far is believed to be done."""


class Ledger:
    """Counts requests in flight into the in-flight columns of their pool's view, at once.

    Engines prefill in order of arrival, so an entry's prefill is due when the endpoint has worked
    off what is ahead of it, at the speed learned for the pool. Open and close cost O(1) but for
    a heap of prefills under way.
    """

    def __init__(self, pools: Mapping[str, PoolState]) -> None:
        """``pools`` is read at every call: pools may come and go in it."""
        self._pools = pools
        self._entries: dict[str, InFlight] = {}
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._speeds: dict[str, PrefillSpeed] = {}
        self._due: list[tuple[float, int, InFlight]] = []
        self._opened = 0
        self._leases: dict[int, dict[str, InFlight]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: object) -> bool:  # noqa: A002 - the request's id
        return id in self._entries

    def speed(self, pool: str) -> PrefillSpeed:
        """What is learned about the prefill speed of a pool."""
        speed = self._speeds.get(pool)
        if speed is None:
            speed = self._speeds[pool] = PrefillSpeed()
        return speed

    def open(
        self,
        id: str,  # noqa: A002 - the request's id
        *,
        pool: str,
        address: str,
        prompt_tokens: float,
        uncached_tokens: float,
        output_tokens: float,
        now_s: float,
        lease_s: float,
    ) -> InFlight:
        """Count a request that is being sent. Raises ValueError when the id is open already and
        KeyError when pool or address are unknown."""
        if id in self._entries:
            raise ValueError(f"request {id!r} is already in flight")
        self.settle_prefills(now_s)
        state = self._pools[pool]
        slot = state.slot_of[address]
        lane = self._lanes.get((pool, address))
        if lane is None:
            lane = self._lanes[pool, address] = _Lane()
        prompt_tokens = float(round(max(0.0, prompt_tokens)))
        uncached_tokens = min(prompt_tokens, float(round(max(0.0, uncached_tokens))))
        due_s = max(now_s, lane.busy_until_s) + self.speed(pool).prefill_s(uncached_tokens)
        view = state.view
        entry = InFlight(
            id=id,
            pool=pool,
            address=address,
            prompt_tokens=prompt_tokens,
            uncached_tokens=uncached_tokens,
            output_tokens=float(round(max(0.0, output_tokens))),
            started_s=now_s,
            lease_until_s=now_s + lease_s,
            backlog_tokens=float(view.in_flight_prefill_tokens[slot]),
            prefill_due_s=due_s,
            prefill_done=False,
            slot=slot,
            generation=state.generation_of(slot),
            counted_in=state,
        )
        view.in_flight_requests[slot] += 1.0
        view.in_flight_prefill_tokens[slot] += uncached_tokens
        view.in_flight_kv_tokens[slot] += prompt_tokens + entry.output_tokens
        lane.busy_until_s = due_s
        lane.open[id] = lane.prefilling[id] = self._entries[id] = entry
        self._opened += 1
        heapq.heappush(self._due, (due_s, self._opened, entry))
        self._leases.setdefault(_bucket(entry.lease_until_s), {})[id] = entry
        return entry

    def close(
        self,
        id: str,  # noqa: A002 - the request's id
        *,
        ttft_s: float | None = None,
        now_s: float | None = None,
    ) -> InFlight | None:
        """Take back a request that has ended; None when it is unknown or closed already.

        With ``ttft_s`` the pool's speed learns from it, and whatever was sent to the endpoint
        before it counts as prefilled. With ``now_s`` the time it leaves unused is given back.
        """
        entry = self._entries.pop(id, None)
        if entry is None:
            return None
        lane = self._lanes[entry.pool, entry.address]
        if ttft_s is not None:
            self.speed(entry.pool).observe(entry.backlog_tokens + entry.uncached_tokens, ttft_s)
            self._settle_before(lane, entry)
        self._settle(entry, lane)
        del lane.open[id]
        bucket = _bucket(entry.lease_until_s)
        del self._leases[bucket][id]
        if not self._leases[bucket]:
            del self._leases[bucket]
        if _counted(entry):
            view, slot = entry.counted_in.view, entry.slot
            view.in_flight_requests[slot] -= 1.0
            view.in_flight_kv_tokens[slot] -= entry.prompt_tokens + entry.output_tokens
        if not lane.open:
            del self._lanes[entry.pool, entry.address]
        elif now_s is not None and now_s < lane.busy_until_s:
            left_tokens = sum(one.uncached_tokens for one in lane.prefilling.values())
            left_s = self.speed(entry.pool).prefill_s(left_tokens)
            lane.busy_until_s = min(lane.busy_until_s, now_s + left_s)
        return entry

    def settle_prefills(self, now_s: float) -> None:
        """Take entries whose prefill is due off the prefill backlog; call before ranking."""
        due = self._due
        while due and due[0][0] <= now_s:
            entry = heapq.heappop(due)[2]
            if not entry.prefill_done:
                self._settle(entry, self._lanes[entry.pool, entry.address])

    def expire(self, now_s: float) -> list[InFlight]:
        """Close entries whose lease has run out, and return them."""
        last = _bucket(now_s)
        expired = [
            entry
            for bucket, entries in self._leases.items()
            if bucket <= last
            for entry in entries.values()
            if entry.lease_until_s <= now_s
        ]
        for entry in expired:
            self.close(entry.id)
        return expired

    def reconcile(
        self, pool: str, address: str, *, idle_since_s: float, grace_s: float = 5.0
    ) -> list[InFlight]:
        """A scrape that began at ``idle_since_s`` showed the engine idle (nothing running, nothing
        waiting): close, and return, entries opened ``grace_s`` or longer before it."""
        return self._close_lane(pool, address, idle_since_s - grace_s)

    def close_endpoint(self, pool: str, address: str) -> list[InFlight]:
        """The endpoint is gone: close, and return, all its entries."""
        return self._close_lane(pool, address, None)

    def close_all(self) -> list[InFlight]:
        """Close, and return, every entry."""
        closed = list(self._entries.values())
        for entry in closed:
            self.close(entry.id)
        return closed

    def in_flight(self, pool: str, address: str) -> int:
        """Requests open on an endpoint; drained when 0."""
        lane = self._lanes.get((pool, address))
        return 0 if lane is None else len(lane.open)

    def _close_lane(self, pool: str, address: str, until_s: float | None) -> list[InFlight]:
        lane = self._lanes.get((pool, address))
        if lane is None:
            return []
        closed = [e for e in lane.open.values() if until_s is None or e.started_s <= until_s]
        for entry in closed:
            self.close(entry.id)
        return closed

    def _settle_before(self, lane: _Lane, entry: InFlight) -> None:
        while lane.prefilling:
            first = next(iter(lane.prefilling.values()))
            if first is entry or first.started_s > entry.started_s:
                return
            self._settle(first, lane)

    def _settle(self, entry: InFlight, lane: _Lane) -> None:
        if entry.prefill_done:
            return
        entry.prefill_done = True
        del lane.prefilling[entry.id]
        if _counted(entry):
            view = entry.counted_in.view
            view.in_flight_prefill_tokens[entry.slot] -= entry.uncached_tokens


def _counted(entry: InFlight) -> bool:
    """False when the columns no longer hold it: its slot was freed, and its columns zeroed."""
    return entry.counted_in.generation_of(entry.slot) == entry.generation


def _bucket(time_s: float) -> int:
    return int(time_s // _LEASE_BUCKET_S)
