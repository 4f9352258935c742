"""Pools for tests, one line an endpoint, and how policies rank them."""

from __future__ import annotations

import random
from collections.abc import Collection

import numpy as np

from policies.routing.spec import PolicySpec
from policies.routing.types import AdapterView, PoolView, RoutingPolicy, RoutingRequest, Slots


def pool_of(*endpoints: tuple[float, float]) -> PoolView:
    """A view of endpoints given as (waiting requests, KV use), with four LoRA slots each."""
    pool = PoolView.zeros(len(endpoints))
    for slot, (waiting, kv_usage) in enumerate(endpoints):
        pool.waiting_requests[slot] = waiting
        pool.kv_usage[slot] = kv_usage
    pool.lora_slots[:] = 4
    return pool


def everyone(pool: PoolView) -> Slots:
    return np.arange(pool.waiting_requests.size)


def request_for(
    pool: PoolView,
    *,
    prompt_tokens: float = 1000,
    matched: dict[int, float] | None = None,
    adapter: AdapterView | None = None,
    session_slot: int | None = None,
) -> RoutingRequest:
    matched_tokens = np.zeros(pool.waiting_requests.size)
    for slot, tokens in (matched or {}).items():
        matched_tokens[slot] = tokens
    return RoutingRequest(prompt_tokens, 0.0, matched_tokens, adapter, session_slot)


def adapter_on(
    pool: PoolView,
    *,
    running: Collection[int] = (),
    waiting: Collection[int] = (),
    served: Collection[int] | None = None,
) -> AdapterView:
    """An adapter by slots; served everywhere unless said."""
    slots = everyone(pool)
    return AdapterView(
        np.isin(slots, list(slots if served is None else served)),
        np.isin(slots, list(running)),
        np.isin(slots, list(waiting)),
    )


def baseline(name: str, **params: object) -> RoutingPolicy:
    return PolicySpec(name, params).build()


def pool_with(*in_flight: float) -> PoolView:
    pool = pool_of(*[(0, 0)] * len(in_flight))
    pool.in_flight_requests[:] = in_flight
    return pool


def order(
    policy: RoutingPolicy,
    pool: PoolView,
    request: RoutingRequest | None = None,
    *,
    among: list[int] | None = None,
    count: int = 99,
    rng: random.Random | None = None,
) -> list[int]:
    candidates = everyone(pool) if among is None else np.array(among)
    ranking = policy.rank(
        request or request_for(pool), pool, candidates, count, 0.0, rng or random.Random(1)
    )
    assert ranking.slots.shape == ranking.scores.shape
    return [int(slot) for slot in ranking.slots]
