"""Baselines of llm-d's router: the legacy blend of scores, and token-aware routing.

Formulas from llm-d-router's plugins (prefix-cache-affinity-filter, token-load-scorer,
active-request-scorer, no-hit-lru-scorer) and "Sticky Until Saturated: Token-Aware Routing in
llm-d" (llm-d blog, August 2026).
"""

from __future__ import annotations

import random

import numpy as np

from policies.registry import register
from policies.routing.baselines.baseline import Baseline, preferred_first
from policies.routing.scorers import KvUsage, Lora, Prefix, Queue
from policies.routing.types import Floats, PoolView, RoutingRequest, Slots

_QUEUE, _KV, _PREFIX, _LORA = Queue(), KvUsage(), Prefix(), Lora()


@register("policy", "llm-d-legacy")
class LlmdLegacy(Baseline):
    """The weighted blend that was llm-d's default until 2026: queue, KV, prefix, no-hit LRU, LoRA.

    Queue and KV are as old as the last scrape, as in llm-d itself. No-hit LRU: when no candidate
    has any of the prompt cached, candidates score by how long ago they last got such a request,
    from 1 for the longest ago (or never) down to 0; for other requests this score is the same
    everywhere.
    """

    def __init__(
        self,
        *,
        queue: float = 2.0,
        kv: float = 2.0,
        prefix: float = 3.0,
        no_hit_lru: float = 2.0,
        lora: float = 1.0,
    ) -> None:
        if min(queue, kv, prefix, no_hit_lru, lora) < 0:
            raise ValueError("weights must be 0 or more")
        self._queue, self._kv, self._prefix = queue, kv, prefix
        self._no_hit_lru, self._lora = no_hit_lru, lora
        self._cold: dict[int, None] = {}
        """Slots that got a request of which no candidate had anything cached, longest ago first."""
        self._is_cold = False
        """Whether no candidate has anything cached of the request that was scored last."""

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        total = self._queue * _QUEUE.score(request, pool, candidates)
        total += self._kv * _KV.score(request, pool, candidates)
        total += self._prefix * _PREFIX.score(request, pool, candidates)
        total += self._lora * _LORA.score(request, pool, candidates)
        self._is_cold = not request.matched_tokens.take(candidates).any()
        if self._no_hit_lru and self._is_cold:
            total += self._no_hit_lru * self._longest_ago(candidates)
        return total

    def chosen(self, request: RoutingRequest, slot: int) -> None:
        if self._is_cold:
            self._cold.pop(slot, None)
            self._cold[slot] = None

    def reset(self, slot: int) -> None:
        self._cold.pop(slot, None)

    def _longest_ago(self, candidates: Slots) -> Floats:
        if candidates.size == 1:
            return np.ones(1)
        place = {slot: index for index, slot in enumerate(self._cold)}
        never = [slot for slot in candidates.tolist() if slot not in place]
        order = never + [slot for slot in self._cold if slot in set(candidates.tolist())]
        rank = {slot: index for index, slot in enumerate(order)}
        ranks = np.array([rank[slot] for slot in candidates.tolist()], np.float64)
        return 1.0 - ranks / (candidates.size - 1)


@register("policy", "llm-d-token-aware")
class LlmdTokenAware(Baseline):
    """Sticky until saturated: endpoints that have most of the prompt cached, by least load.

    Sticky endpoints are those with ``affinity`` of the prompt cached. When the best of them is
    predicted to answer more than ``max_ttft_penalty_s`` after the best other, all endpoints are
    considered. TTFT is
    predicted as uncached tokens in flight / ``peak_prefill_tokens_per_s``; the defaults are
    llm-d's for Qwen3-32B on 2 x H100. Load is, by ``load``:

    - ``tokens`` (llm-d's default, for long prompts): uncached tokens in flight, and this request's
      own;
    - ``requests`` (for long answers): requests in flight.
    """

    def __init__(
        self,
        *,
        affinity: float = 0.8,
        max_ttft_penalty_s: float = 18.0,
        peak_prefill_tokens_per_s: float = 15_928.0,
        load: str = "tokens",
    ) -> None:
        if not 0 <= affinity <= 1:
            raise ValueError(f"affinity must be a share from 0 to 1, got {affinity:g}")
        if max_ttft_penalty_s < 0:
            raise ValueError(f"max_ttft_penalty_s must be 0 or more, got {max_ttft_penalty_s:g}")
        if peak_prefill_tokens_per_s <= 0:
            raise ValueError(
                f"peak_prefill_tokens_per_s must be more than 0, got {peak_prefill_tokens_per_s:g}"
            )
        if load not in ("tokens", "requests"):
            raise ValueError(f"load must be tokens or requests, got {load!r}")
        self._affinity = affinity
        self._max_lead_tokens = max_ttft_penalty_s * peak_prefill_tokens_per_s
        self._by_tokens = load == "tokens"

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        in_flight = pool.in_flight_prefill_tokens.take(candidates)
        if self._by_tokens:
            matched = request.matched_tokens.take(candidates)
            uncached = request.prompt_tokens - np.minimum(matched, request.prompt_tokens)
            scores = -(in_flight + uncached)
        else:
            scores = -pool.in_flight_requests.take(candidates)
        sticky = _PREFIX.score(request, pool, candidates) >= self._affinity
        if not sticky.any() or sticky.all() or self._saturated(in_flight, sticky):
            return scores
        return preferred_first(candidates[sticky], candidates, scores)

    def _saturated(self, in_flight: Floats, sticky: np.typing.NDArray[np.bool_]) -> bool:
        if self._max_lead_tokens == 0:  # llm-d: 0 never lets go
            return False
        lead = float(in_flight[sticky].min() - in_flight[~sticky].min())
        return lead > self._max_lead_tokens
