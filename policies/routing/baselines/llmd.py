"""Baselines of llm-d's router: the legacy blend of scores, and token-aware routing.

Formulas from llm-d-router's plugins (prefix-cache-affinity-filter, token-load-scorer,
active-request-scorer, no-hit-lru-scorer) and "Sticky Until Saturated: Token-Aware Routing in
llm-d" (llm-d blog, August 2026).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from policies.registry import register
from policies.routing.baselines.baseline import Baseline, preferred_first
from policies.routing.bounds import at_least, more_than, share
from policies.routing.scorers import KvUsage, Lora, Prefix, Queue
from policies.routing.types import Floats, PoolView, RoutingRequest, Slots

_QUEUE, _KV, _PREFIX, _LORA = Queue(), KvUsage(), Prefix(), Lora()


@register("policy", "llm-d-legacy")
@dataclass(kw_only=True, eq=False)
class LlmdLegacy(Baseline):
    """The weighted blend that was llm-d's default until 2026: queue, KV, prefix, no-hit LRU, LoRA.

    Queue and KV are as old as the last scrape, as in llm-d itself. No-hit LRU: when no candidate
    has any of the prompt cached, candidates score by how long ago they last got such a request,
    from 1 for the longest ago (or never) down to 0; for other requests this score is the same
    everywhere.
    """

    queue: float = 2.0
    kv: float = 2.0
    prefix: float = 3.0
    no_hit_lru: float = 2.0
    lora: float = 1.0
    _cold: dict[int, None] = field(init=False, default_factory=dict)
    """Slots that got a request of which no candidate had anything cached, longest ago first."""
    _is_cold: bool = field(init=False, default=False)
    """Whether no candidate has anything cached of the request that was scored last."""

    def __post_init__(self) -> None:
        if min(self.queue, self.kv, self.prefix, self.no_hit_lru, self.lora) < 0:
            raise ValueError("weights must be 0 or more")

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        total = self.queue * _QUEUE.score(request, pool, candidates)
        total += self.kv * _KV.score(request, pool, candidates)
        total += self.prefix * _PREFIX.score(request, pool, candidates)
        total += self.lora * _LORA.score(request, pool, candidates)
        self._is_cold = not request.matched_tokens.take(candidates).any()
        if self.no_hit_lru and self._is_cold:
            total += self.no_hit_lru * self._longest_ago(candidates)
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
@dataclass(frozen=True, kw_only=True)
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

    hears_first_tokens: ClassVar[bool] = True

    affinity: float = 0.8
    max_ttft_penalty_s: float = 18.0
    peak_prefill_tokens_per_s: float = 15_928.0
    load: str = "tokens"

    def __post_init__(self) -> None:
        share(affinity=self.affinity)
        at_least(0, max_ttft_penalty_s=self.max_ttft_penalty_s)
        more_than(0, peak_prefill_tokens_per_s=self.peak_prefill_tokens_per_s)
        if self.load not in ("tokens", "requests"):
            raise ValueError(f"load must be tokens or requests, got {self.load!r}")

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        in_flight = pool.in_flight_prefill_tokens.take(candidates)
        if self.load == "tokens":
            matched = request.matched_tokens.take(candidates)
            uncached = request.prompt_tokens - np.minimum(matched, request.prompt_tokens)
            scores = -(in_flight + uncached)
        else:
            scores = -pool.in_flight_requests.take(candidates)
        sticky = _PREFIX.score(request, pool, candidates) >= self.affinity
        if not sticky.any() or sticky.all() or self._saturated(in_flight, sticky):
            return scores
        return preferred_first(candidates[sticky], candidates, scores)

    def _saturated(self, in_flight: Floats, sticky: np.typing.NDArray[np.bool_]) -> bool:
        max_lead_tokens = self.max_ttft_penalty_s * self.peak_prefill_tokens_per_s
        if max_lead_tokens == 0:  # llm-d: 0 never lets go
            return False
        lead = float(in_flight[sticky].min() - in_flight[~sticky].min())
        return lead > max_lead_tokens
