"""Shares of work whose size is known late."""

from __future__ import annotations

from collections import defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.flow.expectation import Expectation
from policies.flow.item import Item, Place
from policies.flow.queue import FlowQueue
from policies.flow.shares import Shares
from tests.policies.flow.items import item

PLACES: tuple[Place, ...] = ((0, ""), (1, ""), (2, ""))


def test_what_was_charged_too_much_counts_at_once() -> None:
    shares = Shares()
    for child in "ab":
        shares.join(child)
        shares.charge(child, 100.0)
    shares.correct("b", -60.0)
    assert (shares.tag("a"), shares.tag("b")) == (100.0, 40.0)
    assert shares.gap() == 60.0
    assert list(shares.lowered(0) or ()) == ["b"]
    assert list(shares.lowered(shares.lowerings) or ()) == []


def test_what_was_given_before_is_forgotten_with_what_it_has_cost() -> None:
    """Who comes back starts at the virtual time; refunds of before do not bring it below that."""
    shares = Shares()
    shares.join("a")
    shares.join("b")
    shares.charge("a", 500.0)
    shares.leave("a")
    for _ in range(30):
        shares.charge("b", 100.0)
    shares.join("a")
    now = shares.tag("a")
    assert now == 2900.0
    shares.correct("a", -400.0)
    assert shares.tag("a") == now
    shares.charge("a", 50.0)
    shares.correct("a", -30.0)
    assert shares.tag("a") == now + 20.0


def test_who_is_away_pays_for_what_has_cost_more() -> None:
    shares = Shares()
    shares.join("a")
    shares.join("b")
    shares.charge("a", 10.0)
    shares.leave("a")
    shares.charge("b", 10.0)
    shares.correct("a", 990.0)
    shares.join("a")
    assert (shares.tag("a"), shares.ahead("a")) == (1000.0, 1000.0)


def test_many_that_come_and_go_are_forgotten() -> None:
    shares = Shares()
    shares.join("stays")
    for number in range(5000):
        child = f"c{number}"
        shares.join(child)
        shares.charge(child, 10.0)
        shares.correct(child, -5.0)
        shares.leave(child)
        shares.charge("stays", 20.0)
    assert len(shares._tags) < 3000
    assert len(shares._lowered) < 3000
    assert shares.lowered(0) is None


def test_a_user_that_was_alone_owes_nobody_what_it_got() -> None:
    """What it has cost does not count either, when it turns out to be more."""
    queue, here = FlowQueue(), PLACES[0]
    alone = [item("a", 10.0, user="x") for _ in range(20)]
    for one in (*alone, item("a", 10.0, user="x")):
        queue.offer(one, here)
    for one in alone:
        queue.take(one, 0.0)
        queue.settle(one, 1000.0)
    for _ in range(9):
        queue.offer(item("a", 10.0, user="x"), here)
        queue.offer(item("a", 10.0, user="y"), here)
    served = [_serve(queue, here).user for _ in range(10)]
    assert served.count("x") == served.count("y") == 5


def _serve(queue: FlowQueue, place: Place, cost: float | None = None) -> Item:
    taken = queue.first(place)
    assert taken is not None
    queue.take(taken, 0.0, cost)
    return taken


@given(
    costs=st.lists(
        st.tuples(st.floats(1, 900), st.floats(0, 3), st.integers(0, 2)), min_size=60, max_size=150
    ),
    under_way=st.integers(0, 12),
    weights=st.tuples(st.sampled_from((1.0, 2.0, 4.0)), st.sampled_from((1.0, 3.0))),
)
@settings(max_examples=30, deadline=None)
def test_service_differs_by_the_largest_items_and_by_what_is_not_known_yet(
    costs: list[tuple[float, float, int]], under_way: int, weights: tuple[float, float]
) -> None:
    """Of flows that wait all the time, over any number of places: by weight, at any time, no more
    than the largest item of each, and the errors of what was under way: they are known when it has
    ended, and made up for by what is served from then on."""
    queue = FlowQueue()
    truth: dict[str, float] = {}
    for number, (cost, factor, slot) in enumerate(costs):
        flow = number % 2
        one = item("ab"[flow], cost, weight=weights[flow])
        queue.offer(one, PLACES[slot])
        truth[one.id] = cost * factor
        # Every place has something of both.
        for place in PLACES:
            queue.offer(item("ab"[1 - flow], cost, weight=weights[1 - flow]), place)
    running: deque[Item] = deque()
    served: dict[str, float] = defaultdict(float)
    largest: dict[str, float] = defaultdict(float)
    unknown = 0.0
    for turn in range(len(costs) // 2):
        place = PLACES[turn % 3]
        if len({one for one in "ab" if _waits(queue, one)}) < 2 or queue.first(place) is None:
            break
        taken = _serve(queue, place)
        true = truth.get(taken.id, taken.cost)
        served[taken.flow] += true / taken.weight
        largest[taken.flow] = max(largest[taken.flow], true / taken.weight, taken.price)
        errors = (abs(truth.get(one.id, one.cost) - one.spent) / one.weight for one in running)
        unknown = max(unknown, sum(errors))
        running.append(taken)
        if len(running) > under_way:
            first = running.popleft()
            queue.settle(first, truth.get(first.id, first.cost))
        if all(_in_every_place(queue, flow) for flow in "ab"):
            bound = largest["a"] + largest["b"] + 2 * unknown
            assert abs(served["a"] - served["b"]) <= bound + 1e-6


def _waits(queue: FlowQueue, flow: str) -> bool:
    return flow in queue.flows(0)


def _in_every_place(queue: FlowQueue, flow: str) -> bool:
    waiting = {one.place for one in queue._items.values() if one.flow == flow}
    return waiting == set(PLACES)


def test_a_flow_that_states_too_much_is_not_kept_waiting_for_it() -> None:
    """It is charged ten times of what it takes, until its answers end: that is a lag once, by what
    is under way, and does not grow."""
    queue, here = FlowQueue(), PLACES[0]
    for _ in range(500):
        queue.offer(item("states too much", 1000.0), here)
        queue.offer(item("well", 100.0), here)
    running: deque[Item] = deque()
    served: dict[str, int] = defaultdict(int)
    for turn in range(600):
        taken = _serve(queue, here)
        served[taken.flow] += turn >= 200
        running.append(taken)
        if len(running) > 20:
            queue.settle(running.popleft(), 100.0)
    assert served["states too much"] == pytest.approx(200, abs=12)


def test_what_is_given_out_at_one_time_is_charged_by_one_measure() -> None:
    """However it was estimated when it came."""
    queue, here = FlowQueue(), PLACES[0]
    for _ in range(60):
        queue.offer(item("came early", 900.0), here)
        queue.offer(item("came late", 100.0), here)
    served: dict[str, int] = defaultdict(int)
    for _ in range(60):
        served[_serve(queue, here, cost=300.0).flow] += 1
    assert served == {"came early": 30, "came late": 30}
    assert queue.depth.cost == pytest.approx(30 * 1000.0)


def test_expected_outputs_are_learned_by_flow() -> None:
    expectation = Expectation()
    assert expectation.tokens("a", 100.0) == 100.0
    for _ in range(600):
        expectation.observe("a", 20.0)
        expectation.observe("b", 2000.0)
    assert expectation.tokens("a", 8000.0) == pytest.approx(20.0, rel=0.3)
    assert expectation.tokens("b", 8000.0) == pytest.approx(2000.0, rel=0.1)
    assert expectation.tokens("b", 50.0) == 50.0
    assert 20 < expectation.tokens("new", 8000.0) < 2000
    for number in range(5000):
        expectation.observe(f"f{number}", 1.0)
    assert len(expectation) <= 4096
