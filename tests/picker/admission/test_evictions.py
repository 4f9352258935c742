"""Requests under way that are ended for others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from picker.admission.evictions import Evictable, Evictions
from picker.request.answer import Answer, Decision
from picker.request.context import RequestContext
from picker.settings import FlowSettings
from tests.picker.admission.test_line import QUEUED, come, decision_of, queued
from tests.picker.fleet import POOL, Fleet, chat, end_of, head
from tests.picker.saturation import empty, fill, until_waiting
from tests.policies.flow.items import item

EVICTING = replace(QUEUED, flow=FlowSettings(evict_for=5))


@dataclass
class Running:
    """A request that can be evicted."""

    context: RequestContext
    decision: Decision
    answers: list[Answer] = field(default_factory=list)


async def running(made: Fleet, priority: int = -1) -> Running:
    context = await made.picker.begin(head(tenant="bulk", priority=str(priority)))
    assert isinstance(context, RequestContext)
    assert made.picker.may_be_evicted(context) == (priority < 0)
    decision = await made.picker.offer(context, chat())
    assert isinstance(decision, Decision)
    found = Running(context, decision)
    made.picker.evictable(context, decision, found.answers.append)
    return found


def ends(made: Fleet) -> list[tuple[int, str]]:
    return [(one.status, one.reason) for one in made.seen.completions]


async def test_one_below_zero_is_ended_for_one_that_would_wait() -> None:
    made = queued(1, EVICTING)
    early, late = await running(made), await running(made)
    taken = await fill(made, head(tenant="first"), [1])
    critical = come(made, priority=5)
    await until_waiting(made)
    (answer,) = late.answers
    headers = dict(answer.headers)
    assert (answer.status, headers["x-llm-d-request-dropped-reason"]) == (429, "evicted")
    assert int(headers["retry-after"]) >= 1
    assert not early.answers, "one for one"
    assert ends(made) == [(429, "evicted")]
    made.report(1)
    made.picker.complete(end_of(await decision_of(critical)))
    made.picker.complete(end_of(early.decision))
    empty(made, taken)
    assert made.is_settled


@pytest.mark.parametrize("why", ["its answer has begun", "it is not asked for", "nobody may"])
async def test_who_is_not_ended(why: str) -> None:
    made = queued(1, QUEUED if why == "nobody may" else EVICTING)
    if why == "nobody may":
        context = await made.picker.begin(head(tenant="bulk", priority="-1"))
        assert isinstance(context, RequestContext)
        assert not made.picker.may_be_evicted(context)
        return
    one = await running(made)
    if why == "its answer has begun":
        made.picker.began(one.context)
    taken = await fill(made, head(tenant="first"), [1])
    critical = come(made, priority=4 if why == "it is not asked for" else 5)
    await until_waiting(made)
    assert not one.answers
    made.report(1)
    made.picker.complete(end_of(await decision_of(critical)))
    made.picker.complete(end_of(one.decision))
    empty(made, taken)
    assert made.is_settled


def test_the_lowest_goes_first_then_the_one_that_is_there_then_the_newest() -> None:
    evictions = Evictions()
    for id_, address, priority in (
        ("low", "elsewhere", -2),
        ("here 1", "here", -1),
        ("here 2", "here", -1),
        ("elsewhere", "elsewhere", -1),
    ):
        one = Evictable(id_, address, item(priority=priority), lambda _: None)
        evictions.add(POOL, one)
    evictions.add("other", Evictable("other", "here", item(priority=-9), lambda _: None))
    taken = [evictions.take(POOL, "here") for _ in range(5)]
    found = [one and one.id for one in taken]
    assert found == ["low", "here 2", "here 1", "elsewhere", None]
