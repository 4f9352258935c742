"""Scorers: how good each candidate is for a request, in [0, 1], 1 the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.registry import register
from policies.routing.bounds import at_least, more_than
from policies.routing.columns import largest, least, ones
from policies.routing.types import Floats, PoolView, RoutingRequest, Slots


@register("scorer", "queue")
@dataclass(frozen=True, slots=True)
class Queue:
    """Shorter engine queue is better: (max - waiting) / (max - min), all 1 when equal (llm-d)."""

    def score(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Floats:
        return _less_is_better(pool.waiting_requests.take(candidates))


@register("scorer", "running")
@dataclass(frozen=True, slots=True)
class Running:
    """Fewer requests being served is better, scaled like ``queue``.

    Counts the larger of what the engine reported and what we have in flight there, so that a
    burst between two scrapes is seen.
    """

    def score(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Floats:
        reported = pool.running_requests.take(candidates)
        ours = pool.in_flight_requests.take(candidates)
        return _less_is_better(np.maximum(reported, ours))


@register("scorer", "kv")
@dataclass(frozen=True, slots=True)
class KvUsage:
    """More free KV cache is better: 1 - usage."""

    def score(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Floats:
        free: Floats = 1.0 - pool.kv_usage.take(candidates)
        return free.clip(0.0, 1.0)


@register("scorer", "prefix")
@dataclass(frozen=True, slots=True)
class Prefix:
    """Share of the prompt that the candidate has cached."""

    def score(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Floats:
        matched = request.matched_tokens.take(candidates)
        if request.prompt_tokens <= 0 or largest(matched) <= 0:
            return np.zeros(candidates.size)
        return np.minimum(matched / request.prompt_tokens, 1.0)


@register("scorer", "in-flight-tokens")
@dataclass(frozen=True, slots=True)
class InFlightTokens:
    """Least work ahead: tokens to prefill before this request's first token, and tokens decoding.

    work = prefill backlog + this request's own uncached tokens + ``kv_share`` x KV tokens in
    flight; score = s / (s + work - least work), s = prompt tokens + ``slack_tokens``. Cached
    prefix and backlog are traded in one unit, tokens, after Dynamo's and llm-d's token-aware
    routing. The score depends on differences only, so it is as sharp on a busy pool as on an
    idle one, and what is small against the request itself does not matter.

    KV tokens count relative to the capacity of the endpoint (where known, against the mean of
    the known), so that a larger replica takes its larger share.
    """

    kv_share: float = 0.1
    """Work of one token in the KV cache of a request in flight, in prefill tokens."""
    slack_tokens: float = 256.0
    """A difference in work below this is small even for a tiny prompt."""

    def __post_init__(self) -> None:
        at_least(0, kv_share=self.kv_share)
        more_than(0, slack_tokens=self.slack_tokens)

    def score(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Floats:
        kv_tokens = pool.in_flight_kv_tokens.take(candidates)
        capacity = pool.kv_capacity_tokens.take(candidates)
        most = largest(capacity)
        if most > 0 and most != least(capacity):
            known = capacity > 0
            mean = capacity.sum() / np.count_nonzero(known)
            kv_tokens *= mean / np.where(known, capacity, mean)
        work = kv_tokens
        work *= self.kv_share
        work += pool.in_flight_prefill_tokens.take(candidates)
        # Own uncached tokens are prompt - matched; the prompt is the same everywhere.
        matched = request.matched_tokens.take(candidates)
        if largest(matched) > 0:
            work -= np.minimum(matched, request.prompt_tokens)
        scale = request.prompt_tokens + self.slack_tokens
        work += scale - least(work)
        return scale / work


@register("scorer", "lora")
@dataclass(frozen=True, slots=True)
class Lora:
    """Adapter running 1, room to load it 0.8, waiting 0.6, else 0 (llm-d); without adapter 1."""

    def score(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Floats:
        adapter = request.adapter
        if adapter is None:
            return ones(candidates.size)
        room = pool.lora_active.take(candidates) < pool.lora_slots.take(candidates)
        scores = np.where(adapter.waiting.take(candidates), 0.6, 0.0)
        scores[room] = 0.8
        scores[adapter.running.take(candidates)] = 1.0
        return scores


@register("scorer", "session")
@dataclass(frozen=True, slots=True)
class Session:
    """1 for the endpoint that the session is bound to, else 0; without a session all 0."""

    def score(self, request: RoutingRequest, pool: PoolView, candidates: Slots) -> Floats:
        scores = np.zeros(candidates.size)
        if request.session_slot is not None:
            scores[candidates == request.session_slot] = 1.0
        return scores


def _less_is_better(values: Floats) -> Floats:
    most, fewest = largest(values), least(values)
    if most == fewest:
        return ones(values.size)
    scores: Floats = (most - values) / (most - fewest)
    return scores
