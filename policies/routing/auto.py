"""The policy ``auto``: each request goes where it delays everybody the least, itself included.

All costs are seconds of waiting for a first token; docs/routing.md has the formula and its reasons.
Nothing is to be set: what the costs depend on is learned from requests that have ended.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np

from policies.registry import register
from policies.routing.latency import QuantileLine
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
_FULL: Final = 1.05
"""Share in use of a resource at which its price would be infinite; engines go up to 1."""
_ADAPTER_WAIT: Final = 0.5
"""Of a request's time in the engine, that an adapter waits for each one that is before it in the
queue for a slot."""

_PREFILL_PRIOR: Final = ((0.0, 0.03), (2_000.0, 0.2))
"""Uncached tokens and seconds: an 8B model on one recent accelerator."""
_PREFILL_QUANTILE: Final = 0.3
"""Low, because waiting that the picker does not see makes times longer and never shorter."""
_FASTEST: Final = 1 / 2_000_000
"""Seconds a token of prefill, at the least: costs that are all 0 would order nothing."""
_WHOLE_S: Final = 0.0005
"""Seconds a token: what comes faster than that did not stream, and its first byte is its end."""
_DECODE_PRIOR: Final = ((1.0, 0.015), (100.0, 0.035))
"""Requests at an endpoint and seconds a token."""

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


class Auto(RoutingPolicy):
    """See the module."""

    def __init__(self) -> None:
        self._prefill = QuantileLine(_PREFILL_PRIOR, quantile=_PREFILL_QUANTILE)
        self._decode = QuantileLine(_DECODE_PRIOR, quantile=0.5)
        self._means = _Means()
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
        means = self._means
        cached = np.minimum(request.matched_tokens.take(candidates), request.prompt_tokens)
        uncached = request.prompt_tokens - cached
        ours = pool.in_flight_requests.take(candidates)
        waiting = pool.waiting_requests.take(candidates)
        seen = waiting + pool.running_requests.take(candidates)
        requests = np.maximum(ours, seen)
        # Those that wait there and are not ours have prompts that nobody here knows.
        foreign = np.maximum(waiting - ours, 0.0) * (means.prompt_tokens * (1 - means.hit_rate))
        ahead = pool.in_flight_prefill_tokens.take(candidates) + foreign
        each_s = max(self._prefill.slope, _FASTEST)
        own_s, wait_s = uncached * each_s, ahead * each_s
        if request.adapter is not None:
            wait_s = wait_s + self._adapter_s(request.adapter, pool, candidates)
        slower_s = _STALL * means.output_tokens * self._decode.slope * requests
        harm_s = own_s * (_STALL * requests + _worth(means.hit_rate)) + slower_s
        harm_s += self._room_s(pool, candidates, uncached)
        if request.adapter is not None:
            harm_s += self._slot_s(request.adapter, pool, candidates)
        cost = wait_s + own_s + slower_s + harm_s
        order = _least(cost, count, rng)
        ttft_s = self._prefill.intercept + wait_s + own_s
        tpot_s = self._decode.intercept + self._decode.slope * (requests + 1.0)
        considered = Considered(candidates, -cost, ttft_s, tpot_s, cached, ahead, harm_s)
        return Ranking(
            candidates.take(order),
            -cost.take(order),
            ttft_s.take(order),
            considered,
            tpot_s.take(order),
        )

    def _room_s(self, pool: PoolView, candidates: Slots, uncached: Floats) -> Floats:
        """Price of the KV cache that the request takes from others: its share of an engine's room
        for as long as it runs. Blocks that it shares with others take no room. Where the capacity
        is not known it is as large as elsewhere."""
        capacity = pool.kv_capacity_tokens.take(candidates)
        known = capacity > 0
        if not known.any():
            return np.zeros(candidates.size)
        usage = min(1.0, float(pool.kv_usage.take(candidates).sum()) / candidates.size)
        price = usage * usage / (_FULL - usage) * self._means.decode_s
        if not known.all():
            capacity = np.where(known, capacity, capacity[known].mean())
        room: Floats = (uncached + self._means.output_tokens) / capacity
        return price * room

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
        streams = observation.output_tokens > 4
        each_s = (observation.duration_s - ttft_s) / max(1.0, observation.output_tokens - 1)
        if streams and each_s < _WHOLE_S:
            self._means.observe(observation, None, weight)
            return
        self._means.observe(observation, ttft_s, weight)
        self._prefill.observe(observation.backlog_tokens + observation.uncached_tokens, ttft_s)
        if streams:
            self._decode.observe(observation.features.endpoint.in_flight_requests + 1.0, each_s)

    def snapshot(self) -> Mapping[str, object]:
        return {"seen": self._seen, **asdict(self._means)} if self._seen else {}

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


def _worth(hit_rate: float) -> float:
    """How many prefills a cached token saves: those that are computed evict as many others."""
    rate = min(0.9, hit_rate)
    return rate / (1.0 - rate)


def _least(cost: Floats, count: int, rng: random.Random) -> Slots:
    """Places of the ``count`` least costs, the least first; equal ones in random order."""
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
