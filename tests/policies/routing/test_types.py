"""What is seen at a decision, and what an observation says of it."""

from __future__ import annotations

from dataclasses import fields
from random import Random

import numpy as np
import pytest

from policies.routing.spec import PolicySpec
from policies.routing.types import (
    Considered,
    EndpointView,
    Features,
    Observation,
    PoolView,
    Ranking,
    RoutingPolicy,
    RoutingRequest,
    Slots,
)
from policies.routing.weighted import DEFAULT_PROFILE
from tests.policies.routing.pools import adapter_on, everyone, pool_of, request_for


def test_a_row_has_every_column_of_the_pool() -> None:
    assert EndpointView._fields == tuple(field.name for field in fields(PoolView))
    pool = PoolView.zeros(3)
    for value, name in enumerate(EndpointView._fields, 1):
        getattr(pool, name)[1] = value
    assert tuple(pool.at(1)) == tuple(range(1, 11))
    assert tuple(pool.at(2)) == (0,) * 10
    assert all(type(value) is float for value in pool.at(1))


def test_features_are_of_the_endpoint_chosen_and_stay_as_they_were_seen() -> None:
    pool = pool_of((3, 0.5), (0, 0.1))
    request = request_for(
        pool,
        prompt_tokens=100,
        matched={0: 40, 1: 250},
        adapter=adapter_on(pool, running={0}, waiting={1}),
        session_slot=1,
    )
    seen = [Features.seen(request, pool, slot) for slot in (0, 1)]
    pool.waiting_requests[:] = 99
    assert [each.endpoint.waiting_requests for each in seen] == [3, 0]
    assert [each.matched_tokens for each in seen] == [40, 100]  # never more than the prompt
    assert [(each.adapter_running, each.adapter_waiting) for each in seen] == [
        (True, False),
        (False, True),
    ]
    assert [each.session_bound for each in seen] == [False, True]
    plain = Features.seen(request_for(pool), pool, 0)
    assert plain[-6:] == (False, False, False, False, True, True)


def observed(cached_tokens: float | None) -> Observation:
    pool = pool_of((0, 0))
    pool.in_flight_prefill_tokens[0] = 700
    request = request_for(pool, prompt_tokens=100, matched={0: 40})
    return Observation(
        slot=0,
        features=Features.seen(request, pool, 0),
        prompt_tokens=110,
        cached_tokens=cached_tokens,
        output_tokens=5,
        ttft_s=0.1,
        duration_s=1.0,
        ok=True,
    )


def test_uncached_tokens_are_as_the_engine_reports_else_as_believed() -> None:
    assert observed(cached_tokens=30).uncached_tokens == 80
    assert observed(cached_tokens=200).uncached_tokens == 0
    assert observed(cached_tokens=None).uncached_tokens == 60
    assert observed(cached_tokens=None).backlog_tokens == 700


def test_a_policy_that_inherits_needs_rank_only() -> None:
    class First(RoutingPolicy):
        def rank(
            self,
            request: RoutingRequest,
            pool: PoolView,
            candidates: Slots,
            count: int,
            now_s: float,
            rng: Random,
        ) -> Ranking:
            return Ranking(candidates[:1], np.zeros(1))

    policy, pool = First(), pool_of((0, 0), (0, 0))
    policy.observe(observed(cached_tokens=None), 1.0)
    policy.reset(0)
    policy.restore({"slots": "garbage"})
    assert policy.snapshot() == {}
    ranking = policy.rank(request_for(pool), pool, everyone(pool), 2, 0.0, Random(1))
    assert ranking.predicted_ttft_s is None


def test_the_best_of_what_was_considered() -> None:
    scores, harm_s = np.array([1.0, 4.0, 2.0, 3.0]), np.array([0.1, 0.4, 0.2, 0.3])
    considered = Considered(np.array([5, 6, 7, 8]), scores, harm_s=harm_s)
    for count, slots in ((0, []), (1, [6]), (3, [6, 8, 7]), (4, [6, 8, 7, 5]), (9, [6, 8, 7, 5])):
        best = considered.best(count)
        assert best.slots.tolist() == slots
        assert best.harm_s is not None
        assert best.harm_s.tolist() == [harm_s[slot - 5] for slot in slots]
        assert best.predicted_ttft_s is None


@pytest.mark.parametrize("name", ["auto", "least-requests", "weighted"])
def test_a_ranking_explains_all_candidates(name: str) -> None:
    spec = PolicySpec(name, DEFAULT_PROFILE if name == "weighted" else {})
    pool = pool_of((0, 0), (9, 0.5), (3, 0.1))
    ranking = spec.build().rank(request_for(pool), pool, everyone(pool), 1, 0.0, Random(1))
    assert ranking.considered is not None
    best = ranking.considered.best(3)
    assert best.slots.size == 3
    assert best.slots[0] == ranking.slots[0] == 0
    assert best.scores[0] == ranking.scores[0]
