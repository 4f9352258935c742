"""The policy ``auto``: each request goes where it delays everybody the least, itself included.

All costs are seconds of waiting for a first token; docs/routing.md has the formula and its reasons.
Nothing is to be set: what the costs depend on is learned from requests that have ended.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import exp, inf
from typing import Final, NamedTuple

import numpy as np

from policies.registry import register
from policies.routing.columns import largest, least
from policies.routing.latency import Latencies
from policies.routing.types import (
    AdapterView,
    Considered,
    Floats,
    Observation,
    PoolView,
    Ranking,
    RoutingPolicy,
    RoutingRequest,
    Slots,
)

_STALL: Final = 0.3
"""What a second that a running stream stands still counts, against one before a first token: a
reader notices it less, because the stream has gone ahead of him."""
_LARGE: Final = 3.0
"""Usual prefills from which on a prefill is large. What requests of usual size do to each other
evens out; making room for them would only let some of them wait longer."""
_CROWDED_S: Final = 20.0
"""Over which time it is measured how crowded a pool is."""
_MOST_CROWDED: Final = 10.0
_FULL: Final = 1.05
"""Share in use of a resource at which its price would be infinite; engines go up to 1."""
_ADAPTER_WAIT: Final = 0.5
"""Of a request's time in the engine, that an adapter waits for each one that is before it in the
queue for a slot."""

_LATE_S: Final = 1e6
"""More than any other cost: an objective that is missed."""
_SLOWEST_FADING: Final = 0.01
"""Weight of one observation in a mean, when many have been seen."""


@dataclass(slots=True)
class _Means:
    """Of requests that have ended, each an exponentially weighted mean."""

    output_tokens: float = 200.0
    decode_s: float = 5.0
    """From the first token to the end."""
    ttft_s: float = 0.5
    hit_rate: float = 0.0
    """Cached share of the prompt tokens, 0 to 1."""
    prompt_tokens: float = 1_000.0

    def observe(self, seen: Observation, ttft_s: float | None, weight: float) -> None:
        """Learn from a request; ``weight`` from 0 to 1. Without ``ttft_s`` it did not stream."""
        self.output_tokens += weight * (seen.output_tokens - self.output_tokens)
        if ttft_s is None:
            ttft_s = min(self.ttft_s, seen.duration_s)
        self.decode_s += weight * (max(0.0, seen.duration_s - ttft_s) - self.decode_s)
        self.ttft_s += weight * (ttft_s - self.ttft_s)
        if seen.prompt_tokens > 0:
            hit = 1.0 - min(1.0, seen.uncached_tokens / seen.prompt_tokens)
            share = min(1.0, seen.prompt_tokens / self.prompt_tokens)  # long prompts count more
            self.hit_rate += weight * share * (hit - self.hit_rate)
            self.prompt_tokens += weight * (seen.prompt_tokens - self.prompt_tokens)


class _Crowd:
    """How crowded a pool is: the usual wait before its endpoints, by the time of a large prefill,
    to the third power. So it is nearly nothing at ease, when the next request finds some endpoint
    free whatever a large one does, and grows fast when most have work before them."""

    def __init__(self) -> None:
        self.factor = 0.0
        """From 0 to 10."""
        self._waits = 0.0
        self._seen_s: float | None = None

    def see(self, waits_s: Floats, large_s: float, now_s: float) -> None:
        """The waits before all candidates now, and the time of a large prefill. Of the waits the
        mean of square roots counts, squared: few that are long do not make a crowd."""
        root_s = float(np.add.reduce(np.sqrt(waits_s))) / waits_s.size
        waits = root_s * root_s / large_s
        since_s = inf if self._seen_s is None else max(0.0, now_s - self._seen_s)
        self._seen_s = now_s
        self._waits += (1.0 - exp(-since_s / _CROWDED_S)) * (waits - self._waits)
        self.factor = min(_MOST_CROWDED, self._waits**3)


class _There(NamedTuple):
    """What a request meets: columns over the candidates."""

    cached: Floats
    """Tokens of its prompt that are believed to be there."""
    uncached: Floats
    requests: Floats
    context: Floats
    """KV tokens of the requests of ours."""
    ahead: Floats
    """Tokens to prefill before it."""


class _Costs(NamedTuple):
    """Seconds, by candidate."""

    own_s: Floats
    harm_s: Floats
    """Of others: those there, and those to come."""
    ttft_s: Floats
    tpot_s: Floats


class Auto(RoutingPolicy):
    """See the module."""

    def __init__(self) -> None:
        self._latencies = Latencies()
        self._means = _Means()
        self._crowd = _Crowd()
        self._seen = 0

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        if request.adapter is not None:
            candidates = candidates[request.adapter.served.take(candidates)]
        if candidates.size == 0:
            return Ranking(candidates, np.empty(0))
        there = self._there(request, pool, candidates)
        costs = self._costs(request, pool, candidates, there, now_s)
        cost = costs.own_s + costs.harm_s
        if request.ttft_objective_s < inf or request.tpot_objective_s < inf:
            late = self._latencies.late(request, costs.ttft_s, costs.tpot_s)
            # First what is met, at the least harm; else what is least late.
            cost = np.where(late > 0, _LATE_S * (1.0 + late) + cost, costs.harm_s)
        order = _least(cost, count, rng)
        scores = -cost
        considered = Considered(
            candidates,
            scores,
            costs.ttft_s,
            costs.tpot_s,
            there.cached,
            there.ahead,
            costs.harm_s,
        )
        return Ranking(
            candidates.take(order),
            scores.take(order),
            costs.ttft_s.take(order),
            considered,
            costs.tpot_s.take(order),
        )

    def _there(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> _There:
        """What the request meets at each candidate."""
        cached = np.minimum(request.matched_tokens.take(candidates), request.prompt_tokens)
        requests = pool.in_flight_requests.take(candidates)
        ahead = pool.in_flight_prefill_tokens.take(candidates)
        foreign = pool.foreign_requests.take(candidates)
        if largest(foreign) > 0:
            requests = requests + foreign
            # Those that wait there and are not ours have prompts that nobody here knows.
            unknown = np.minimum(pool.waiting_requests.take(candidates), foreign)
            ahead = ahead + unknown * (self._means.prompt_tokens * (1 - self._means.hit_rate))
        return _There(
            cached=cached,
            uncached=request.prompt_tokens - cached,
            requests=requests,
            context=pool.in_flight_kv_tokens.take(candidates),
            ahead=ahead,
        )

    def _costs(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        there: _There,
        now_s: float,
    ) -> _Costs:
        """Of a request that is to prefill, to decode, or both."""
        means, latencies = self._means, self._latencies
        answer = means.output_tokens if request.decodes else 0.0
        pace = latencies.first_paces.take(candidates)
        if request.prefills:
            prefill_s = pace * latencies.prefills_s(request.prompt_tokens, there.uncached)
            wait_s = (latencies.prefill_s * pace) * there.ahead
            first_s = prefill_s + wait_s
        else:
            prefill_s = wait_s = first_s = np.zeros(candidates.size)
        ttft_s = first_s + pace * latencies.overhead_s(there.requests)
        tpot_s = latencies.each_paces.take(candidates) * latencies.token_s(
            there.requests, there.context
        )
        own_s = first_s + (_STALL * answer) * tpot_s
        if request.session_slot is not None:
            moved_s = latencies.prefill_s * (request.prompt_tokens + means.prompt_tokens)
            own_s += np.where(candidates == request.session_slot, 0.0, moved_s)
        harm_s = prefill_s * _worth(means.hit_rate)
        if request.decodes:
            harm_s += (_STALL * answer * latencies.crowding_s) * there.requests
        if request.decodes and request.prefills:
            usual_s = latencies.prefill_s * max(1.0, means.prompt_tokens * (1 - means.hit_rate))
            large_s = _LARGE * usual_s
            self._crowd.see(wait_s, large_s, now_s)
            if largest(prefill_s) > large_s:
                stall_s = np.maximum(prefill_s - large_s, 0.0)
                harm_s += (self._crowd.factor * _STALL) * there.requests * stall_s
        harm_s += self._room_s(pool, candidates, there.uncached + answer)
        if request.adapter is not None:
            slot_wait_s = self._adapter_s(request.adapter, pool, candidates)
            own_s += slot_wait_s
            ttft_s += slot_wait_s
            harm_s += self._slot_s(request.adapter, pool, candidates)
        return _Costs(own_s, harm_s, ttft_s, tpot_s)

    def _room_s(self, pool: PoolView, candidates: Slots, tokens: Floats) -> Floats:
        """Price of the KV cache that the request takes from others: its share of an engine's room
        for as long as it runs. Blocks that it shares with others take no room. Where the capacity
        is not known it is as large as elsewhere."""
        capacity = pool.kv_capacity_tokens.take(candidates)
        if least(capacity) <= 0:
            known = capacity > 0
            if not known.any():
                return np.zeros(candidates.size)
            capacity = np.where(known, capacity, capacity[known].mean())
        usage = min(1.0, float(np.add.reduce(pool.kv_usage.take(candidates))) / candidates.size)
        price = usage * usage / (_FULL - usage) * self._means.decode_s
        room: Floats = price * tokens / capacity
        return room

    def _adapter_s(self, adapter: AdapterView, pool: PoolView, candidates: Slots) -> Floats:
        """How long the request waits for a slot of its LoRA adapter; 0 where the engine does not
        say how many it has."""
        slots = pool.lora_slots.take(candidates)
        queued = pool.lora_active.take(candidates) - slots
        before = np.maximum(queued + np.where(adapter.waiting.take(candidates), 0.0, 1.0), 0.0)
        wait: Floats = _ADAPTER_WAIT * (self._means.ttft_s + self._means.decode_s) * before
        return np.where(adapter.running.take(candidates) | (slots == 0), 0.0, wait)

    def _slot_s(self, adapter: AdapterView, pool: PoolView, candidates: Slots) -> Floats:
        """Price of the adapter slot that it takes from others; none where it has one, and where the
        engine does not say how many it has."""
        slots = pool.lora_slots.take(candidates)
        known = slots > 0
        if not known.any():
            return np.zeros(candidates.size)
        usage = min(1.0, float((pool.lora_active.take(candidates)[known] / slots[known]).mean()))
        price = usage / (_FULL - usage) * (self._means.ttft_s + self._means.decode_s)
        free = adapter.running.take(candidates) | adapter.waiting.take(candidates) | ~known
        return np.where(free, 0.0, price / np.maximum(slots, 1.0))

    def observe(self, observation: Observation, now_s: float) -> None:
        ttft_s = observation.ttft_s
        if not observation.ok or ttft_s is None or ttft_s <= 0:
            return
        if observation.slot != observation.features.slot:
            return  # it was tried elsewhere before, and what was seen is of that endpoint
        self._seen += 1
        weight = max(_SLOWEST_FADING, 1.0 / (self._seen + 1))
        streamed = self._latencies.observe(observation, ttft_s)
        self._means.observe(observation, ttft_s if streamed else None, weight)

    def reset(self, slot: int) -> None:
        self._latencies.reset(slot)

    def snapshot(self) -> Mapping[str, object]:
        if not self._seen:
            return {}
        return {"seen": self._seen, **asdict(self._means), **self._latencies.snapshot()}

    def restore(self, snapshot: Mapping[str, object]) -> None:
        found = {}
        for field in fields(_Means):
            value = snapshot.get(field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                return
            if not 0.0 <= value < 1e12:
                return
            found[field.name] = float(value)
        if found["hit_rate"] > 1.0 or found["prompt_tokens"] == 0.0:
            return
        self._means = _Means(**found)
        self._seen = 20  # new values count soon
        self._latencies.restore(snapshot)


def _worth(hit_rate: float) -> float:
    """How many prefills a cached token saves: those that are computed evict as many others."""
    rate = min(0.9, hit_rate)
    return rate / (1.0 - rate)


def _least(cost: Floats, count: int, rng: random.Random) -> Slots:
    """Places of the ``count`` least costs, the least first; equal ones in random order."""
    sorted_ = cost.argsort()
    values = cost.take(sorted_[: count + 1]).tolist()
    if len({*values}) == len(values):
        return sorted_[:count]
    left = cost.copy()
    chosen: list[int] = []
    for _ in range(min(count, cost.size)):
        ties = (left == left.item(left.argmin())).nonzero()[0]
        chosen.append(ties.item(rng.randrange(ties.size) if ties.size > 1 else 0))
        left[chosen[-1]] = np.inf
    return np.array(chosen, np.intp)


@register("policy", "auto")
def auto() -> Auto:
    """Least delay for everybody, all constants learned."""
    return Auto()
