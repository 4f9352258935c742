"""What is kept of a ranking."""

from __future__ import annotations

import random

import numpy as np
import pytest

from picker.decisions.choice import ROWS, choice_of
from picker.request.choice import Choice
from picker.request.pick import Pick
from picker.request.role import Role
from picker.state.endpoints import PoolState
from picker.state.spec import EndpointSpec
from policies.routing.spec import PolicySpec
from policies.routing.types import Considered, Features, Floats, Ranking, RoutingRequest, Slots


def pool_of(size: int) -> PoolState:
    state = PoolState("main", stale_after_s=5.0)
    state.sync([EndpointSpec(f"10.0.{n // 250}.{n % 250}:80") for n in range(size)])
    return state


def request_in(state: PoolState) -> RoutingRequest:
    return RoutingRequest(1_000.0, 100.0, np.full(state.slots, 64.0))


def kept(state: PoolState, ranking: Ranking) -> Choice:
    request = request_in(state)
    slots: list[int] = ranking.slots.tolist()
    pick = Pick(
        Role.BOTH,
        tuple(map(state.address_of, slots)),
        Features.seen(request, state.view, slots[0]),
    )
    return choice_of("mine", ranking, request, state, pick, len(state.slot_of))


def ranked(scores: Floats, *best: int, slots: Slots | None = None) -> Ranking:
    order = np.array(best, np.intp)
    slots = np.arange(scores.size) if slots is None else slots
    return Ranking(slots.take(order), scores.take(order), considered=Considered(slots, scores))


@pytest.mark.parametrize("name", ["auto", "least-requests"])
def test_the_numbers_of_every_candidate(name: str) -> None:
    state = pool_of(5)
    state.view.in_flight_requests[:] = [4, 3, 2, 1, 5, 0, 0, 0]
    state.view.in_flight_prefill_tokens[2] = 3_000
    ranking = (
        PolicySpec(name)
        .build()
        .rank(request_in(state), state.view, np.arange(5), 3, 0.0, random.Random(1))
    )
    choice = kept(state, ranking)
    rows = choice.rows()
    assert set(rows) == set(state.slot_of)
    assert choice.candidates == 5
    assert choice.tried[0] == state.address_of(3)
    assert [row["in_flight_requests"] for row in rows.values()] == [4, 3, 2, 1, 5]
    assert [row["matched_tokens"] for row in rows.values()] == [64.0] * 5
    assert rows[state.address_of(2)]["backlog_tokens"] == 3_000
    assert ("harm_s" in rows[choice.tried[0]]) == (name == "auto")
    if name == "auto":
        own = rows[choice.tried[0]]
        assert choice.predicted_ttft_s == pytest.approx(own["predicted_ttft_s"])
        assert choice.predicted_tpot_s == pytest.approx(own["predicted_tpot_s"])


@pytest.mark.parametrize("size", [17, 100, 256, 1_000, 1_023])
@pytest.mark.parametrize("levels", [1, 2, 50, 10_000])
def test_of_many_the_best_and_those_tried(size: int, levels: int) -> None:
    state = pool_of(size)
    scores = np.random.default_rng(size).integers(0, levels, size).astype(float)
    tried = [int(scores.argmin()), int(scores.argmax()), 3]
    choice = kept(state, ranked(scores, *tried))
    rows = choice.rows()
    assert set(choice.tried) <= rows.keys()
    assert len(rows) <= ROWS + 3
    best = sorted((row["score"] for row in rows.values()), reverse=True)[: ROWS - 3]
    assert best == sorted(scores.tolist(), reverse=True)[: ROWS - 3]
    assert all(row["score"] == scores[state.slot_of[name]] for name, row in rows.items())


def test_candidates_in_another_order_than_their_slots() -> None:
    state, slots = pool_of(40), np.arange(40)[::-1].copy()
    scores = np.arange(40.0)
    choice = kept(state, ranked(scores, 5, 39, slots=slots))
    rows = choice.rows()
    assert rows[state.address_of(34)]["score"] == 5
    assert rows[state.address_of(0)]["score"] == 39


def test_a_policy_that_says_nothing_of_the_others() -> None:
    state = pool_of(5)
    choice = kept(state, Ranking(np.array([2, 1]), np.array([0.5, 0.25])))
    assert {name: row["score"] for name, row in choice.rows().items()} == {
        state.address_of(2): 0.5,
        state.address_of(1): 0.25,
    }
    assert choice.predicted_ttft_s is None
    assert choice.candidates == 5


@pytest.mark.parametrize(
    "weighed",
    [
        Considered(np.arange(5), np.zeros(4)),
        Considered(np.arange(5), np.zeros(5), predicted_ttft_s=np.zeros(6)),
        Considered(np.arange(90), np.zeros(90)),
        Considered(np.arange(5), np.array(["a"] * 5)),
        Considered(np.arange(5), np.zeros((5, 2))),
        Considered(np.arange(5), [0.0] * 5),  # type: ignore[arg-type]
    ],
)
def test_a_policy_that_says_nonsense_harms_no_request(weighed: Considered) -> None:
    state = pool_of(5)
    choice = kept(state, Ranking(np.array([2]), np.zeros(1), considered=weighed))
    assert choice.candidates in (5, weighed.slots.size)
    assert choice.tried == (state.address_of(2),)
    rows = choice.rows()
    assert not rows or all("score" in row for row in rows.values())
