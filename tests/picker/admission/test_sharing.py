"""Requests that wait for the same replica in two pickers go in one order."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from picker.replication import queues
from picker.request.answer import Decision
from picker.settings import FlowSettings, PickerSettings, PoolSettings
from policies.flow.rules import FlowRules
from tests.picker.admission.test_line import Outcome, answer_of, come, decision_of
from tests.picker.admission.test_sight import Named
from tests.picker.fleet import IDLE, POOL, Fleet, chat, decided, end_of, fleet, head
from tests.picker.fleet import policy as weighted
from tests.picker.saturation import FULL, fill, until, until_waiting

INTERVAL_S = 0.02
QUEUED = PickerSettings(pools=(PoolSettings(POOL, weighted(), queue=True),))
BUSY = 2
"""Requests that a replica takes whatever it reports."""


def two() -> tuple[Fleet, Fleet]:
    """Two pickers that know of each other, and of one replica."""
    made = [fleet([IDLE], gate=Named(), name=name) for name in ("0.a", "1.b")]
    for one, other in (made, reversed(made)):
        one.picker.configure(QUEUED)
        one.picker.admission.peers_live([other.picker.id], INTERVAL_S)
    exchange(*made, everything=True)
    return made[0], made[1]


def exchange(*fleets: Fleet, everything: bool = False) -> None:
    """Each hears what the others report."""
    for one in fleets:
        picker = one.picker
        messages = [queues.pack(*part) for part in picker.admission.queues(everything=everything)]
        loads = [*picker.flights.loads()]
        for other in fleets:
            if other is one:
                continue
            for load in loads:
                other.picker.flights.peer_loads(picker.id, load)
                other.picker.admission.peer_loads_changed(load.pool)
            for message in messages:
                digest = queues.unpack(message)
                other.picker.admission.peer_queue(picker.id, message.pool, digest)


def end(made: Fleet, decision: Decision) -> None:
    """A request of the picker has ended, which only that one is told."""
    made.picker.complete(end_of(decision, made.picker.id))


def later(seconds: float, *fleets: Fleet) -> None:
    for one in fleets:
        one.clock.now_s += seconds
        one.picker.admission.freed(POOL)


async def settle(made: Fleet, other: Fleet, *tasks: tuple[Fleet, Outcome]) -> None:
    """All of them end, whoever goes first."""
    left = [*tasks]
    async with asyncio.timeout(10):
        while left:
            for one, task in [*left]:
                if task.done():
                    end(one, await decision_of(task))
                    left.remove((one, task))
            exchange(made, other)
            later(INTERVAL_S, made, other)
            await asyncio.sleep(0)
    assert made.is_settled
    assert other.is_settled


async def test_the_higher_class_goes_first_wherever_it_waits() -> None:
    first, second = two()
    taken = await fill(first, head(tenant="first"), [1])
    second.report(1, FULL)
    exchange(first, second)
    low = come(first, "a", 0)
    await until_waiting(first, 1)
    high = come(second, "b", 5)
    await until_waiting(second, 1)
    exchange(first, second)
    end(first, taken.pop())
    await asyncio.sleep(0)
    assert not low.done()
    exchange(first, second)
    await decision_of(high)
    assert not low.done()
    end(first, taken.pop())
    await settle(first, second, (first, low), (second, high))


async def test_tenants_take_turns_wherever_they_wait() -> None:
    first, second = two()
    taken = await fill(first, head(tenant="first"), [1])
    second.report(1, FULL)
    exchange(first, second)
    greedy = [(one, come(one, "greedy")) for one in (first, second, first, second, first)]
    await until(lambda: first.picker.admission.waiting + second.picker.admission.waiting == 5)
    exchange(first, second)
    modest = come(second, "modest")
    await until_waiting(second, 3)
    exchange(first, second)
    for decision in taken:
        end(first, decision)
        exchange(first, second)
        later(0.004, first, second)
        await asyncio.sleep(0.01)
    assert modest.done()
    assert sum(task.done() for _, task in greedy) == 1
    await settle(first, second, *greedy, (second, modest))


@pytest.mark.parametrize("leaves", [False, True], ids=["does not go", "is gone"])
async def test_a_place_that_another_picker_does_not_use_is_used(leaves: bool) -> None:
    first, second = two()
    taken = await fill(first, head(tenant="first"), [1])
    second.report(1, FULL)
    exchange(first, second)
    low, high = come(first, "a", 0), come(second, "b", 5)
    await until_waiting(first)
    await until_waiting(second)
    exchange(first, second)
    end(first, taken.pop())
    await asyncio.sleep(0)
    assert not low.done()
    if leaves:
        first.picker.admission.peers_live([], INTERVAL_S)
        later(0.0, first)
    else:
        later(2 * INTERVAL_S + 0.001, first)
    await decision_of(low)
    assert not high.done()
    first.picker.admission.peers_live([second.picker.id], INTERVAL_S)
    end(first, taken.pop())
    await settle(first, second, (first, low), (second, high))


async def test_a_free_place_is_not_filled_twice() -> None:
    first, second = two()
    taken = await fill(first, head(tenant="first"), [1])
    second.report(1, FULL)
    exchange(first, second)
    tasks = [(one, come(one, "a")) for one in (first, second) for _ in range(3)]
    await until(lambda: first.picker.admission.waiting + second.picker.admission.waiting == 6)
    exchange(first, second)
    end(first, taken.pop())
    for _ in range(5):
        exchange(first, second)
        later(0.001, first, second)
        await asyncio.sleep(0.005)
    assert sum(task.done() for _, task in tasks) == 1
    assert first.in_flight() == second.in_flight() == BUSY
    end(first, taken.pop())
    await settle(first, second, *tasks)


async def test_who_would_come_between_those_that_wait_elsewhere_waits_as_well() -> None:
    first, second = two()
    taken = await fill(first, head(tenant="first"), [1])
    second.report(1, FULL)
    exchange(first, second)
    waits = come(first, "a", 5)
    await until_waiting(first)
    exchange(first, second)
    end(first, taken.pop())
    await decision_of(waits)
    exchange(first, second)
    another = come(first, "a", 5)
    await until_waiting(first)
    exchange(first, second)
    late = come(second, "b", 0)
    await until_waiting(second)
    end(first, taken.pop())
    await decision_of(another)
    exchange(first, second)
    assert not late.done()
    await settle(first, second, (first, waits), (first, another), (second, late))


async def test_the_queue_is_bounded_over_both() -> None:
    first, second = two()
    flow = FlowSettings(rules=FlowRules(max_requests=6))
    taken = await fill(first, head(tenant="first"), [1])
    second.report(1, FULL)
    for one in (first, second):
        one.picker.configure(replace(QUEUED, flow=flow))
    exchange(first, second)
    greedy = [come(first, "greedy") for _ in range(4)]
    modest = [come(second, "modest") for _ in range(2)]
    await until_waiting(first, 4)
    await until_waiting(second, 2)
    exchange(first, second)
    later(INTERVAL_S, first, second)
    late = come(second, "modest")
    await until_waiting(second, 3)
    exchange(first, second)
    await until_waiting(first, 3)
    assert (await answer_of(greedy.pop())).status == 429
    for decision in taken:
        end(first, decision)
    tasks = [(first, one) for one in greedy] + [(second, one) for one in (*modest, late)]
    await settle(first, second, *tasks)


async def test_a_burst_leaves_room_for_what_others_may_have_sent_for_an_interval() -> None:
    first, second = two()
    begun = await decided(second, chat(), head(tenant="a"))
    exchange(first, second)
    later(0.5, first, second)
    first.report(1)  # 18 requests for a start
    tasks = [come(first, "a") for _ in range(18)]
    await until(lambda: first.in_flight() + first.picker.admission.waiting == 19)
    assert first.picker.admission.waiting >= 6
    again_s = first.picker.admission._lines[POOL].sharing.next_s()
    assert again_s <= first.clock.now_s + INTERVAL_S, "the other may have nothing to report"
    for _ in range(4):
        later(INTERVAL_S + 0.001, first)
        await asyncio.sleep(0)
    await until(lambda: first.picker.admission.waiting <= 1)
    end(second, begun)
    await settle(first, second, *((first, task) for task in tasks))
