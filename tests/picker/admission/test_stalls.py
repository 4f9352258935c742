"""Nothing that waits is left behind, whatever happens to others or is reported of an engine."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from picker.request.answer import Answer
from picker.request.context import RequestContext
from picker.request.role import Role
from picker.settings import FlowSettings
from policies.flow.rules import FlowRules
from policies.routing.types import PoolView, Ranking, RoutingPolicy, RoutingRequest, Slots
from tests.picker.admission.test_line import (
    QUEUED,
    answer_of,
    come,
    decision_of,
    queued,
    settle,
)
from tests.picker.fleet import IDLE, MODEL, POOL, Fleet, address, chat, end_of, head
from tests.picker.fleet import policy as weighted
from tests.picker.saturation import FULL, empty, fill, until, until_waiting


class Script:
    """What the policy of a fleet does from now on."""

    def __init__(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wants: dict[float, int] = {}
        """By prompt tokens, at least: the slot that these requests go to."""
        self.fails_from = inf
        """Prompt tokens of those whose placing fails."""
        policy = type(fleet.picker.pools[POOL].profiles[0].policy)
        real = policy.rank

        def rank(
            policy: RoutingPolicy,
            request: RoutingRequest,
            view: PoolView,
            candidates: Slots,
            count: int,
            now_s: float,
            rng: random.Random,
        ) -> Ranking | None:
            allowed = self.allowed(request, candidates)
            return real(policy, request, view, allowed, count, now_s, rng)

        monkeypatch.setattr(policy, "rank", rank)

    def allowed(self, request: RoutingRequest, candidates: Slots) -> Slots:
        """Where the policy may send the request."""
        if request.prompt_tokens >= self.fails_from:
            raise RuntimeError("a policy that fails")
        for least in sorted(self.wants, reverse=True):
            if request.prompt_tokens >= least:
                return np.array([self.wants[least]], np.intp)
        return candidates


def without_alarms(made: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks again by himself."""
    monkeypatch.setattr(made.picker.admission._holding, "call_at", lambda at_s, act: None)


LONG = [{"role": "user", "content": "word " * 2000}]


async def test_a_request_that_cannot_be_placed_any_more_harms_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    policy = Script(made, monkeypatch)
    bad = come(made, messages=LONG)
    await until_waiting(made)
    good = come(made)
    await until_waiting(made, 2)
    policy.fails_from = 1000
    made.clock.now_s += 0.1
    made.picker.complete(end_of(taken.pop()))  # its end is settled in spite of that
    assert (await answer_of(bad)).status == 500
    made.report(1)
    empty(made, taken)
    await settle(made, good)


async def test_those_behind_one_that_goes_elsewhere_are_not_left_standing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = queued(2)
    without_alarms(made, monkeypatch)
    slots = made.picker.pools[POOL].state.slot_of
    taken = await fill(made, head(tenant="first"), [1, 2])
    policy = Script(made, monkeypatch)
    policy.wants = {0: slots[address(1)]}
    first, second = come(made, messages=LONG), come(made)
    await until_waiting(made, 2)
    policy.wants[1000] = slots[address(2)]
    made.clock.now_s += 0.02
    made.picker.complete(end_of(taken.pop(0)))
    assert (await decision_of(second)).addresses[0] == address(1)
    assert not first.done()
    empty(made, taken)
    made.report(2)
    await settle(made, first, second)


async def test_an_engine_that_stands_still_has_a_slot_for_any_adapter() -> None:
    """It goes on reporting those that ran last."""
    made = queued(1)
    stale = replace(IDLE, max_loras=1, running_adapters=frozenset({"x"}))
    made.report(1, stale, [MODEL, "x", "y"])
    await settle(made, come(made, model="y"))


async def test_what_waits_for_an_adapter_is_passed_by_what_comes_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = queued(1)
    without_alarms(made, monkeypatch)
    busy = replace(IDLE, running_requests=3, max_loras=1, running_adapters=frozenset({"x"}))
    made.report(1, busy, [MODEL, "x", "y"])
    first = await decision_of(come(made, model="x"))
    other = come(made, model="y")
    await until_waiting(made)
    base = come(made)
    await until(base.done)
    empty(made, [first])
    made.clock.now_s += 0.1
    made.report(1, IDLE, [MODEL, "x", "y"])
    await settle(made, base, other)


async def test_a_picker_gets_its_turn_at_an_engine_that_others_keep_full() -> None:
    made = queued(1)
    made.report(1, FULL)
    view = made.picker.pools[POOL].state.view
    view.in_flight_requests[0] += 9  # of other pickers
    mine = await decision_of(come(made))
    waits = come(made)
    await until_waiting(made)
    made.picker.complete(end_of(mine))
    second = await decision_of(waits)
    view.in_flight_requests[0] -= 9
    made.picker.complete(end_of(second))
    assert made.is_settled


async def test_those_that_leave_or_are_refused_free_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = queued(1, replace(QUEUED, flow=FlowSettings(FlowRules(max_requests=1))))
    taken = await fill(made, head(tenant="first"), [1])
    stays = come(made)
    await until_waiting(made)
    line = made.picker.admission._lines[POOL]
    looks: list[object] = []
    monkeypatch.setattr(line, "stir", looks.append)
    assert (await answer_of(come(made))).status == 429
    stays.cancel()
    await until(stays.done)
    assert not looks
    monkeypatch.undo()
    assert made.picker.admission.waiting == 0
    empty(made, taken)
    assert made.is_settled


async def test_a_request_of_unknown_size_costs_something() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    task = come(made, max_tokens=1)
    await until_waiting(made)
    (held,) = made.picker.admission._lines[POOL]._held.values()
    assert held.item.cost >= 16
    made.report(1)
    decision = await decision_of(task)
    made.picker.complete(end_of(decision, input_tokens=0, output_tokens=0))
    assert held.item.cost >= 16
    empty(made, taken)
    assert made.is_settled


async def test_a_pool_that_has_begun_nothing_for_hours_still_answers() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    tasks = [come(made)]
    await until_waiting(made)
    for _ in range(4):
        made.clock.now_s += 2500.0
        tasks.append(come(made))
        await until_waiting(made, 2)
        made.report(1, FULL)
        headers = dict((await answer_of(tasks.pop(0))).headers)
        assert 1 <= int(headers["retry-after"]) <= 3600
    tasks.pop().cancel()
    empty(made, taken)


async def test_a_request_whose_gateway_cannot_be_asked_for_time_is_forgotten() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])

    def fails(longest_s: float) -> None:
        raise RuntimeError("the stream is over")

    begun = await made.picker.begin(head(tenant="a", priority="0"))
    assert isinstance(begun, RequestContext)
    begun.on_wait = fails
    outcome = await made.picker.offer(begun, chat())
    assert isinstance(outcome, Answer)
    assert made.picker.admission.waiting == 0
    empty(made, taken)
    assert made.is_settled


async def test_an_endpoint_without_metrics_is_not_judged_by_the_one_before_it() -> None:
    made = queued(1)
    for _ in range(2):
        made.report(1, replace(IDLE, running_requests=1, waiting_requests=9))
    made.report(1)
    made.sync([])
    made.sync([2])
    state = made.picker.pools[POOL].state
    assert state.slot_of[address(2)] == 0
    state.view.in_flight_requests[0] += 50
    made.picker.flights.ledger.in_flight = lambda pool, address: 50  # type: ignore[method-assign]
    assert made.picker.admission._lines[POOL]._places.has_room(0)


async def test_many_that_wait_for_a_replica_that_is_gone_do_not_stop_the_loop() -> None:
    made = queued(2)
    taken = await fill(made, head(tenant="first"), [1, 2])
    tasks = [come(made) for _ in range(300)]
    await until_waiting(made, 300)
    made.sync([])
    left: list[int] = []
    while made.picker.admission.waiting:
        made.picker.admission.freed(POOL)
        left.append(made.picker.admission.waiting)
        assert len(left) <= 10
    assert left[0] >= 300 - 2 * 64
    for task in tasks:
        assert (await answer_of(task)).status == 503
    empty(made, taken)
    assert made.is_settled


async def test_a_request_waits_for_the_replica_that_decodes_it_as_well() -> None:
    made = queued(2)
    made.disaggregate({1: Role.PREFILL, 2: Role.DECODE}, spec=weighted())
    taken = [await decision_of(come(made)) for _ in range(2)]
    made.report(2, FULL)
    late = come(made)
    await until_waiting(made)
    made.picker.complete(end_of(taken.pop()))
    await decision_of(late)
    for one in (taken.pop(), await decision_of(late)):
        made.picker.complete(end_of(one))
    assert made.is_settled
