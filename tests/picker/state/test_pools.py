"""Pools over reloads, changes of endpoints and restarts: what is kept and what is forgotten."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import numpy as np
import orjson
import pytest

from picker.settings import PickerSettings, PoolSettings
from picker.state.pools import Pools
from policies import registry
from policies.routing.spec import PolicySpec
from policies.routing.types import (
    Observation,
    PoolView,
    Ranking,
    RoutingPolicy,
    RoutingRequest,
    Slots,
)
from tests.picker.fleet import MODEL, POOL, Fleet, chat, decided, end_of, fleet


class Counting(RoutingPolicy):
    """Learns how many requests each slot has ended well."""

    def __init__(self, bias: float = 0.0) -> None:
        self.bias = bias
        self.ended: dict[int, int] = {}
        self.seen: list[Observation] = []

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        return Ranking(candidates[:count], np.zeros(min(count, candidates.size)))

    def observe(self, observation: Observation, now_s: float) -> None:
        self.ended[observation.slot] = self.ended.get(observation.slot, 0) + observation.ok
        self.seen.append(observation)

    def reset(self, slot: int) -> None:
        self.ended.pop(slot, None)

    def snapshot(self) -> Mapping[str, object]:
        slots = {str(slot): count for slot, count in self.ended.items()}
        return {"slots": slots} if slots else {}

    def restore(self, snapshot: Mapping[str, object]) -> None:
        slots = snapshot.get("slots")
        assert isinstance(slots, dict)
        self.ended = {int(slot): count for slot, count in slots.items()}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    registry.register("policy", "counting-for-tests")(Counting)
    yield
    del registry._factories["policy", "counting-for-tests"]


def configure(made: Fleet, **params: object) -> Counting:
    settings = PoolSettings(POOL, PolicySpec("counting-for-tests", params))
    made.picker.configure(PickerSettings((settings,)))
    (profile,) = made.picker.pools[POOL].profiles
    assert isinstance(profile.policy, Counting)
    return profile.policy


async def test_a_policy_lives_as_long_as_its_spec_is_equal() -> None:
    made = fleet()
    policy = configure(made, bias=1.0)
    made.picker.complete(end_of(await decided(made, chat())))
    assert configure(made, bias=1.0) is policy
    assert sum(policy.ended.values()) == 1
    other = configure(made, bias=2.0)
    assert other is not policy
    assert not other.ended


async def test_a_policy_hears_what_was_seen_at_the_decision() -> None:
    made = fleet()
    policy = configure(made)
    first = await decided(made, chat("words " * 400))
    second = await decided(made, chat("words " * 400, max_tokens=30))
    for decision in (first, second):
        made.picker.complete(end_of(decision, input_tokens=500, cached_tokens=100))
    one, two = policy.seen
    assert one.features.endpoint.in_flight_requests == 0
    assert two.features.endpoint.in_flight_requests == 1
    assert two.features.matched_tokens > one.features.matched_tokens == 0
    assert two.features.max_output_tokens == 30
    assert (two.prompt_tokens, two.cached_tokens, two.uncached_tokens) == (500, 100, 400)
    assert (two.ttft_s, two.ok) == (0.1, True)


async def test_a_slot_that_goes_to_another_endpoint_is_forgotten() -> None:
    made = fleet()
    policy = configure(made)
    decision = await decided(made, chat("words " * 400))
    made.picker.complete(end_of(decision))
    state = made.picker.pools[POOL].state
    slot = state.slot_of[decision.addresses[0]]
    assert policy.ended == {slot: 1}
    gone = int(decision.addresses[0].split(".")[3].split(":")[0])
    made.sync([number for number in (1, 2, 3, 4) if number != gone])
    assert state.slot_of["10.0.0.4:8000"] == slot
    assert not policy.ended
    made.report(4)
    again = await decided(made, chat("words " * 400))
    assert again.picks[0].matched_tokens == 0


async def test_what_was_learned_outlives_the_worker() -> None:
    made = fleet()
    policy = configure(made, bias=1.0)
    for _ in range(3):
        made.picker.complete(end_of(await decided(made, chat())))
    saved = orjson.loads(orjson.dumps(made.picker.pools.snapshot()))
    restarted = fleet()
    again = configure(restarted, bias=1.0)
    restarted.sync([])
    restarted.sync([2, 3, 1])  # in other slots than before
    restarted.picker.pools.restore(saved)
    before, now = made.picker.pools[POOL].state, restarted.picker.pools[POOL].state
    assert {now.address_of(slot): count for slot, count in again.ended.items()} == {
        before.address_of(slot): count for slot, count in policy.ended.items()
    }
    other = configure(restarted, bias=2.0)
    restarted.picker.pools.restore(saved)
    assert not other.ended, "another spec has learned something else"


@pytest.mark.parametrize(
    "garbage",
    [None, 7, [], [7], [{}], [{"role": "both", "name": "counting-for-tests", "learned": 7}]],
)
def test_garbage_is_ignored(garbage: object) -> None:
    made = fleet()
    policy = configure(made)
    made.picker.pools.restore({POOL: garbage, "elsewhere": {}})
    assert not policy.ended


async def test_a_policy_that_fails_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("broken")

    made = fleet()
    policy = configure(made)
    made.picker.complete(end_of(await decided(made, chat())))
    saved = made.picker.pools.snapshot()
    for method in ("reset", "snapshot", "restore"):
        monkeypatch.setattr(policy, method, fail)
    assert made.picker.pools.snapshot() == {}
    made.picker.pools.restore(saved)
    made.sync([])
    assert not made.picker.pools[POOL].state.slot_of


def test_a_policy_that_learns_nothing_saves_nothing() -> None:
    assert fleet().picker.pools.snapshot() == {}


def test_pools_are_in_the_order_of_the_configuration() -> None:
    pools = Pools(lambda model: 4.0, lambda: 0.0)
    spec = PolicySpec("random")
    pools.configure(PickerSettings(tuple(PoolSettings(name, spec) for name in ("b", "a"))))
    assert list(pools) == ["b", "a"]
    pools.configure(PickerSettings((PoolSettings("a", spec, models=(MODEL,)),)))
    assert list(pools) == list(pools.states) == ["a"]
