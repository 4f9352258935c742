"""Baselines of other routers: vllm-router and sglang-router, AIBrix, Dynamo, production-stack."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np

from policies.registry import register
from policies.routing.baselines.baseline import Baseline, preferred_first
from policies.routing.bounds import at_least, share
from policies.routing.scorers import Prefix
from policies.routing.types import Floats, Observation, PoolView, RoutingRequest, Slots

_PREFIX = Prefix()


@register("policy", "cache-aware")
@dataclass(frozen=True, kw_only=True)
class CacheAware(Baseline):
    """``cache_aware`` of vllm-router and sglang-router, with what their commands set by default.

    Load is requests in flight. Imbalanced (largest - smallest > ``balance_abs`` and largest >
    ``balance_rel`` x smallest): least load. Else the longest match, when it covers more than
    ``cache_threshold`` of the prompt, else least load (where the routers take the endpoint with
    the smallest tree).
    """

    balance_abs: float = 64.0
    balance_rel: float = 1.5
    cache_threshold: float = 0.3

    def __post_init__(self) -> None:
        at_least(0, "requests", balance_abs=self.balance_abs)
        at_least(1, balance_rel=self.balance_rel)
        share(cache_threshold=self.cache_threshold)

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        load = pool.in_flight_requests.take(candidates)
        most, least = float(load.max()), float(load.min())
        if most - least > self.balance_abs and most > self.balance_rel * least:
            return -load
        matched = request.matched_tokens.take(candidates)
        longest = float(matched.max())
        if longest <= self.cache_threshold * request.prompt_tokens:
            return -load
        return preferred_first(candidates[matched == longest], candidates, -load)


@register("policy", "cache-aware-library")
@dataclass(frozen=True, kw_only=True)
class CacheAwareLibrary(CacheAware):
    """``cache-aware`` with the defaults of the routers' own library instead of their commands."""

    balance_abs: float = 32.0
    balance_rel: float = 1.1
    cache_threshold: float = 0.5


@register("policy", "aibrix-prefix-cache")
@dataclass(frozen=True, kw_only=True)
class AibrixPrefixCache(Baseline):
    """AIBrix's ``prefix-cache``: the longest match among endpoints that are not overloaded.

    When requests in flight differ by more than ``imbalance`` between endpoints: least requests.
    Otherwise, among endpoints with a match and with at most mean + ``sigmas`` standard deviations
    of requests: the longest match in whole percent of the prompt, and of equal ones the one with
    fewer requests. When there is none: least requests.
    """

    imbalance: float = 8.0
    sigmas: float = 1.0

    def __post_init__(self) -> None:
        at_least(0, "requests", imbalance=self.imbalance)
        at_least(0, sigmas=self.sigmas)

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        load = pool.in_flight_requests.take(candidates)
        if np.ptp(load) > self.imbalance:
            return -load
        percent = np.floor(100.0 * _PREFIX.score(request, pool, candidates))
        percent[load > load.mean() + self.sigmas * load.std()] = 0.0
        # A percent outweighs any difference in requests.
        return percent * (np.ptp(load) + 1.0) - load


@register("policy", "dynamo")
@dataclass(frozen=True, kw_only=True, eq=False)
class Dynamo(Baseline):
    """NVIDIA Dynamo's KV router: least ``overlap_weight`` x prefill blocks + decode blocks.

    Prefill blocks are those of the prompt that are not cached, and those of requests in flight that
    are still to be prefilled. Decode blocks are those that the prompts of requests in flight hold:
    as shipped, Dynamo does not count the blocks of answers (``router_track_output_blocks`` is off);
    with ``track_output_blocks`` an answer counts with its expected length. A block that several
    requests share counts for each of them, where Dynamo counts it once. With a ``temperature``
    above 0, endpoints are drawn by a softmax over costs scaled to 0..1.
    """

    overlap_weight: float = 1.0
    block_tokens: int = 16
    temperature: float = 0.0
    track_output_blocks: bool = False
    _prompts: dict[int, float] = field(init=False, default_factory=dict)
    """By slot, prompt tokens of requests in flight."""

    def __post_init__(self) -> None:
        at_least(0, overlap_weight=self.overlap_weight, temperature=self.temperature)
        at_least(1, block_tokens=self.block_tokens)

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        matched = np.minimum(request.matched_tokens.take(candidates), request.prompt_tokens)
        prefill = pool.in_flight_prefill_tokens.take(candidates) + request.prompt_tokens - matched
        if self.track_output_blocks:
            decode = pool.in_flight_kv_tokens.take(candidates)
        else:
            decode = np.array([self._prompts.get(slot, 0.0) for slot in candidates.tolist()])
        cost: Floats = (self.overlap_weight * prefill + decode) / self.block_tokens
        if self.temperature == 0:
            best: Floats = -cost
            return best
        spread = float(np.ptp(cost)) or 1.0
        logits: Floats = -(cost - cost.min()) / spread / self.temperature
        # The largest of logit + Gumbel noise is a draw from the softmax of the logits.
        noise = [-math.log(-math.log(rng.random() or 5e-324)) for _ in range(logits.size)]
        drawn: Floats = logits + np.array(noise)
        return drawn

    def chosen(self, request: RoutingRequest, slot: int) -> None:
        self._prompts[slot] = self._prompts.get(slot, 0.0) + request.prompt_tokens

    def observe(self, observation: Observation, now_s: float) -> None:
        slot = observation.features.slot
        left = self._prompts.get(slot, 0.0) - observation.features.prompt_tokens
        self._prompts[slot] = max(0.0, left)

    def reset(self, slot: int) -> None:
        self._prompts.pop(slot, None)


@register("policy", "production-stack")
class ProductionStack(Baseline):
    """vLLM production-stack's load-aware prefix routing: matched share of the prompt minus how
    far the load is above the mean, (load - mean) / max(1, mean), load in requests in flight."""

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        load = pool.in_flight_requests.take(candidates)
        mean = float(load.mean())
        excess: Floats = (load - mean) / max(1.0, mean)
        matched = _PREFIX.score(request, pool, candidates)
        return matched - excess
