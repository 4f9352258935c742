"""Whole rankings: the cases of the protocol, and what the default profile promises."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest

from policies.routing.spec import PolicySpec
from policies.routing.types import PoolView, RoutingPolicy, RoutingRequest
from policies.routing.weighted import DEFAULT_PROFILE
from tests.policies.routing.pools import adapter_on, everyone, pool_of, request_for

FOUR = {"scorers": [{"name": name} for name in ("queue", "kv", "prefix", "lora")]}


def policy_of(params: Mapping[str, object]) -> RoutingPolicy:
    return PolicySpec("weighted", params).build()


def first(
    policy: RoutingPolicy,
    pool: PoolView,
    request: RoutingRequest,
    among: list[int] | None = None,
    seed: int = 1,
) -> int:
    candidates = everyone(pool) if among is None else np.array(among)
    return int(policy.rank(request, pool, candidates, 2, 0.0, random.Random(seed)).slots[0])


@pytest.mark.parametrize(
    ("endpoints", "adapter_slots", "among", "picked"),
    [
        pytest.param([(3, 0.2), (0, 0.1), (10, 0.2)], None, None, 1, id="1 least queue and KV"),
        pytest.param([(0, 0.2), (0, 0.2), (0, 0.2)], {1}, None, 1, id="2 adapter decides"),
        pytest.param([(10, 0.2), (10, 0.4), (10, 0.3)], {1}, None, 1, id="3 adapter beats KV"),
        pytest.param([(0, 0.1), (1, 0.1), (50, 0.9)], None, [2], 2, id="4 only the subset"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_protocol_case(
    endpoints: list[tuple[float, float]],
    adapter_slots: set[int] | None,
    among: list[int] | None,
    picked: int,
    seed: int,
) -> None:
    pool = pool_of(*endpoints)
    adapter = None
    if adapter_slots is not None:
        # Engines are full of other adapters, so that elsewhere there is no room for this one.
        pool.lora_active[:] = pool.lora_slots
        adapter = adapter_on(pool, running=adapter_slots)
    request = request_for(pool, adapter=adapter)
    assert first(policy_of(FOUR), pool, request, among, seed) == picked


def test_case_18_a_session_stays_with_its_replica_however_busy_and_rebinds_when_it_dies() -> None:
    policy = policy_of(DEFAULT_PROFILE)
    pool = pool_of((0, 0), (40, 0.95), (0, 0))
    pool.in_flight_prefill_tokens[1] = 200_000
    request = request_for(pool, session_slot=1, matched={0: 1000, 2: 1000})
    assert first(policy, pool, request) == 1
    assert first(policy, pool, request, among=[0, 2]) in (0, 2)


def test_nothing_that_serves_the_adapter_gives_an_empty_ranking() -> None:
    pool = pool_of((0, 0), (0, 0))
    request = request_for(pool, adapter=adapter_on(pool, served=set()))
    ranking = policy_of(DEFAULT_PROFILE).rank(
        request, pool, everyone(pool), 2, 0.0, random.Random(1)
    )
    assert ranking.slots.size == ranking.scores.size == 0


def test_an_idle_pool_is_used_evenly() -> None:
    policy, pool, rng = policy_of(DEFAULT_PROFILE), pool_of(*[(0, 0)] * 3), random.Random(1)
    request = request_for(pool)
    picked = Counter(
        int(policy.rank(request, pool, everyone(pool), 1, 0.0, rng).slots[0]) for _ in range(600)
    )
    assert min(picked.values()) > 150


def test_a_profile_without_scorers_picks_at_random() -> None:
    pool, rng = pool_of(*[(0, 0)] * 3), random.Random(1)
    policy = policy_of({"scorers": []})
    picked = {
        int(policy.rank(request_for(pool), pool, everyone(pool), 1, 0.0, rng).slots[0])
        for _ in range(50)
    }
    assert picked == {0, 1, 2}


def test_same_seed_same_ranking() -> None:
    policy, pool = policy_of(DEFAULT_PROFILE), pool_of(*[(0, 0)] * 20)
    runs = [
        policy.rank(request_for(pool), pool, everyone(pool), 5, 0.0, random.Random(7)).slots
        for _ in range(2)
    ]
    assert runs[0].tolist() == runs[1].tolist()
