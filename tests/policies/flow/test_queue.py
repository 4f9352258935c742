"""Who goes next, who is turned away, and what is forgotten."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.flow.item import Item, Place
from policies.flow.queue import FlowQueue
from policies.flow.rules import Bounds, FlowRules
from tests.policies.flow.items import item

HERE: Place = (0, "")


def serve(queue: FlowQueue, place: Place = HERE, now_s: float = 0.0) -> Item:
    taken = queue.first(place)
    assert taken is not None
    queue.take(taken, now_s)
    return taken


def served_cost(queue: FlowQueue, rounds: int) -> Mapping[str, float]:
    cost: dict[str, float] = defaultdict(float)
    for _ in range(rounds):
        taken = serve(queue)
        cost[taken.flow] += taken.cost
    return cost


def test_a_flow_that_asks_for_more_gets_no_more() -> None:
    queue = FlowQueue()
    for _ in range(50):
        for flow, many in (("greedy", 10), ("modest", 1)):
            for _ in range(many):
                queue.offer(item(flow), HERE)
    cost = served_cost(queue, 90)
    assert cost["greedy"] == pytest.approx(cost["modest"], abs=100)


def test_tokens_count_not_requests() -> None:
    queue = FlowQueue()
    for _ in range(100):
        queue.offer(item("long", 1000.0), HERE)
        queue.offer(item("short", 100.0), HERE)
    cost = served_cost(queue, 88)
    assert cost["long"] == pytest.approx(cost["short"], abs=1000)


@pytest.mark.parametrize("seed", [1, 2])
def test_weights_divide_what_is_served(seed: int) -> None:
    rng, queue = random.Random(seed), FlowQueue()
    for flow, weight in (("one", 1.0), ("two", 2.0), ("four", 4.0)):
        for _ in range(2000):
            queue.offer(item(flow, rng.uniform(10, 1000), weight=weight), HERE)
    cost = served_cost(queue, 2000)
    assert cost["two"] == pytest.approx(2 * cost["one"], abs=2000)
    assert cost["four"] == pytest.approx(4 * cost["one"], abs=4000)


def test_the_gap_stays_bounded_when_costs_are_known_late() -> None:
    rng, queue = random.Random(3), FlowQueue()
    cost: dict[str, float] = defaultdict(float)
    for flow in ("told well", "told badly"):
        for _ in range(600):
            queue.offer(item(flow, 100.0), HERE)
    for _ in range(700):
        taken = serve(queue)
        true = 100.0 if taken.flow == "told well" else rng.choice((10.0, 400.0))
        queue.settle(taken, true)
        cost[taken.flow] += true
    assert abs(cost["told well"] - cost["told badly"]) <= 2 * 400


def test_what_was_not_served_is_not_charged_when_it_ends() -> None:
    queue = FlowQueue()
    left = item("a", 500.0)
    queue.offer(left, HERE)
    queue.cancel(left.id)
    queue.settle(left, 0.0)
    for _ in range(20):
        queue.offer(item("a"), HERE)
        queue.offer(item("b"), HERE)
    assert served_cost(queue, 20) == {"a": 1000.0, "b": 1000.0}


def test_who_was_away_has_saved_up_nothing() -> None:
    queue = FlowQueue()
    for _ in range(100):
        queue.offer(item("a"), HERE)
    served_cost(queue, 50)
    for _ in range(50):
        queue.offer(item("b"), HERE)
    cost = served_cost(queue, 40)
    assert abs(cost["a"] - cost["b"]) <= 200


def test_users_share_what_their_flow_gets() -> None:
    queue = FlowQueue()
    for _ in range(30):
        queue.offer(item("a", user="x"), HERE)
    queue.offer(item("a", user="y"), HERE)
    assert "y" in {serve(queue).user for _ in range(2)}


def test_users_of_a_flow_that_comes_back_begin_anew() -> None:
    """What is kept of them in a place is of before."""
    queue = FlowQueue()
    for _ in range(20):
        for user in "xy":
            queue.offer(item("a", 500.0, user=user), HERE)
            queue.offer(item("a", 500.0, user=user), (1, ""))
    for _ in range(40):
        serve(queue)
    for one in [serve(queue, (1, "")) for _ in range(40)]:
        assert one.flow == "a"
    for _ in range(8):
        queue.offer(item("a", 10.0, user="z"), HERE)
        queue.offer(item("a", 10.0, user="x"), HERE)
    users = [serve(queue).user for _ in range(8)]
    assert users.count("x") == users.count("z") == 4


def test_deadlines_go_first_within_a_user() -> None:
    queue = FlowQueue()
    late, soon, none = item(due_s=9.0), item(due_s=3.0), item()
    for one in (none, late, soon):
        queue.offer(one, HERE)
    assert [serve(queue) for _ in range(3)] == [soon, late, none]


def test_a_deadline_that_cannot_be_met_hurries_nobody() -> None:
    queue = FlowQueue()
    missed, first = item(due_s=3.0), item()
    soon, later = item(due_s=6.0), item(due_s=9.0)
    for one in (missed, first, later, soon):
        queue.offer(one, HERE)
    queue.move(missed, (1, ""))
    queue.miss(3.5)
    queue.move(missed, HERE)
    assert [serve(queue) for _ in range(4)] == [soon, later, missed, first]
    gone = item(due_s=1.0)
    queue.offer(gone, HERE)
    queue.cancel(gone.id)
    queue.miss(2.0)
    assert queue.first(HERE) is None


def test_deadlines_are_met_when_more_comes_than_can_be_served() -> None:
    """Two come each second, one is served, each within 10 s if at all: half of them are in
    time, not none."""
    queue, met = FlowQueue(), 0
    for second in range(200):
        for _ in range(2):
            queue.offer(item(due_s=second + 10.0), HERE)
        queue.miss(float(second))
        met += serve(queue).due_s > second
    assert met == 200


def test_the_higher_class_goes_first_and_the_lower_gets_a_little_when_it_has_waited() -> None:
    queue = FlowQueue(FlowRules(aging_s=5.0))
    for _ in range(100):
        queue.offer(item(priority=0, arrived_s=0.0), HERE)
        queue.offer(item(priority=1, arrived_s=0.0), HERE)
    assert [serve(queue, now_s=4.0).priority for _ in range(30)] == [1] * 30
    later = [serve(queue, now_s=6.0).priority for _ in range(63)]
    assert later.count(0) == 3, "one in twenty"


def test_no_wait_brings_a_class_below_zero_before_the_others() -> None:
    queue = FlowQueue(FlowRules(aging_s=5.0))
    queue.offer(item(priority=-1, arrived_s=0.0), HERE)
    queue.offer(item(priority=0, arrived_s=1000.0), HERE)
    assert serve(queue, now_s=1000.0).priority == 0
    queue.offer(item(priority=0, arrived_s=1000.0), HERE)
    assert serve(queue, now_s=1000.0).priority == 0


def test_a_full_queue_loses_the_newest_of_the_greediest_in_the_lowest_class() -> None:
    queue = FlowQueue(FlowRules(max_requests=6))
    kept = [item("a", priority=1) for _ in range(3)]
    modest = item("b")
    greedy = [item("c") for _ in range(2)]
    for one in (*kept, modest, *greedy):
        assert queue.offer(one, HERE) == []
    assert queue.offer(item("a", priority=1), HERE) == [greedy[1]]
    assert queue.offer(one := item("c"), HERE) == [one]


def test_a_full_class_loses_the_newest_of_its_greediest_and_others_nothing() -> None:
    rules = FlowRules(max_requests=100, classes={0: Bounds(4), 2: Bounds(max_tokens=250.0)})
    queue = FlowQueue(rules)
    low = [item("a", priority=-1) for _ in range(10)]
    modest, greedy = item("b"), [item("c") for _ in range(3)]
    for one in (*low, modest, *greedy):
        assert queue.offer(one, HERE) == []
    assert queue.offer(item("b"), (1, "")) == [greedy[2]]
    assert queue.offer(one := item("c"), HERE) == [one]
    high = [item("d", priority=2) for _ in range(2)]
    assert [queue.offer(one, HERE) for one in high] == [[], []]
    assert queue.offer(one := item("d", priority=2), HERE) == [one]
    assert len(queue) == 16


def test_a_queue_is_bounded_in_tokens_too() -> None:
    queue = FlowQueue(FlowRules(max_tokens=250.0))
    first, second = item("a"), item("b")
    queue.offer(first, HERE)
    queue.offer(second, HERE)
    assert queue.offer(third := item("b"), HERE) == [third]


def test_those_that_wait_for_too_long_are_given_back() -> None:
    queue = FlowQueue()
    soon, later = item(expires_s=5.0), item(expires_s=9.0)
    queue.offer(later, HERE)
    queue.offer(soon, HERE)
    assert queue.next_expiry_s() == 5.0
    assert queue.expired(5.0) == [soon]
    assert serve(queue) is later
    assert queue.expired(100.0) == []


def test_an_id_waits_once() -> None:
    queue = FlowQueue()
    one = item()
    queue.offer(one, HERE)
    with pytest.raises(ValueError, match="waits already"):
        queue.offer(one, HERE)


def test_shares_hold_over_places() -> None:
    queue = FlowQueue()
    places: list[Place] = [(slot, "") for slot in range(4)]
    rng = random.Random(5)
    for _ in range(400):
        for flow, many in (("greedy", 4), ("modest", 1)):
            for _ in range(many):
                queue.offer(item(flow), rng.choice(places))
    cost: dict[str, float] = defaultdict(float)
    for turn in range(400):
        taken = serve(queue, places[turn % 4])
        cost[taken.flow] += taken.cost
    assert cost["greedy"] == pytest.approx(cost["modest"], rel=0.03)


def test_whose_turn_it_is_over_all_places() -> None:
    queue = FlowQueue()
    assert queue.next() is None
    early, late = item("a"), item("a")
    queue.offer(early, HERE)
    queue.offer(late, HERE)
    queue.take(early, 0.0)
    queue.offer(modest := item("b"), (1, ""))
    assert queue.next() is modest
    queue.offer(high := item("c", priority=2), (2, ""))
    assert queue.next() is high
    queue.cancel(high.id)
    queue.cancel(modest.id)
    assert queue.next() is late


def test_an_item_that_moves_waits_in_its_new_place_only() -> None:
    queue = FlowQueue()
    one = item()
    queue.offer(one, HERE)
    queue.move(one, (1, ""))
    assert queue.first(HERE) is None
    assert queue.first((1, "")) is one
    queue.move(one, HERE)
    assert serve(queue) is one
    assert queue.depth.requests == 0


def test_the_places_of_a_slot_are_looked_at_in_the_order_of_their_shares() -> None:
    queue = FlowQueue()
    for _ in range(3):
        queue.offer(item("a"), (7, "x"))
    queue.take(queue.firsts(7)[0], 0.0)
    queue.offer(other := item("b"), (7, "y"))
    assert [one.flow for one in queue.firsts(7)] == ["b", "a"]
    queue.take(other, 0.0)
    assert [one.flow for one in queue.firsts(7)] == ["a"]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_has_moved_or_left_the_highest_class_goes_next_everywhere(seed: int) -> None:
    rng, queue = random.Random(seed), FlowQueue()
    waiting: list[Item] = []
    for step in range(3000):
        most = 60 if step % 1000 < 700 else 4
        if len(waiting) < most:
            one = item(rng.choice("abc"), user=rng.choice("xy"), priority=rng.choice((-1, 0, 0)))
            waiting.append(one)
            queue.offer(one, (rng.randrange(3), ""))
        elif rng.random() < 0.8:
            queue.move(rng.choice(waiting), (rng.randrange(3), ""))
        elif (first := queue.first((rng.randrange(3), ""))) is not None:
            waiting.remove(first)
            if rng.random() < 0.5:
                queue.take(first, 0.0)
            else:
                queue.cancel(first.id)
        for slot in range(3):
            here = [one.priority for one in waiting if one.place[0] == slot]
            first = queue.first((slot, ""))
            assert (None if first is None else first.priority) == max(here, default=None)


class Machine(RuleBasedStateMachine):
    """Against a plain list: what waits is what was offered and has not left."""

    def __init__(self) -> None:
        super().__init__()
        classes = {0: Bounds(max_tokens=2000.0), 2: Bounds(4)}
        self.queue = FlowQueue(FlowRules(max_requests=12, max_tokens=4000.0, classes=classes))
        self.waiting: list[Item] = []
        self.now_s = 0.0

    @rule(
        flow=st.sampled_from("abc"),
        user=st.sampled_from(("", "u")),
        priority=st.sampled_from((-1, 0, 2)),
        slot=st.integers(0, 2),
        cost=st.floats(1, 900),
        ttl_s=st.floats(0.5, 20),
    )
    def offer(
        self, flow: str, user: str, priority: int, slot: int, cost: float, ttl_s: float
    ) -> None:
        one = item(
            flow,
            cost,
            user=user,
            priority=priority,
            arrived_s=self.now_s,
            expires_s=self.now_s + ttl_s,
        )
        self.waiting.append(one)
        for away in self.queue.offer(one, (slot, "")):
            lowest = min(other.priority for other in self.waiting)
            assert away.priority == lowest or away.priority == priority
            self.waiting.remove(away)

    @rule(slot=st.integers(0, 2))
    def take(self, slot: int) -> None:
        here = [one for one in self.waiting if one.place == (slot, "")]
        first = self.queue.first((slot, ""))
        assert (first is None) == (not here)
        if first is not None:
            assert first in here
            self.queue.take(first, self.now_s)
            self.waiting.remove(first)
            self.queue.settle(first, first.cost * 1.5)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        assert self.queue.cancel(one.id) is one
        assert self.queue.cancel(one.id) is None
        self.waiting.remove(one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), slot=st.integers(0, 2))
    def move(self, data: st.DataObject, slot: int) -> None:
        self.queue.move(data.draw(st.sampled_from(self.waiting)), (slot, ""))

    @rule(step_s=st.floats(0, 8))
    def wait(self, step_s: float) -> None:
        self.now_s += step_s
        for gone in self.queue.expired(self.now_s):
            assert gone.expires_s <= self.now_s
            self.waiting.remove(gone)

    @invariant()
    def it_holds_what_waits(self) -> None:
        assert len(self.queue) == self.queue.depth.requests == len(self.waiting)
        assert self.queue.depth.tokens == pytest.approx(sum(one.tokens for one in self.waiting))
        by_class: dict[int, int] = defaultdict(int)
        for one in self.waiting:
            by_class[one.priority] += 1
            assert one.id in self.queue
        assert by_class == {
            priority: sum(depth.requests for depth in self.queue.flows(priority).values())
            for priority in self.queue.classes()
        }
        for priority in by_class:
            mine = [one for one in self.waiting if one.priority == priority]
            assert self.queue.oldest_s(priority) == min(one.arrived_s for one in mine)
            for flow in {one.flow for one in mine}:
                oldest_s = min(one.arrived_s for one in mine if one.flow == flow)
                assert self.queue.oldest_s(priority, flow) == oldest_s


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(1, 500)), min_size=20, max_size=200))
@settings(max_examples=50, deadline=None)
def test_flows_that_wait_all_the_time_differ_by_one_item_of_each(
    asked: list[tuple[str, float]],
) -> None:
    queue, cost = FlowQueue(), defaultdict[str, float](float)
    largest: dict[str, float] = defaultdict(float)
    left: dict[str, int] = defaultdict(int)
    for flow, size in asked:
        queue.offer(item(flow, size), HERE)
        largest[flow] = max(largest[flow], size)
        left[flow] += 1
    while all(left.values()):
        taken = serve(queue)
        cost[taken.flow] += taken.cost
        left[taken.flow] -= 1
        if all(left.values()):
            for one in left:
                for other in left:
                    assert cost[one] - cost[other] <= largest[one] + largest[other] + 1e-6
