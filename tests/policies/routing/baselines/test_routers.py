"""Formulas of other routers on cases worked out by hand."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from policies.registry import PolicyError, build
from policies.routing.types import Features, Observation
from tests.policies.routing.pools import baseline, order, pool_with, request_for


def test_cache_aware_follows_the_longest_match() -> None:
    pool = pool_with(60, 0, 1)
    request = request_for(pool, matched={0: 500, 1: 400})
    assert order(baseline("cache-aware"), pool, request) == [0, 1, 2]


def test_cache_aware_takes_least_load_when_imbalanced() -> None:
    policy, pool = baseline("cache-aware"), pool_with(65, 0, 1)
    request = request_for(pool, matched={0: 1000})
    assert order(policy, pool, request) == [1, 2, 0]
    # 64 apart is still balanced; so is 65 apart when it is not half as much again.
    assert order(policy, pool_with(65, 1, 2), request)[0] == 0
    assert order(policy, pool_with(195, 130, 131), request)[0] == 0
    assert order(policy, pool_with(196, 130, 131), request)[0] == 1


@pytest.mark.parametrize(("matched", "picked"), [(300, 1), (301, 0)])
def test_cache_aware_needs_more_than_the_threshold(matched: float, picked: int) -> None:
    pool = pool_with(5, 0)
    request = request_for(pool, prompt_tokens=1000, matched={0: matched})
    assert order(baseline("cache-aware"), pool, request)[0] == picked


def test_cache_aware_of_equal_matches_takes_the_least_loaded() -> None:
    pool = pool_with(5, 0, 3)
    request = request_for(pool, matched={0: 900, 2: 900})
    assert order(baseline("cache-aware"), pool, request) == [2, 0, 1]


def test_cache_aware_library_lets_go_earlier() -> None:
    request = request_for(pool_with(0, 0), matched={0: 450})
    assert order(baseline("cache-aware"), pool_with(40, 0), request)[0] == 0
    assert order(baseline("cache-aware-library"), pool_with(30, 0), request)[0] == 1
    request = request_for(pool_with(0, 0), matched={0: 510})
    assert order(baseline("cache-aware-library"), pool_with(32, 0), request)[0] == 0
    assert order(baseline("cache-aware-library"), pool_with(33, 0), request)[0] == 1


def test_aibrix_takes_the_longest_match_that_is_not_overloaded() -> None:
    # Requests 8, 2, 2, 2: mean 3.5, standard deviation 2.598, so 8 is over 6.098.
    pool = pool_with(8, 2, 2, 2)
    request = request_for(pool, prompt_tokens=1000, matched={0: 1000, 1: 300, 2: 700})
    assert order(baseline("aibrix-prefix-cache"), pool, request)[:2] == [2, 1]
    assert order(baseline("aibrix-prefix-cache", sigmas=2), pool, request)[0] == 0


def test_aibrix_compares_whole_percents_then_requests() -> None:
    pool = pool_with(3, 1)
    request = request_for(pool, prompt_tokens=1000, matched={0: 709, 1: 701})
    assert order(baseline("aibrix-prefix-cache"), pool, request) == [1, 0]
    request = request_for(pool, prompt_tokens=1000, matched={0: 711, 1: 701})
    assert order(baseline("aibrix-prefix-cache"), pool, request) == [0, 1]


def test_aibrix_takes_least_requests_when_imbalanced_or_without_a_match() -> None:
    pool = pool_with(9, 0, 4)
    assert order(baseline("aibrix-prefix-cache"), pool, request_for(pool, matched={2: 900})) == [
        1,
        2,
        0,
    ]
    assert order(baseline("aibrix-prefix-cache"), pool_with(8, 0, 4)) == [1, 2, 0]
    # The only match is overloaded (4, 0, 0: mean 1.33, deviation 1.89).
    pool = pool_with(4, 0, 0)
    assert order(baseline("aibrix-prefix-cache"), pool, request_for(pool, matched={0: 900}))[2] == 0


def test_dynamo_adds_prefill_and_decode_blocks() -> None:
    pool = pool_with(0, 0, 0)
    pool.in_flight_prefill_tokens[:] = [0, 160, 0]
    pool.in_flight_kv_tokens[:] = [1600, 800, 320]
    request = request_for(pool, prompt_tokens=1600, matched={0: 1600, 1: 800})
    # Blocks of 16: 0 + 100; 10 + 50 + 50; 100 + 20.
    ranking = baseline("dynamo", track_output_blocks=True).rank(
        request, pool, pool.in_flight_kv_tokens.argsort(), 3, 0.0, random.Random(1)
    )
    assert ranking.slots.tolist() == [0, 1, 2]
    assert ranking.scores.tolist() == [-100.0, -110.0, -120.0]
    # Prefill counted twice: 100; 170; 220. Not at all: 100; 50; 20.
    double, none = (
        baseline("dynamo", overlap_weight=weight, track_output_blocks=True) for weight in (2, 0)
    )
    assert order(double, pool, request) == [0, 1, 2]
    assert order(none, pool, request) == [2, 1, 0]


def test_dynamo_counts_prompts_in_flight_and_no_answers() -> None:
    pool = pool_with(0, 0)
    pool.in_flight_kv_tokens[:] = [0, 100_000]  # of long answers
    policy = baseline("dynamo")
    request = request_for(pool, prompt_tokens=160, matched={0: 80})
    assert order(policy, pool, request) == [0, 1]  # 5 blocks to prefill against 10
    assert order(policy, pool, request) == [1, 0]  # 5 + 10 against 10
    ended = Observation(0, Features.seen(request, pool, 0), 160.0, None, 1.0, 0.1, 0.2, ok=True)
    policy.observe(ended, 1.0)
    assert order(policy, pool, request) == [0, 1]  # 5 against 10 + 10


def test_dynamo_with_temperature_draws_by_a_softmax() -> None:
    pool, rng = pool_with(0, 0), random.Random(2)
    pool.in_flight_kv_tokens[1] = 1000
    policy = baseline("dynamo", temperature=1.0, track_output_blocks=True)
    counts = Counter(order(policy, pool, rng=rng)[0] for _ in range(4000))
    # exp(0) : exp(-1) = 0.731 : 0.269
    assert 0.70 < counts[0] / 4000 < 0.76


def test_production_stack_weighs_the_match_against_load_over_the_mean() -> None:
    # Mean 4: (6-4)/4 = 0.5, 0, -0.5; matched 0.9, 0.3, 0 give 0.4, 0.3, 0.5.
    pool = pool_with(6, 4, 2)
    request = request_for(pool, prompt_tokens=1000, matched={0: 900, 1: 300})
    assert order(baseline("production-stack"), pool, request) == [2, 0, 1]
    # Mean 0.5, taken as 1: 0.5 and -0.5; matched 0.9 and 0 give 0.4 and 0.5.
    pool = pool_with(1, 0)
    assert order(baseline("production-stack"), pool, request_for(pool, matched={0: 900}))[0] == 1


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("cache-aware", {"balance_abs": -1}, "balance_abs must be 0 or more requests"),
        ("cache-aware", {"balance_rel": 0.5}, "balance_rel must be 1 or more"),
        ("cache-aware", {"cache_threshold": 2}, "cache_threshold must be a share from 0 to 1"),
        ("aibrix-prefix-cache", {"imbalance": -1}, "imbalance must be 0 or more requests"),
        ("aibrix-prefix-cache", {"sigmas": -1}, "sigmas must be 0 or more"),
        ("dynamo", {"overlap_weight": -1}, "overlap_weight must be 0 or more"),
        ("dynamo", {"block_tokens": 0}, "block_tokens must be 1 or more"),
        ("dynamo", {"temperature": -1}, "temperature must be 0 or more"),
    ],
)
def test_wrong_parameters_are_refused(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        build("policy", name, params)
