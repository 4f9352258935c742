"""What operators see of a queue, and what logs say of requests that have waited."""

from __future__ import annotations

import asyncio

from msgspec import structs

from picker.request.answer import Answer, Decision
from picker.request.caller import Caller
from picker.request.head import RequestHead
from picker.settings import FlowSettings, PickerSettings, PoolSettings
from policies.limits.plan import TenantPolicy
from tests.picker.fleet import IDLE, POOL, Fleet, ask, chat, end_of, fleet, head, policy
from tests.picker.saturation import empty, fill, until_waiting


class Named:
    """A gate that takes a header's word for the tenant, and another's for its priority."""

    def identify(self, head: RequestHead) -> Caller:
        """See `Gate`."""
        priority = int(head.headers.get("priority", "0"))
        return Caller(TenantPolicy(head.headers["tenant"], priority=priority))


async def saturated() -> tuple[Fleet, list[Decision]]:
    made = fleet(gate=Named())
    settings = PickerSettings(
        pools=(PoolSettings(POOL, policy(), queue=True),),
        flow=FlowSettings(ttl_s=20, sheddable_ttl_s=20),
    )
    made.picker.configure(settings)
    return made, await fill(made, head(tenant="first"))


def come(made: Fleet, tenant: str, priority: int = 0) -> asyncio.Task[Decision | Answer]:
    request = head(tenant=tenant, priority=str(priority))
    request = structs.replace(request, received_s=made.clock.now_s)
    return asyncio.ensure_future(ask(made, chat(max_tokens=100), request))


async def leave(tasks: list[asyncio.Task[Decision | Answer]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_waits_is_seen_by_class_and_flow() -> None:
    made, taken = await saturated()
    tasks = [come(made, "a"), come(made, "a"), come(made, "b", 7)]
    await until_waiting(made, 3)
    made.clock.now_s += 2.0
    tasks.append(come(made, "a"))
    await until_waiting(made, 4)
    (sight,) = made.picker.admission.sight()
    assert (sight.pool, sight.saturation) == (POOL, 1.0)
    high, low = sight.classes
    assert (high.priority, [flow.flow for flow in high.flows]) == (7, ["b"])
    assert (low.priority, [flow.flow for flow in low.flows]) == (0, ["a"])
    assert (low.flows[0].requests, low.flows[0].oldest_s) == (3, 2.0)
    assert 300 < low.flows[0].tokens < 330
    await leave(tasks)
    made.report(1, IDLE)
    (sight,) = made.picker.admission.sight()
    assert (round(sight.saturation, 3), sight.classes) == (0.667, ())
    empty(made, taken)
    assert made.is_settled


async def test_many_flows_are_summed_up() -> None:
    made, _ = await saturated()
    tasks = [come(made, f"t{number}") for number in range(40)]
    await until_waiting(made, 40)
    ((low,),) = [sight.classes for sight in made.picker.admission.sight()]
    *named, others = low.flows
    assert len({flow.flow for flow in named}) == 32
    assert (others.flow, others.requests) == ("", 8)
    await leave(tasks)


async def test_the_time_in_the_queue_is_reported_apart_from_that_of_the_decision() -> None:
    made, _ = await saturated()
    task = come(made, "a")
    await until_waiting(made)
    made.clock.now_s += 1.5
    made.report(2, IDLE)
    decision = await task
    assert isinstance(decision, Decision)
    made.picker.complete(end_of(decision))
    (done,) = made.seen.completions
    assert (done.queue_s, done.decision_s) == (1.5, 0.0)


async def test_who_is_refused_in_the_queue_has_waited() -> None:
    made, taken = await saturated()
    task = come(made, "a", 3)
    await until_waiting(made)
    made.clock.now_s += 20.5
    answer = await task
    assert isinstance(answer, Answer)
    told = dict(answer.headers)
    assert float(told["x-penstock-predicted-ttft-ms"]) >= 20_500, "nothing has moved all the time"
    assert int(told["retry-after"]) == 11
    (refusal,) = made.seen.rejections
    assert (refusal.reason, refusal.queue_s) == ("queue_timeout", 20.5)
    assert (refusal.decision_s, refusal.labels.priority) == (0.0, 3)
    empty(made, taken)
    assert made.is_settled


async def test_who_is_refused_as_the_picker_stops_has_waited() -> None:
    made, _ = await saturated()
    task = come(made, "a")
    await until_waiting(made)
    made.clock.now_s += 0.5
    made.picker.drain()
    answer = await task
    assert isinstance(answer, Answer)
    assert answer.status == 503
    (refusal,) = made.seen.rejections
    assert (refusal.reason, refusal.queue_s) == ("shutting_down", 0.5)
