"""Orders that can be exchanged: who goes next under each, in one and the same queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import registry
from policies.flow.baselines.vtc import VirtualCounters
from policies.flow.item import Item, Place
from policies.flow.orders import FAIR, order
from policies.flow.queue import FlowQueue
from policies.registry import PolicyError
from tests.policies.flow.items import item

HERE: Place = (0, "")
ORDERS = ("fair", "first-come", "round-robin", "strict-priority", "vtc")


def queue_of(name: str) -> FlowQueue:
    return FlowQueue(order=order(name))


def offer(queue: FlowQueue, *items: Item) -> None:
    for one in items:
        queue.order.rank(one)
        assert queue.offer(one, HERE) == []


def serve(queue: FlowQueue, now_s: float = 0.0) -> Item:
    taken = queue.first(HERE)
    assert taken is not None
    queue.take(taken, now_s)
    return taken


def counts(queue: FlowQueue, rounds: int) -> Mapping[str, int]:
    found: dict[str, int] = defaultdict(int)
    for _ in range(rounds):
        found[serve(queue).flow] += 1
    return found


def test_orders_are_found_by_name() -> None:
    assert tuple(registry.names("order")) == ORDERS
    assert FlowQueue().order.__class__ is order(FAIR).__class__
    with pytest.raises(PolicyError, match="unknown order 'fare': use one of fair, first-come"):
        order("fare")


def test_an_order_without_its_methods_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._factories, ("order", "none"), object)
    with pytest.raises(PolicyError, match="lacks a method"):
        order("none")


def test_first_come_knows_neither_classes_nor_shares_nor_deadlines() -> None:
    queue = queue_of("first-come")
    came = [item("a", priority=0), item("a", due_s=1.0), item("b", priority=9), item("a")]
    offer(queue, *came)
    assert [serve(queue) for _ in came] == came


def test_strict_priority_never_lets_the_lower_pass_and_has_no_shares() -> None:
    queue = queue_of("strict-priority")
    low = [item("a", priority=0) for _ in range(3)]
    high = [item(flow, priority=1) for flow in ("b",) * 30 + ("c",)]
    offer(queue, *low, *high)
    assert [serve(queue, now_s=1e6) for _ in (*high, *low)] == [*high, *low]


def test_round_robin_counts_requests_whatever_they_cost() -> None:
    queue = queue_of("round-robin")
    for _ in range(40):
        offer(queue, item("large", 5000.0, priority=-1), item("small", 10.0, weight=3.0))
    assert counts(queue, 40) == {"large": 20, "small": 20}


def test_vtc_counts_cached_tokens_and_outputs_twice() -> None:
    """Where `fair` counts what each has cost the pool, here no more for one than for the other."""
    shares: dict[str, Mapping[str, int]] = {}
    for name in ("vtc", "fair"):
        queue = queue_of(name)
        for _ in range(120):
            wordy, long = item("wordy", 100.0), item("long", 100.0)
            wordy.prompt_tokens, wordy.output_tokens = 0.0, 100.0
            long.prompt_tokens, long.output_tokens = 100.0, 0.0
            offer(queue, wordy, long)
        shares[name] = counts(queue, 120)
    assert shares == {"vtc": {"wordy": 40, "long": 80}, "fair": {"wordy": 60, "long": 60}}


def test_vtc_puts_expected_outputs_right() -> None:
    queue = queue_of("vtc")
    for _ in range(200):
        for flow in ("well", "badly"):
            one = item(flow, 100.0)
            one.output_tokens = 100.0
            offer(queue, one)
    tokens: dict[str, float] = defaultdict(float)
    for _ in range(150):
        taken = serve(queue)
        true = 100.0 if taken.flow == "well" else 30.0
        queue.settle(taken, 1.0, output_tokens=true)
        tokens[taken.flow] += true
    assert tokens["well"] == pytest.approx(tokens["badly"], abs=200)


def test_vtc_lifts_who_comes_back_to_the_least_or_to_who_left_last() -> None:
    counters = VirtualCounters()
    counters.join("a")
    counters.charge("a", 500.0)
    counters.join("b")
    assert counters.tag("b") == 500.0
    counters.charge("b", 50.0)
    counters.leave("a")
    counters.leave("b")
    counters.join("c")
    assert counters.tag("c") == 550.0
    assert (len(counters), "c" in counters, "a" in counters) == (1, True, False)


@pytest.mark.parametrize("name", ORDERS)
@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from((-1, 0, 3)),
            st.floats(1, 900),
            st.integers(0, 2),
            st.floats(0, 3),
        ),
        min_size=1,
        max_size=60,
    )
)
@settings(max_examples=15, deadline=None)
def test_every_order_serves_all_that_waits_once(
    name: str, asked: list[tuple[str, int, float, int, float]]
) -> None:
    queue, left = queue_of(name), dict[str, Item]()
    for flow, priority, cost, slot, factor in asked:
        one = item(flow, cost, priority=priority)
        queue.order.rank(one)
        queue.offer(one, (slot, ""))
        left[one.id] = one
        if len(left) > 8:
            taken = queue.first(min(queue.places()))
            assert taken is not None
            queue.take(taken, 0.0)
            queue.settle(taken, cost * factor, output_tokens=cost * factor)
            del left[taken.id]
    for slot in range(3):
        while (one_ := queue.first((slot, ""))) is not None:
            queue.take(one_, 0.0)
            del left[one_.id]
    assert left == {}
    assert (len(queue), queue.depth.cost, queue.places()) == (0, 0.0, {})
