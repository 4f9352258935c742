"""Pools for tests, one line an endpoint."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from policies.routing.types import AdapterView, PoolView, RoutingRequest, Slots


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
