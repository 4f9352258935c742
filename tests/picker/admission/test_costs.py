"""What requests that wait are charged, and when they may come back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from picker.admission.unmetered import UnmeteredCost
from picker.request.answer import Decision
from picker.settings import FlowSettings, PoolSettings
from policies.flow.item import Item
from policies.flow.returns import Returns
from policies.flow.rules import FlowRules
from policies.routing.spec import PolicySpec
from tests.picker.admission.test_line import QUEUED, answer_of, come, decision_of, queued
from tests.picker.fleet import IDLE, OPAQUE, POOL, Fleet, ask, decided, end_of, head
from tests.picker.fleet import policy as weighted
from tests.picker.saturation import empty, fill, until_waiting


async def one_that_waited(made: Fleet) -> tuple[Item, Decision]:
    taken = await fill(made, head(tenant="first"), [1])
    task = come(made, "greedy", max_tokens=400)
    await until_waiting(made)
    made.report(1)
    decision = await decision_of(task)
    empty(made, taken)
    item = made.picker.flights._entries[decision.id].item
    assert item is not None
    return item, decision


@pytest.mark.parametrize("idle", [True, False])
async def test_an_engine_that_is_idle_before_the_report_makes_a_request_no_cheaper(
    *, idle: bool
) -> None:
    made = queued(1)
    item, decision = await one_that_waited(made)
    before = item.price
    if idle:
        made.clock.now_s += 60
        made.report(1)
        assert made.in_flight() == 0
        assert item.price == before, "not known yet"
    made.picker.complete(end_of(decision, output_tokens=300))
    assert item.price == pytest.approx(10 + 300 * item.output_worth)
    assert made.is_settled


async def test_who_is_refused_together_comes_back_one_after_the_other() -> None:
    made = queued(1, replace(QUEUED, flow=FlowSettings(FlowRules(max_requests=40))))
    taken = await fill(made, head(tenant="first"), [1])
    waiting = [come(made, max_tokens=2000) for _ in range(40)]
    await until_waiting(made, 40)
    made.clock.now_s += 20
    refused = [come(made, max_tokens=2000) for _ in range(30)]
    backs = [int(dict((await answer_of(task)).headers)["retry-after"]) for task in refused]
    assert backs == sorted(backs)
    assert backs[-1] > 1.5 * backs[0]
    assert max(later - sooner for sooner, later in pairwise(backs)) < backs[-1] / 4
    for task in waiting:
        task.cancel()
    empty(made, taken)


def test_who_has_come_back_is_nobody_s_hurdle_any_more() -> None:
    returns = Returns()
    returns.add(10.0, 0, 5.0)
    returns.add(20.0, 0, 7.0)
    returns.add(15.0, 3, 1.0)
    assert [returns.before(one, 9.0) for one in (0, 3, -1, 5)] == [13.0, 1.0, 13.0, 0.0]
    assert returns.before(0, 15.0) == 7.0
    assert returns.before(0, 20.0) == 0.0


def test_what_has_no_tokens_costs_the_time_of_an_engine_that_it_took() -> None:
    cost = UnmeteredCost()
    prior = cost.expected("/v1/audio/transcriptions")
    assert prior > 100
    audio = cost.observe("/v1/audio/transcriptions", took_s=3.0, requests=2, tokens_per_s=1e4)
    assert audio == cost.expected("/v1/audio/transcriptions") == 15000
    assert cost.expected("/v1/images/generations") == prior
    for number in range(1000):
        cost.observe(f"/{number}", took_s=1.0, requests=0.0, tokens_per_s=1.0)
    assert cost.expected("/v1/audio/transcriptions") == prior, "few are kept"


async def test_a_shadow_is_asked_once_however_often_a_request_is_placed() -> None:
    shadow = PolicySpec("round-robin")
    pool = PoolSettings(POOL, weighted(), queue=True, shadow=shadow)
    made = queued(2, replace(QUEUED, pools=(pool,)))
    counts = made.picker.pools[POOL].shadow
    assert counts is not None

    def asked() -> int:
        return counts.counts.agreed + counts.counts.differed

    taken = await fill(made, head(tenant="first"), [1, 2])
    before = asked()
    task = come(made)
    await until_waiting(made)
    for _ in range(5):
        made.clock.now_s += 0.2
        made.picker.admission.freed(POOL)
    assert asked() == before
    made.report(1, replace(IDLE, running_requests=1))
    made.report(2)
    made.picker.complete(end_of(await decision_of(task)))
    assert asked() == before + 1
    empty(made, taken)
    assert made.is_settled


async def test_a_path_without_tokens_is_charged_what_it_has_taken_before() -> None:
    settings = replace(QUEUED, passthrough=(OPAQUE,))
    made = queued(1, settings)
    opaque = head(OPAQUE, tenant="a")
    first = await decided(made, b"\0" * 100, opaque)
    made.picker.complete(end_of(first, input_tokens=None, output_tokens=None, duration_s=5.0))
    taken = await fill(made, head(tenant="first"), [1])
    task = asyncio.ensure_future(ask(made, b"\0" * 100, opaque))
    await until_waiting(made)
    (held,) = made.picker.admission._lines[POOL]._held.values()
    assert held.item.cost > 1000
    made.report(1)
    decision = await decision_of(task)
    assert held.item.price == held.item.cost
    made.picker.complete(end_of(decision, input_tokens=None, output_tokens=None, duration_s=1.0))
    assert 16 < held.item.price < held.item.cost
    empty(made, taken)
    assert made.is_settled
