"""Requests that take idle capacity only."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from msgspec import structs

from picker.request.answer import Answer, Decision
from picker.request.caller import Caller
from picker.request.head import RequestHead
from picker.seams.observer import Completed
from picker.settings import PickerSettings, PoolSettings
from policies.flow.idle import IDLE_PRIORITY
from policies.limits.plan import TenantPolicy
from tests.picker.fleet import IDLE, POOL, Fleet, ask, chat, decided, end_of, fleet, head, policy
from tests.picker.saturation import FULL, empty, fill, until, until_waiting

QUEUED = PickerSettings(pools=(PoolSettings(POOL, policy(), queue=True),))
UNQUEUED = PickerSettings(pools=(PoolSettings(POOL, policy()),))
Outcome = asyncio.Task[Decision | Answer]


class Lanes:
    """A gate that lets requests with the header ``line`` take idle capacity only."""

    def identify(self, head: RequestHead) -> Caller:
        """See `Gate`."""
        return Caller(TenantPolicy("acme"), idle_only="line" in head.headers)


def pool(replicas: int = 1, settings: PickerSettings = QUEUED) -> Fleet:
    made = fleet([IDLE] * replicas, gate=Lanes())
    made.picker.configure(settings)
    return made


def line(made: Fleet, text: str = "Hello") -> Outcome:
    request = structs.replace(head(line="1"), received_s=made.clock.now_s)
    return asyncio.ensure_future(ask(made, chat(text), request))


def other(made: Fleet) -> Outcome:
    request = structs.replace(head(), received_s=made.clock.now_s)
    return asyncio.ensure_future(ask(made, chat(), request))


def ends(made: Fleet, decisions: list[Decision]) -> list[Completed]:
    """They end in this order."""
    empty(made, decisions)
    return made.seen.completions


async def held(made: Fleet, *tasks: Outcome) -> None:
    """They wait, and nothing lets them go."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks), [t.result() for t in tasks if t.done()]


async def sent(*tasks: Outcome) -> list[Decision]:
    found = await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert all(isinstance(one, Decision) for one in found), found
    return [one for one in found if isinstance(one, Decision)]


@pytest.mark.parametrize("settings", [QUEUED, UNQUEUED])
async def test_an_idle_pool_takes_lines(settings: PickerSettings) -> None:
    made = pool(2, settings)
    decisions = await sent(*(line(made) for _ in range(6)))
    assert {one.addresses[0] for one in decisions} == {"10.0.0.1:8000", "10.0.0.2:8000"}
    empty(made, decisions)
    assert made.is_settled


async def test_a_line_waits_while_an_engine_has_something_waiting() -> None:
    made = pool()
    made.report(1, replace(IDLE, waiting_requests=1, running_requests=3))
    task = line(made)
    await held(made, task)
    made.report(1)
    (decision,) = await sent(task)
    made.picker.complete(end_of(decision))
    (done,) = made.seen.completions
    assert done.labels.priority == IDLE_PRIORITY
    assert made.is_settled


async def test_no_line_goes_while_anything_waits_in_the_queue() -> None:
    made = pool()
    taken = await fill(made, head(), [1])
    first, task = other(made), line(made)
    await until_waiting(made)
    made.report(1)
    taken += await sent(first)
    taken += await sent(task)
    assert [one.labels.priority for one in ends(made, taken)] == [0, 0, 0, IDLE_PRIORITY]
    assert made.is_settled


async def test_beside_others_lines_take_a_tenth_of_the_time() -> None:
    made = pool()
    decisions = [await decided(made, chat(), head())]
    made.clock.now_s += 1
    decisions += await sent(line(made, "word " * 400))
    task = line(made)
    await held(made, task)
    empty(made, decisions)
    made.report(1)
    await held(made, task)
    made.clock.now_s += 0.5
    made.report(1)
    await held(made, task)
    made.clock.now_s += 0.2
    made.report(1)
    empty(made, await sent(task))
    made.clock.now_s += 60
    made.report(1)
    empty(made, await sent(*(line(made, "word " * 400) for _ in range(2))))
    assert made.is_settled


async def test_beside_others_sixteen_lines_run_on_an_engine() -> None:
    made = pool()
    decisions = [await decided(made, chat(), head())]
    for _ in range(16):
        made.clock.now_s += 1
        made.report(1, replace(IDLE, running_requests=20))
        decisions += await sent(line(made))
    task = line(made)
    made.clock.now_s += 1
    made.report(1, replace(IDLE, running_requests=20))
    await held(made, task)
    made.picker.complete(end_of(decisions.pop()))
    decisions += await sent(task)
    empty(made, decisions)
    assert made.is_settled


async def test_alone_lines_fill_an_engine() -> None:
    made = pool()
    decisions: list[Decision] = []
    for _ in range(8):
        made.report(1, replace(IDLE, running_requests=len(decisions)))
        decisions += await sent(*(line(made) for _ in range(5)))
    assert made.in_flight() == 40
    empty(made, decisions)
    assert made.is_settled


async def test_few_are_held_and_the_others_are_told_to_come_back() -> None:
    made = pool()
    made.report(1, FULL)
    tasks = [line(made) for _ in range(8)]
    await held(made, *tasks)
    refused = await line(made)
    assert isinstance(refused, Answer)
    assert refused.status == 429
    assert dict(refused.headers)["retry-after"] == "1"
    made.clock.now_s += 21
    made.report(1, FULL)
    for task in tasks:
        late = await task
        assert isinstance(late, Answer)
        assert late.status == 429
    assert made.is_settled


async def test_a_held_line_whose_client_leaves_gives_its_place_back() -> None:
    made = pool()
    made.report(1, FULL)
    tasks = [line(made) for _ in range(8)]
    await held(made, *tasks)
    for task in tasks[:7]:
        task.cancel()
    await until(lambda: all(task.done() for task in tasks[:7]))
    made.report(1)
    empty(made, await sent(tasks[7]))
    assert made.is_settled


async def test_held_lines_end_with_the_picker_and_with_their_pool() -> None:
    made = pool()
    made.report(1, FULL)
    task = line(made)
    await held(made, task)
    made.picker.configure(PickerSettings(pools=(PoolSettings("else", policy()),)))
    gone = await task
    assert isinstance(gone, Answer)
    assert gone.status == 503
    made = pool()
    made.report(1, FULL)
    task = line(made)
    await held(made, task)
    made.picker.drain()
    stopped = await task
    assert isinstance(stopped, Answer)
    assert stopped.status == 503
