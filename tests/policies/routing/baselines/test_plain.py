"""Baselines that look at nothing, at requests in flight, or at the session."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from msgspec.structs import replace

from policies.registry import names
from policies.routing.types import PoolView, RoutingRequest
from tests.policies.routing.pools import (
    adapter_on,
    baseline,
    order,
    pool_with,
    request_for,
)

BASELINES = [name for name in names("policy") if name != "weighted"]


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_orders_all_candidates_once(name: str) -> None:
    pool = pool_with(3, 1, 2, 5)
    request = request_for(pool, matched={2: 900})
    assert sorted(order(baseline(name), pool, request)) == [0, 1, 2, 3]
    assert sorted(order(baseline(name), pool, request, among=[1, 3])) == [1, 3]
    assert len(order(baseline(name), pool, request, count=2)) == 2
    assert order(baseline(name), pool, request, among=[2]) == [2]


@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_fails_on_a_prompt_of_nothing(name: str) -> None:
    pool = pool_with(1, 1)
    assert sorted(order(baseline(name), pool, request_for(pool, prompt_tokens=0))) == [0, 1]


@pytest.mark.parametrize("name", BASELINES)
def test_an_adapter_is_asked_for_only_where_it_is_served(name: str) -> None:
    pool = pool_with(9, 0, 9)
    request = request_for(pool, adapter=adapter_on(pool, served={0, 2}))
    assert sorted(order(baseline(name), pool, request)) == [0, 2]
    assert order(baseline(name), pool, request_for(pool, adapter=adapter_on(pool, served=()))) == []


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_seed_gives_the_same_choices(name: str) -> None:
    def choices() -> list[int]:
        policy, rng = baseline(name), random.Random(7)
        pool = pool_with(0, 0, 0, 0)
        return [order(policy, pool, count=1, rng=rng)[0] for _ in range(50)]

    assert choices() == choices()


def test_round_robin_takes_turns() -> None:
    policy, pool = baseline("round-robin"), pool_with(9, 0, 0)
    assert [order(policy, pool)[0] for _ in range(5)] == [0, 1, 2, 0, 1]
    assert order(policy, pool) == [2, 0, 1]


def test_round_robin_goes_on_after_who_is_missing() -> None:
    policy, pool = baseline("round-robin"), pool_with(0, 0, 0, 0)
    assert order(policy, pool, among=[0, 2, 3])[0] == 0
    assert order(policy, pool, among=[0, 2, 3])[0] == 2
    assert order(policy, pool)[0] == 3


def test_random_is_even() -> None:
    policy, pool, rng = baseline("random"), pool_with(50, 0, 0), random.Random(3)
    counts = Counter(order(policy, pool, rng=rng)[0] for _ in range(3000))
    assert all(900 < counts[slot] < 1100 for slot in range(3))


def test_least_requests_counts_what_is_in_flight() -> None:
    assert order(baseline("least-requests"), pool_with(4, 1, 3)) == [1, 2, 0]


def test_power_of_two_takes_the_better_of_two() -> None:
    policy, pool, rng = baseline("power-of-two"), pool_with(0, 1, 2), random.Random(5)
    counts = Counter(order(policy, pool, rng=rng)[0] for _ in range(3000))
    # Of the three pairs, the idle one is in two; the busiest loses both of its pairs.
    assert counts[2] == 0
    assert 1900 < counts[0] < 2100


def test_power_of_two_with_one_candidate() -> None:
    assert order(baseline("power-of-two"), pool_with(3, 9), among=[1]) == [1]


def session(pool: PoolView, name: str) -> RoutingRequest:
    return replace(request_for(pool), session=name)


def test_session_hash_is_sticky_and_even() -> None:
    policy, pool = baseline("session-hash"), pool_with(*[0] * 8)
    homes = {name: order(policy, pool, session(pool, name))[0] for name in map(str, range(4000))}
    pool.in_flight_requests[:] = range(8)
    assert all(order(policy, pool, session(pool, name))[0] == home for name, home in homes.items())
    assert all(400 < count < 600 for count in Counter(homes.values()).values())


def test_session_hash_moves_only_the_sessions_of_who_left() -> None:
    policy, pool = baseline("session-hash"), pool_with(*[0] * 5)
    for name in map(str, range(300)):
        home, second = order(policy, pool, session(pool, name))[:2]
        left = order(policy, pool, session(pool, name), among=[0, 1, 2, 4])[0]
        assert left == (second if home == 3 else home)


def test_session_hash_without_a_session_is_least_requests() -> None:
    assert order(baseline("session-hash"), pool_with(4, 1, 3)) == [1, 2, 0]
