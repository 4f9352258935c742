"""Several pickers that share their queues: what holds over all of them, and how exactly."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from policies.flow.digest import ClassRow, FlowRow, QueueDigest
from policies.flow.item import Item
from policies.flow.queue import FlowQueue
from policies.flow.rules import FlowRules
from policies.flow.shared import SharedQueue
from tests.policies.flow.items import item
from tests.policies.flow.pickers import INTERVAL_S, Cluster, Picker

LARGEST = 200
Spread = Mapping[str, Sequence[int]]
"""At which pickers the requests of a flow come."""

UNEVEN: Spread = {"wide": range(3), "one": [3], "with": [0]}


def keep_waiting(
    cluster: Cluster, spread: Spread, weights: Mapping[str, float], each: int = 25
) -> None:
    """Of each flow so many requests wait all the time."""
    rng = random.Random(3)

    def come(flow: str) -> None:
        picker = cluster.pickers[rng.choice(spread[flow])]
        cost, endpoint = float(rng.randint(20, LARGEST)), rng.choice(cluster.endpoints)
        one = item(flow, cost, weight=weights[flow], arrived_s=cluster.now_s)
        picker.offer(one, endpoint)

    def again(_: Picker, ended: Item) -> None:
        come(ended.flow)

    cluster.worked = again
    for flow in spread:
        for _ in range(each):
            come(flow)


def served(cluster: Cluster, seconds: float) -> dict[str, float]:
    """Price of what each flow gets from now on."""
    before = dict(cluster.served)
    cluster.run(cluster.now_s + seconds)
    return {flow: price - before.get(flow, 0.0) for flow, price in cluster.served.items()}


@pytest.mark.parametrize("loss", [0.0, 0.2], ids=["heard", "a fifth is lost"])
@pytest.mark.parametrize(
    "weights",
    [{"wide": 1.0, "one": 1.0, "with": 1.0}, {"wide": 1.0, "one": 2.0, "with": 4.0}],
    ids=["alike", "1:2:4"],
)
def test_flows_get_their_shares_wherever_they_wait(
    weights: Mapping[str, float], loss: float
) -> None:
    cluster = Cluster(4, loss=loss)
    keep_waiting(cluster, UNEVEN, weights)
    cluster.run(1.5)
    got = served(cluster, 8.0)
    jain = sum(got.values()) ** 2 / (len(got) * sum(price**2 for price in got.values()))
    assert jain >= 0.995
    least = min(weights.values())
    bound = (len(cluster.pickers) + 1) * LARGEST / least
    assert max(got.values()) - min(got.values()) <= bound
    mean = sum(got.values()) / len(got)
    assert all(abs(price - mean) <= max(0.03 * mean, LARGEST / least) for price in got.values())


def test_an_endpoint_is_given_no_more_than_it_has_places_and_one_for_each_other_picker() -> None:
    cluster = Cluster(4, places=4)
    keep_waiting(cluster, UNEVEN, dict.fromkeys(UNEVEN, 1.0))
    cluster.run(1.5)  # they did not know of each other when it began
    cluster.most = 0
    cluster.run(6.0)
    assert cluster.most <= cluster.places + len(cluster.pickers) - 1


@pytest.mark.parametrize("pickers", [2, 8])
def test_a_free_endpoint_does_not_stand_idle(pickers: int) -> None:
    cluster = Cluster(pickers)
    spread = {"a": range(pickers), "b": [0]}
    keep_waiting(cluster, spread, dict.fromkeys(spread, 1.0), each=40)
    cluster.run(1.5)
    cluster.idle_s = 0.0
    cluster.run(6.0)
    assert cluster.idle_s <= (1 + pickers) * INTERVAL_S


def test_a_burst_over_all_pickers_does_not_flood_an_endpoint() -> None:
    cluster = Cluster(8, endpoints=1, places=16)
    for picker in cluster.pickers:
        picker.offer(item("a", 10.0), 0)
    cluster.run(0.5)
    cluster.most = 0
    for picker in cluster.pickers:
        for _ in range(16):
            picker.offer(item("a", LARGEST, arrived_s=cluster.now_s), 0)
    cluster.run(2.0)
    assert cluster.most <= cluster.places + (len(cluster.pickers) - 1)
    cluster.run(60.0)
    assert cluster.waiting == 0


def test_the_higher_class_goes_first_wherever_it_waits() -> None:
    cluster = Cluster(3, endpoints=1, places=2)
    for picker in cluster.pickers[:2]:
        for _ in range(30):
            picker.offer(item("low", 100.0, arrived_s=cluster.now_s), 0)
    cluster.run(1.5)
    begun = len(cluster.begun)
    came_s = cluster.now_s
    for _ in range(5):
        cluster.pickers[2].offer(item("high", 100.0, priority=3, arrived_s=came_s), 0)
    cluster.run(3.0)
    lows = [one for one in cluster.begun[begun:] if one[1].priority == 0]
    highs = [one for one in cluster.begun[begun:] if one[1].priority == 3]
    assert len(highs) == 5
    between = [at_s for at_s, _ in lows if came_s + 2 * INTERVAL_S < at_s < highs[-1][0]]
    assert not between


def test_no_class_starves_for_what_waits_elsewhere() -> None:
    cluster = Cluster(2, endpoints=1, places=2, rules=FlowRules(aging_s=1.0))

    def always(picker: Picker, ended: Item) -> None:
        if ended.priority:
            one = item("high", 100.0, priority=1, arrived_s=cluster.now_s)
            cluster.pickers[0].offer(one, 0)

    cluster.worked = always
    for _ in range(6):
        cluster.pickers[0].offer(item("high", 100.0, priority=1), 0)
    for _ in range(50):
        cluster.pickers[1].offer(item("low", 100.0), 0)
    cluster.run(3.0)
    before = len(cluster.begun)
    cluster.run(23.0)
    begun = [one for _, one in cluster.begun[before:]]
    low = sum(one.priority == 0 for one in begun)
    assert 0.03 <= low / len(begun) <= 0.08


@pytest.mark.parametrize("told", [True, False], ids=["gone", "stuck"])
def test_what_a_picker_does_not_use_others_use(told: bool) -> None:
    cluster = Cluster(3, endpoints=1, places=2)
    for picker in cluster.pickers:
        for _ in range(20):
            picker.offer(item(picker.name, 50.0), 0)
    cluster.run(1.0)
    lost = cluster.pickers[0]
    if told:
        cluster.kill(lost)
    else:
        lost.stuck = True
    cluster.run(10.0)
    assert not cluster.pickers[1].queue.depth.requests
    assert not cluster.pickers[2].queue.depth.requests
    assert cluster.pickers[1].shared.requests_elsewhere == (0 if told else len(lost.queue))


def test_who_joins_takes_over_what_others_know() -> None:
    old = SharedQueue("0", FlowQueue(), INTERVAL_S)
    for flow, given in (("a", 700.0), ("b", 100.0)):
        one = item(flow, given)
        old.queue.offer(one, (1, ""))
        old.queue.take(one, 0.0)
        old.queue.offer(item(flow), (1, ""))
    new = SharedQueue("1", FlowQueue(), INTERVAL_S)
    new.queue.offer(item("a"), (1, ""))
    old.hear("1", new.whole([], 0.0)[0], 0.0)
    for digest in old.whole([], 0.0):
        new.hear("0", digest, 0.0)
    shares, theirs = new.queue.tier(0).shares, old.queue.tier(0).shares
    ahead = shares.tag("a") - shares.tag("b")
    assert ahead == pytest.approx(theirs.tag("a") - theirs.tag("b"))
    assert ahead > 0


def test_what_is_reported_twice_or_late_counts_once() -> None:
    shared = SharedQueue("0", FlowQueue(), INTERVAL_S)
    shared.hear("1", QueueDigest(part=0, parts=1, begun=1), 0.0)
    row = FlowRow(0, "a", 1.0, 2, 20.0, 20.0, served=50.0, since=1)
    for _ in range(3):
        shared.hear("1", QueueDigest(flows=(row,), classes=(ClassRow(0, 50.0, 70.0),)), 0.0)
    shares = shared.queue.tier(0).shares
    shared.queue.offer(item("b"), (1, ""))
    assert shares.tag("a") - shares.tag("b") == pytest.approx(50.0)
    assert shared.requests_elsewhere == 2
    assert shared.queue.ahead_cost(item("c", 1000.0)) == pytest.approx(120.0)
    shared.hear("1", QueueDigest(part=0, parts=1), 0.0)
    assert shared.requests_elsewhere == 0
    shared.lapse("1")
    assert shared.queue.ahead_cost(item("c", 1000.0)) == pytest.approx(100.0)


def test_only_what_has_changed_is_reported() -> None:
    queue = FlowQueue()
    shared = SharedQueue("0", queue, INTERVAL_S)
    for number in range(1000):
        queue.offer(item(f"flow-{number}"), (1, ""))
    reported = 0
    while shared.is_changed:
        rows = len(shared.digest([], 0.0).flows)
        assert rows <= 256, "it goes into a datagram"
        reported += rows
    assert reported == 1000
    first = queue.first((1, ""))
    assert first is not None
    queue.take(first, 0.0)
    assert len(shared.digest([], 0.0).flows) == 1
    assert not shared.is_changed
    parts = shared.whole([], 0.0)
    assert sum(len(part.flows) for part in parts) == 1000
    assert max(len(part.flows) for part in parts) < 500


def test_the_bound_of_the_queue_holds_over_all_pickers_and_spares_who_has_little() -> None:
    rules = FlowRules(max_requests=60)
    cluster = Cluster(3, endpoints=1, places=1, speed=1e-6, rules=rules)
    for round_ in range(40):
        for picker in cluster.pickers[:2]:
            picker.offer(item("greedy", 10.0, arrived_s=cluster.now_s), 0)
        if round_ % 8 == 0:
            cluster.pickers[2].offer(item("modest", 10.0, arrived_s=cluster.now_s), 0)
            cluster.pickers[2].offer(item("high", 90.0, priority=1), 0)
        cluster.run(cluster.now_s + 0.01)
    cluster.run(cluster.now_s + 1.0)
    most = 4  # come within an interval
    assert rules.max_requests - most <= cluster.waiting <= rules.max_requests + most
    lost = cluster.turned_away
    assert {one.flow for one in lost} == {"greedy"}
    assert min(lost, key=lambda one: one.arrived_s).arrived_s > 0.2, "the newest go"
