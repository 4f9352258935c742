"""Why replicas were no candidates."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from picker.decisions.left_out import MAX_NAMED
from picker.decisions.record import Record
from picker.request.choice import LeftOut, Why
from picker.request.head import RequestHead
from policies import registry
from policies.routing.spec import PolicySpec
from policies.routing.types import (
    Considered,
    PoolView,
    Ranking,
    RoutingPolicy,
    RoutingRequest,
    Slots,
)
from policies.routing.weighted import DEFAULT_PROFILE
from tests.picker.fleet import (
    IDLE,
    MODEL,
    POOL,
    Fleet,
    address,
    chat,
    decided,
    end_of,
    fleet,
    head,
    load,
)


async def left_out(
    made: Fleet, request: RequestHead | None = None, **body: object
) -> LeftOut | None:
    await decided(made, chat(**body), request)  # type: ignore[arg-type]
    record = next(made.picker.decisions.newest_first())
    assert isinstance(record, Record)
    return record.choices[-1].left_out


async def whys(made: Fleet, request: RequestHead | None = None, **body: object) -> dict[int, Why]:
    found = await left_out(made, request, **body)
    assert found is not None
    assert found.total == len(found.replicas)
    return {
        int(one.endpoint.split(":")[0].rpartition(".")[2]): one.why
        for one in found.replicas
        if one.reason
    }


async def test_draining_gone_and_without_the_model() -> None:
    made = fleet([IDLE] * 5)
    assert await left_out(made) is None
    made.sync([1, 2, 3, 4, 5], draining=[1])
    made.picker.mark_failed(POOL, address(2), "cannot connect", made.clock.now_s)
    made.report(3, models=("another",))
    assert await whys(made) == {1: Why.DRAINING, 2: Why.UNHEALTHY, 3: Why.MODEL}


async def test_an_adapter_that_is_not_loaded() -> None:
    made = fleet([IDLE] * 2)
    made.report(1, models=(MODEL, "sql"))
    assert await whys(made, model="sql") == {2: Why.ADAPTER}


async def test_outside_of_the_subset() -> None:
    made = fleet()
    request = replace(head(), subset=frozenset({address(2)}))
    assert await whys(made, request) == {1: Why.SUBSET, 3: Why.SUBSET}


async def test_filtered_by_the_policy() -> None:
    made = fleet([IDLE, load(99, 0.1), IDLE])
    filters = [{"name": "max-waiting", "params": {"limit": 10}}]
    made.configure(profile={**DEFAULT_PROFILE, "filters": filters})
    assert await whys(made) == {2: Why.POLICY}


async def test_with_an_open_breaker() -> None:
    made = fleet()
    for _ in range(40):
        decision = await decided(made, chat())
        fails = decision.addresses[0] == address(1)
        changes: dict[str, Any] = {"status": 500, "reason": "http_error"} if fails else {}
        made.picker.complete(end_of(decision, **changes))
        made.clock.now_s += 0.01
    found = await left_out(made)
    assert found is not None
    (one,) = found.replicas
    assert (one.endpoint, one.why) == (address(1), Why.BREAKER)
    assert "status 500" in one.reason


async def test_many_are_counted_and_few_are_named() -> None:
    made = fleet([IDLE] * 40)
    made.sync(range(1, 41), draining=range(1, 31))
    found = await left_out(made)
    assert found is not None
    assert (found.total, len(found.replicas)) == (30, MAX_NAMED)


async def test_requests_share_what_holds_for_all_of_them_for_a_second() -> None:
    made = fleet([IDLE] * 3)
    made.sync([1, 2, 3], draining=[1])
    first = await left_out(made)
    made.clock.now_s += 0.9
    assert await left_out(made) is first
    made.clock.now_s += 0.2
    again = await left_out(made)
    assert again == first
    assert again is not first


class Says(RoutingPolicy):
    """Takes the first, and says of the others what a test wants."""

    considered: Considered | None = None

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        return Ranking(candidates[:1], np.zeros(1), considered=self.considered)


@pytest.mark.parametrize(
    "considered",
    [
        None,
        Considered([0, 1], np.zeros(2)),  # type: ignore[arg-type]
        Considered(np.array([0.0, 1.0]), np.zeros(2)),
        Considered(np.array([0, 99]), np.zeros(2)),
        Considered(np.arange(99), np.zeros(99)),
        Considered("all", "good"),  # type: ignore[arg-type]
    ],
)
async def test_a_policy_that_does_not_say_what_it_weighed_has_left_nothing_out(
    considered: Considered | None,
) -> None:
    says = Says()
    says.considered = considered
    registry.register("policy", "says-for-tests")(lambda: says)
    try:
        made = fleet()
        made.configure(policy=PolicySpec("says-for-tests"))
        assert await left_out(made) is None
        made.sync([1, 2, 3], draining=[3])
        assert await whys(made) == {3: Why.DRAINING}
    finally:
        del registry._factories["policy", "says-for-tests"]


@pytest.mark.parametrize("count", [100])
async def test_ever_new_subsets_are_counted_only(count: int) -> None:
    made = fleet([IDLE] * 8)
    for number in range(count):
        subset = frozenset({address(1), f"10.0.0.9:{number}"})
        found = await left_out(made, replace(head(), subset=subset))
        assert found is not None
        assert found.total == 7
