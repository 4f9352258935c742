"""Scorers, one behaviour at a time."""

from __future__ import annotations

import numpy as np

from policies.routing.scorers import (
    InFlightTokens,
    KvUsage,
    Lora,
    Prefix,
    Queue,
    Running,
    Session,
)
from policies.routing.types import PoolView, RoutingRequest, Scorer
from tests.policies.routing.pools import adapter_on, everyone, pool_of, request_for


def scores_of(
    scorer: Scorer,
    pool: PoolView,
    request: RoutingRequest | None = None,
    among: list[int] | None = None,
) -> list[float]:
    candidates = everyone(pool) if among is None else np.array(among)
    scores = scorer.score(request or request_for(pool), pool, candidates)
    assert scores.shape == candidates.shape
    assert ((scores >= 0) & (scores <= 1)).all()
    return [round(float(score), 6) for score in scores]


def test_queue_is_scaled_between_shortest_and_longest() -> None:
    assert scores_of(Queue(), pool_of((3, 0), (0, 0), (12, 0))) == [0.75, 1.0, 0.0]
    assert scores_of(Queue(), pool_of((7, 0), (7, 0))) == [1.0, 1.0]


def test_scores_are_of_the_candidates_only() -> None:
    pool = pool_of((3, 0.5), (0, 0.9), (12, 0.1))
    assert scores_of(Queue(), pool, among=[2, 0]) == [0.0, 1.0]
    assert scores_of(KvUsage(), pool, among=[1]) == [0.1]


def test_running_sees_our_own_requests_before_the_scrape_does() -> None:
    pool = pool_of((0, 0), (0, 0))
    pool.running_requests[:] = 2
    pool.in_flight_requests[1] = 5
    assert scores_of(Running(), pool) == [1.0, 0.0]


def test_kv_is_what_is_free() -> None:
    assert scores_of(KvUsage(), pool_of((0, 0.25), (0, 1.0), (0, 1.2))) == [0.75, 0.0, 0.0]


def test_prefix_is_the_cached_share_of_the_prompt() -> None:
    pool = pool_of((0, 0), (0, 0), (0, 0))
    request = request_for(pool, prompt_tokens=1000, matched={1: 250, 2: 1200})
    assert scores_of(Prefix(), pool, request) == [0.0, 0.25, 1.0]
    assert scores_of(Prefix(), pool, request_for(pool, prompt_tokens=0)) == [0.0, 0.0, 0.0]


def test_lora_prefers_resident_then_room_then_waiting() -> None:
    pool = pool_of(*[(0, 0)] * 5)
    pool.lora_active[:] = [4, 1, 4, 4, 2]
    adapter = adapter_on(pool, running={0}, waiting={2, 4})
    assert scores_of(Lora(), pool, request_for(pool, adapter=adapter)) == [1.0, 0.8, 0.6, 0.0, 0.8]
    assert scores_of(Lora(), pool) == [1.0] * 5


def test_session_points_at_its_endpoint() -> None:
    pool = pool_of((0, 0), (0, 0))
    assert scores_of(Session(), pool, request_for(pool, session_slot=1)) == [0.0, 1.0]
    assert scores_of(Session(), pool) == [0.0, 0.0]


class TestInFlightTokens:
    def test_equal_work_scores_1_everywhere(self) -> None:
        pool = pool_of((0, 0), (0, 0))
        pool.in_flight_prefill_tokens[:] = 70_000
        assert scores_of(InFlightTokens(), pool) == [1.0, 1.0]

    def test_a_backlog_as_long_as_the_cached_prefix_cancels_it(self) -> None:
        pool = pool_of((0, 0), (0, 0))
        pool.in_flight_prefill_tokens[0] = 800
        request = request_for(pool, prompt_tokens=1000, matched={0: 800})
        assert scores_of(InFlightTokens(), pool, request) == [1.0, 1.0]
        pool.in_flight_prefill_tokens[0] = 900
        scores = scores_of(InFlightTokens(), pool, request)
        assert scores[0] < scores[1] == 1.0

    def test_only_differences_count_so_that_a_busy_pool_is_told_apart_as_well(self) -> None:
        idle, busy = pool_of((0, 0), (0, 0)), pool_of((0, 0), (0, 0))
        idle.in_flight_prefill_tokens[:] = [0, 500]
        busy.in_flight_prefill_tokens[:] = [100_000, 100_500]
        assert scores_of(InFlightTokens(), idle) == scores_of(InFlightTokens(), busy)

    def test_a_replica_of_twice_the_capacity_carries_twice_the_tokens(self) -> None:
        pool = pool_of((0, 0), (0, 0))
        pool.kv_capacity_tokens[:] = [200_000, 400_000]
        pool.in_flight_kv_tokens[:] = [50_000, 100_000]
        assert scores_of(InFlightTokens(), pool) == [1.0, 1.0]

    def test_an_unknown_capacity_counts_as_the_mean_of_the_known(self) -> None:
        pool = pool_of((0, 0), (0, 0), (0, 0))
        pool.kv_capacity_tokens[:] = [200_000, 400_000, 0]
        pool.in_flight_kv_tokens[:] = [20_000, 40_000, 30_000]
        assert scores_of(InFlightTokens(), pool) == [1.0, 1.0, 1.0]

    def test_more_than_the_prompt_cannot_be_cached(self) -> None:
        pool = pool_of((0, 0), (0, 0))
        request = request_for(pool, prompt_tokens=100, matched={0: 100, 1: 5_000})
        assert scores_of(InFlightTokens(), pool, request) == [1.0, 1.0]

    def test_scoring_leaves_the_pool_as_it_was(self) -> None:
        pool = pool_of((0, 0), (0, 0))
        pool.in_flight_kv_tokens[:] = [5, 7]
        scores_of(InFlightTokens(), pool)
        assert pool.in_flight_kv_tokens.tolist() == [5, 7]
