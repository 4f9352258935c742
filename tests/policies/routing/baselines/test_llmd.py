"""llm-d's formulas on cases worked out by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

from policies.registry import PolicyError, build
from tests.policies.routing.pools import (
    adapter_on,
    baseline,
    order,
    pool_of,
    pool_with,
    request_for,
)


def test_legacy_blend_adds_up_its_scores() -> None:
    # queue: (10-w)/10 = 1.0, 0.5, 0.0; KV: 0.5, 0.9, 0.8; prefix: 0, 0.2, 0.8; no-hit LRU: off.
    # 2q + 2kv + 3p: 2+1+0 = 3.0; 1+1.8+0.6 = 3.4; 0+1.6+2.4 = 4.0; LoRA 1 everywhere.
    pool = pool_of((0, 0.5), (5, 0.1), (10, 0.2))
    request = request_for(pool, prompt_tokens=1000, matched={1: 200, 2: 800})
    ranking = baseline("llm-d-legacy").rank(request, pool, np.arange(3), 3, 0.0, random.Random(1))
    assert ranking.slots.tolist() == [2, 1, 0]
    assert ranking.scores.tolist() == pytest.approx([5.0, 4.4, 4.0])


def test_legacy_blend_sends_what_nobody_has_cached_where_that_was_longest_ago() -> None:
    policy, pool = baseline("llm-d-legacy"), pool_of((0, 0), (0, 0), (0, 0))
    cold = request_for(pool)
    assert [order(policy, pool, cold)[0] for _ in range(5)] == [0, 1, 2, 0, 1]
    # A hit elsewhere neither asks for the order nor changes it.
    assert order(policy, pool, request_for(pool, matched={0: 900}))[0] == 0
    assert order(policy, pool, cold) == [2, 0, 1]


def test_legacy_blend_forgets_an_endpoint_that_is_replaced() -> None:
    policy, pool = baseline("llm-d-legacy"), pool_of((0, 0), (0, 0), (0, 0))
    cold = request_for(pool)
    assert [order(policy, pool, cold)[0] for _ in range(3)] == [0, 1, 2]
    policy.reset(1)
    assert order(policy, pool, cold)[0] == 1


def test_legacy_blend_is_cold_where_only_others_than_the_candidates_have_the_prompt() -> None:
    policy, pool = baseline("llm-d-legacy"), pool_of((0, 0), (0, 0), (0, 0))
    elsewhere = request_for(pool, matched={2: 900})
    first = policy.rank(elsewhere, pool, np.arange(2), 1, 0.0, random.Random(1)).slots.tolist()
    then = policy.rank(elsewhere, pool, np.arange(2), 1, 0.0, random.Random(1)).slots.tolist()
    assert {*first, *then} == {0, 1}


def test_legacy_blend_can_do_without_the_lru() -> None:
    policy, pool = baseline("llm-d-legacy", no_hit_lru=0), pool_of((0, 0.3), (0, 0.2), (0, 0.1))
    assert [order(policy, pool)[0] for _ in range(3)] == [2, 2, 2]


def test_legacy_blend_likes_a_resident_adapter() -> None:
    policy, pool = baseline("llm-d-legacy", no_hit_lru=0, lora=1), pool_of(*[(0, 0)] * 4)
    pool.lora_active[:] = [4, 4, 4, 1]
    request = request_for(pool, adapter=adapter_on(pool, running={1}, waiting={2}))
    assert order(policy, pool, request) == [1, 3, 2, 0]


def test_token_aware_stays_where_the_prompt_is_cached() -> None:
    pool = pool_with(0, 0, 0)
    pool.in_flight_prefill_tokens[:] = [0, 100_000, 120_000]
    request = request_for(pool, prompt_tokens=10_000, matched={0: 7_900, 1: 8_000, 2: 10_000})
    # 0 is under 80 %. Of the sticky, 1: 100,000 + 2,000; 2: 120,000 + 0.
    assert order(baseline("llm-d-token-aware"), pool, request) == [1, 2, 0]


def test_token_aware_lets_go_of_what_is_18_s_behind() -> None:
    # 18 s x 15,928 tokens/s = 286,704 tokens.
    policy, pool = baseline("llm-d-token-aware"), pool_with(0, 0, 0)
    request = request_for(pool, prompt_tokens=10_000, matched={0: 10_000})
    pool.in_flight_prefill_tokens[:] = [1_000 + 286_704, 2_000, 1_000]
    assert order(policy, pool, request) == [0, 2, 1]
    pool.in_flight_prefill_tokens[0] += 1
    assert order(policy, pool, request) == [2, 1, 0]


def test_token_aware_after_letting_go_still_counts_what_is_cached() -> None:
    policy, pool = baseline("llm-d-token-aware", max_ttft_penalty_s=1), pool_with(0, 0)
    request = request_for(pool, prompt_tokens=100_000, matched={0: 100_000})
    pool.in_flight_prefill_tokens[:] = [20_000, 0]  # 20,000 + 0 against 0 + 100,000
    assert order(policy, pool, request) == [0, 1]


def test_token_aware_without_a_hit_takes_the_least_load() -> None:
    pool = pool_with(5, 1, 3)
    pool.in_flight_prefill_tokens[:] = [100, 300, 200]
    assert order(baseline("llm-d-token-aware"), pool) == [0, 2, 1]
    assert order(baseline("llm-d-token-aware", load="requests"), pool) == [1, 2, 0]


def test_token_aware_by_requests_among_the_sticky() -> None:
    pool = pool_with(5, 1, 3)
    request = request_for(pool, matched={0: 1000, 2: 900})
    assert order(baseline("llm-d-token-aware", load="requests"), pool, request) == [2, 0, 1]


def test_token_aware_never_lets_go_at_a_penalty_of_0() -> None:
    pool = pool_with(0, 0)
    pool.in_flight_prefill_tokens[0] = 1e9
    request = request_for(pool, matched={0: 1000})
    assert order(baseline("llm-d-token-aware", max_ttft_penalty_s=0), pool, request) == [0, 1]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("llm-d-legacy", {"queue": -1}, "weights must be 0 or more"),
        ("llm-d-token-aware", {"affinity": 80}, "affinity must be a share from 0 to 1, got 80"),
        ("llm-d-token-aware", {"max_ttft_penalty_s": -1}, "max_ttft_penalty_s must be 0 or more"),
        ("llm-d-token-aware", {"peak_prefill_tokens_per_s": 0}, "must be more than 0, got 0"),
        ("llm-d-token-aware", {"load": "kv"}, "load must be tokens or requests, got 'kv'"),
    ],
)
def test_wrong_parameters_are_refused(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        build("policy", name, params)
