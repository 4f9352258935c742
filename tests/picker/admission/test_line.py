"""When requests that wait for a pool go on, and where."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
from msgspec import structs

from picker.request.answer import Answer, Decision
from picker.settings import FlowSettings, PickerSettings, PoolSettings
from picker.state.spec import EndpointSpec
from policies.flow.rules import FlowRules
from tests.picker.admission.test_sight import Named
from tests.picker.fleet import IDLE, MODEL, POOL, Fleet, address, ask, chat, end_of, fleet, head
from tests.picker.fleet import policy as weighted
from tests.picker.saturation import FULL, empty, fill, until, until_waiting

Outcome = asyncio.Task[Decision | Answer]
QUEUED = PickerSettings(pools=(PoolSettings(POOL, weighted(), queue=True),))


def queued(replicas: int = 3, settings: PickerSettings = QUEUED) -> Fleet:
    made = fleet([IDLE] * replicas, gate=Named())
    made.picker.configure(settings)
    return made


def come(made: Fleet, tenant: str = "a", priority: int = 0, **body: object) -> Outcome:
    request = head(tenant=tenant, priority=str(priority))
    request = structs.replace(request, received_s=made.clock.now_s)
    return asyncio.ensure_future(ask(made, chat(**body), request))  # type: ignore[arg-type]


async def decision_of(task: Outcome) -> Decision:
    outcome = await asyncio.wait_for(task, 10)
    assert isinstance(outcome, Decision), outcome
    return outcome


async def answer_of(task: Outcome) -> Answer:
    outcome = await asyncio.wait_for(task, 10)
    assert isinstance(outcome, Answer), outcome
    return outcome


async def settle(made: Fleet, *tasks: Outcome) -> None:
    """All end, and nothing is left."""
    for task in tasks:
        made.picker.complete(end_of(await decision_of(task)))
    assert made.is_settled
    assert made.picker.admission.waiting == 0


async def test_a_request_that_is_begun_at_once_does_not_wait() -> None:
    made = queued()
    task = come(made)
    assert (await decision_of(task)).picks
    assert made.picker.admission.waiting == 0
    await settle(made, task)


async def test_it_goes_where_room_comes() -> None:
    made = queued()
    taken = await fill(made, head(tenant="first"))
    task = come(made)
    await until_waiting(made)
    made.clock.now_s += 0.1  # it is asked again where it should go
    made.report(3)
    assert (await decision_of(task)).addresses[0] == address(3)
    empty(made, taken)
    await settle(made, task)


async def test_one_end_lets_one_go() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    tasks = [come(made) for _ in range(3)]
    await until_waiting(made, 3)
    made.picker.complete(end_of(taken.pop()))
    await until_waiting(made, 2)
    await asyncio.sleep(0.02)
    assert made.picker.admission.waiting == 2, "the one that was let go counts at once"
    empty(made, taken)
    await until(lambda: made.picker.admission.waiting <= 1)
    made.report(1)
    await settle(made, *tasks)


async def test_tenants_take_turns() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    greedy = [come(made, "greedy") for _ in range(8)]
    await until_waiting(made, 8)
    modest = come(made, "modest")
    await until_waiting(made, 9)
    order: list[str] = []
    for name, tasks in (("greedy", greedy), ("modest", [modest])):
        for task in tasks:
            task.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    for _ in range(9):
        one = taken.pop(0)
        made.picker.complete(end_of(one))
        await until(lambda: any(task.done() for task in (*greedy, modest)))
        for task in [task for task in (*greedy, modest) if task.done()]:
            decision = await decision_of(task)
            if decision not in taken and decision.id in made.picker.flights._entries:
                taken.append(decision)
        if "modest" in order:
            break
    assert order.index("modest") <= 2
    made.report(1)
    for task in (*greedy, modest):
        made.picker.complete(end_of(await decision_of(task)))
    empty(made, taken)
    assert made.is_settled


async def test_the_higher_class_goes_first() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    low = come(made, "a")
    await until_waiting(made, 1)
    high = come(made, "b", 5)
    await until_waiting(made, 2)
    made.picker.complete(end_of(taken.pop()))
    await decision_of(high)
    assert not low.done()
    empty(made, taken)
    made.report(1)
    await settle(made, low, high)


async def test_what_waits_for_an_endpoint_that_is_gone_goes_to_another() -> None:
    made = queued(2)
    taken = await fill(made, head(tenant="first"), [1, 2])
    tasks = [come(made) for _ in range(4)]
    await until_waiting(made, 4)
    made.sync([2])
    made.report(2)
    for task in tasks:
        decision = await decision_of(task)
        assert decision.addresses[0] == address(2)
        made.picker.complete(end_of(decision))
    empty(made, taken)
    assert made.is_settled


async def test_whoever_waits_when_the_last_endpoint_goes_is_told_so() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    task = come(made)
    await until_waiting(made)
    made.sync([])
    assert (await answer_of(task)).status == 503
    empty(made, taken)
    assert made.is_settled


async def test_a_pool_that_opts_out_lets_all_go() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    task = come(made)
    await until_waiting(made)
    made.configure()
    await decision_of(task)
    empty(made, taken)
    await settle(made, task)


async def test_a_pool_that_is_removed_has_no_replica() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    task = come(made)
    await until_waiting(made)
    made.picker.configure(PickerSettings(()))
    assert (await answer_of(task)).status == 503
    empty(made, taken)


async def test_a_full_queue_turns_the_greediest_away() -> None:
    rules = FlowRules(max_requests=2)
    made = queued(1, replace(QUEUED, flow=FlowSettings(rules)))
    taken = await fill(made, head(tenant="first"), [1])
    greedy = [come(made, "greedy") for _ in range(2)]
    await until_waiting(made, 2)
    modest = come(made, "modest")
    answer = await answer_of(greedy[1])
    headers = dict(answer.headers)
    assert answer.status == 429
    assert int(headers["retry-after"]) >= 1
    assert headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
    made.report(1)
    empty(made, taken)
    await settle(made, greedy[0], modest)


async def test_who_waits_for_too_long_is_told_when_to_come_again() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    task = come(made)
    await until_waiting(made)
    made.clock.now_s += 61.0
    made.report(1, FULL)
    answer = await answer_of(task)
    headers = dict(answer.headers)
    assert answer.status == 429
    assert headers["x-llm-d-request-dropped-reason"] == "rejected-ttl-expired"
    assert int(headers["retry-after"]) >= 1
    empty(made, taken)
    assert made.is_settled


async def test_adapters_wait_for_their_slot_and_stand_in_nobodys_way() -> None:
    made = queued(1)
    busy = replace(IDLE, running_requests=3, max_loras=1, running_adapters=frozenset({"x"}))
    made.report(1, busy, [MODEL, "x", "y"])
    first = [await decision_of(come(made, model="x")) for _ in range(2)]
    other = come(made, model="y")
    await until_waiting(made)
    same = come(made, model="x")
    await decision_of(same)
    made.report(1, replace(busy, running_adapters=frozenset()), [MODEL, "x", "y"])
    empty(made, first)
    await settle(made, same, other)


async def test_what_was_let_go_is_seen_by_those_that_come_next() -> None:
    made = queued(2)
    taken = await fill(made, head(tenant="first"), [1, 2])
    tasks = [come(made) for _ in range(6)]
    await until_waiting(made, 6)
    made.report(1)
    made.report(2)
    chosen = [(await decision_of(task)).addresses[0] for task in tasks]
    assert sorted(map(chosen.count, set(chosen))) == [3, 3], "a burst spreads"
    view = made.picker.pools[POOL].state.view
    assert np.array_equal(np.sort(view.in_flight_requests[view.in_flight_requests > 0]), [5, 5])
    empty(made, taken)
    await settle(made, *tasks)


async def test_whose_turn_it_is_does_not_wait_for_an_endpoint_that_stays_full() -> None:
    made = queued(2)
    taken = await fill(made, head(tenant="first"), [1, 2])
    greedy = [come(made, "greedy") for _ in range(12)]
    await until_waiting(made, 12)
    modest = come(made, "modest")
    await until_waiting(made, 13)
    line = made.picker.admission._lines[POOL]
    (held,) = (one for one in line._held.values() if one.item.flow == "modest")
    here = made.picker.pools[POOL].state.address_of(held.slot)
    (other,) = (number for number in (1, 2) if address(number) != here)
    order: list[str] = []
    for name, task in (("modest", modest), *(("greedy", task) for task in greedy)):
        task.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    made.clock.now_s += 0.1
    made.report(other)
    assert (await decision_of(modest)).addresses[0] == address(other)
    assert order.index("modest") <= 1
    made.report(1)
    made.report(2)
    for task in greedy:
        await decision_of(task)
    empty(made, taken)
    await settle(made, modest, *greedy)


async def test_an_endpoint_that_comes_takes_what_waits_for_others() -> None:
    made = queued(1)
    taken = await fill(made, head(tenant="first"), [1])
    tasks = [come(made) for _ in range(3)]
    await until_waiting(made, 3)
    made.picker.pools.sync_endpoints(POOL, [EndpointSpec(address(n)) for n in (1, 2)])
    made.report(2)
    made.clock.now_s += 0.1
    made.report(2)  # its models are known by now
    for task in tasks:
        assert (await decision_of(task)).addresses[0] == address(2)
    empty(made, taken)
    await settle(made, *tasks)
