"""Baselines of other routers: vllm-router and sglang-router, AIBrix, Dynamo, production-stack."""

from __future__ import annotations

import math
import random

import numpy as np

from policies.registry import register
from policies.routing.baselines.baseline import Baseline, preferred_first
from policies.routing.scorers import Prefix
from policies.routing.types import Floats, PoolView, RoutingRequest, Slots

_PREFIX = Prefix()


@register("policy", "cache-aware")
class CacheAware(Baseline):
    """``cache_aware`` of vllm-router and sglang-router, with what their commands set by default.

    Load is requests in flight. Imbalanced (largest - smallest > ``balance_abs`` and largest >
    ``balance_rel`` x smallest): least load. Else the longest match, when it covers more than
    ``cache_threshold`` of the prompt, else least load (where the routers take the endpoint with
    the smallest tree).
    """

    def __init__(
        self,
        *,
        balance_abs: float = 64.0,
        balance_rel: float = 1.5,
        cache_threshold: float = 0.3,
    ) -> None:
        if balance_abs < 0:
            raise ValueError(f"balance_abs must be 0 or more requests, got {balance_abs:g}")
        if balance_rel < 1:
            raise ValueError(f"balance_rel must be 1 or more, got {balance_rel:g}")
        if not 0 <= cache_threshold <= 1:
            raise ValueError(
                f"cache_threshold must be a share from 0 to 1, got {cache_threshold:g}"
            )
        self._balance_abs = balance_abs
        self._balance_rel = balance_rel
        self._cache_threshold = cache_threshold

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        load = pool.in_flight_requests.take(candidates)
        most, least = float(load.max()), float(load.min())
        if most - least > self._balance_abs and most > self._balance_rel * least:
            return -load
        matched = request.matched_tokens.take(candidates)
        longest = float(matched.max())
        if longest <= self._cache_threshold * request.prompt_tokens:
            return -load
        return preferred_first(candidates[matched == longest], candidates, -load)


@register("policy", "cache-aware-library")
class CacheAwareLibrary(CacheAware):
    """``cache-aware`` with the defaults of the routers' own library instead of their commands."""

    def __init__(
        self,
        *,
        balance_abs: float = 32.0,
        balance_rel: float = 1.1,
        cache_threshold: float = 0.5,
    ) -> None:
        super().__init__(
            balance_abs=balance_abs, balance_rel=balance_rel, cache_threshold=cache_threshold
        )


@register("policy", "aibrix-prefix-cache")
class AibrixPrefixCache(Baseline):
    """AIBrix's ``prefix-cache``: the longest match among endpoints that are not overloaded.

    When requests in flight differ by more than ``imbalance`` between endpoints: least requests.
    Otherwise, among endpoints with a match and with at most mean + ``sigmas`` standard deviations
    of requests: the longest match in whole percent of the prompt, and of equal ones the one with
    fewer requests. When there is none: least requests.
    """

    def __init__(self, *, imbalance: float = 8.0, sigmas: float = 1.0) -> None:
        if imbalance < 0:
            raise ValueError(f"imbalance must be 0 or more requests, got {imbalance:g}")
        if sigmas < 0:
            raise ValueError(f"sigmas must be 0 or more, got {sigmas:g}")
        self._imbalance = imbalance
        self._sigmas = sigmas

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        load = pool.in_flight_requests.take(candidates)
        if np.ptp(load) > self._imbalance:
            return -load
        percent = np.floor(100.0 * _PREFIX.score(request, pool, candidates))
        percent[load > load.mean() + self._sigmas * load.std()] = 0.0
        # A percent outweighs any difference in requests.
        return percent * (np.ptp(load) + 1.0) - load


@register("policy", "dynamo")
class Dynamo(Baseline):
    """NVIDIA Dynamo's KV router: least ``overlap_weight`` x prefill blocks + decode blocks.

    Prefill blocks are those of the prompt that are not cached, and those of requests in flight that
    are still to be prefilled. Decode blocks are those that requests in flight hold; Dynamo counts
    answers as they grow, we count their expected length. With a ``temperature`` above 0, endpoints
    are drawn by a softmax over costs scaled to 0..1.
    """

    def __init__(
        self, *, overlap_weight: float = 1.0, block_tokens: int = 16, temperature: float = 0.0
    ) -> None:
        if overlap_weight < 0:
            raise ValueError(f"overlap_weight must be 0 or more, got {overlap_weight:g}")
        if block_tokens < 1:
            raise ValueError(f"block_tokens must be 1 or more, got {block_tokens}")
        if temperature < 0:
            raise ValueError(f"temperature must be 0 or more, got {temperature:g}")
        self._overlap_weight = overlap_weight
        self._block_tokens = block_tokens
        self._temperature = temperature

    def scores(
        self, request: RoutingRequest, pool: PoolView, candidates: Slots, rng: random.Random
    ) -> Floats:
        matched = np.minimum(request.matched_tokens.take(candidates), request.prompt_tokens)
        prefill = pool.in_flight_prefill_tokens.take(candidates) + request.prompt_tokens - matched
        decode = pool.in_flight_kv_tokens.take(candidates)
        cost: Floats = (self._overlap_weight * prefill + decode) / self._block_tokens
        if self._temperature == 0:
            best: Floats = -cost
            return best
        spread = float(np.ptp(cost)) or 1.0
        logits: Floats = -(cost - cost.min()) / spread / self._temperature
        # The largest of logit + Gumbel noise is a draw from the softmax of the logits.
        noise = [-math.log(-math.log(rng.random() or 5e-324)) for _ in range(logits.size)]
        drawn: Floats = logits + np.array(noise)
        return drawn


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
        share = _PREFIX.score(request, pool, candidates)
        return share - excess
