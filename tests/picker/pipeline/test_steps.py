"""The list of steps, and how they are run."""

from __future__ import annotations

import pytest

from picker.pipeline.steps import run
from picker.request.answer import Answer
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from tests.picker.fleet import Clock, chat, decided, fleet, head
from tests.picker.pipeline.steps import begun


class Taking:
    """A step that takes time."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    async def __call__(self, context: RequestContext) -> None:
        self._clock.now_s += self._seconds


class Answering:
    async def __call__(self, context: RequestContext) -> None:
        context.answer = Answer(200, (), b"done")


class Refusing:
    async def __call__(self, context: RequestContext) -> None:
        raise Rejection(Reason.INVALID_JSON, "no")


async def test_each_step_marks_when_it_was_done() -> None:
    clock, context = Clock(), begun()
    steps = (("one", Taking(clock, 0.25)), ("two", Taking(clock, 0.5)))
    await run(steps, context, clock)
    assert list(context.marks.items()) == [("one", 1000.25), ("two", 1000.75)]
    assert context.took_s("one") == 0.25
    assert context.took_s("two") == 0.5
    assert context.took_s("admit") == 0.0


async def test_an_answer_ends_the_way() -> None:
    clock, context = Clock(), begun()
    await run((("answer", Answering()), ("never", Refusing())), context, clock)
    assert context.answer == Answer(200, (), b"done")
    assert list(context.marks) == ["answer"]


async def test_a_refusal_ends_it_too() -> None:
    context = begun()
    with pytest.raises(Rejection):
        await run((("refuse", Refusing()), ("never", Answering())), context, Clock())
    assert context.answer is None


async def test_a_request_goes_the_whole_way_in_order() -> None:
    made = fleet()
    began = await made.picker.begin(head())
    assert isinstance(began, RequestContext)
    await made.picker.offer(began, chat())
    assert list(began.marks) == [
        *("door", "headers", "azure", "paths", "health", "identify"),
        *("spent", "decode", "parse", "recall", "authorize", "resolve", "engine", "count"),
        *("estimate", "reserve"),
        *("hash", "tokenize", "schedule", "admit", "mutate", "forward", "dispatch", "decide"),
    ]


async def test_ids_are_unique_and_name_their_picker() -> None:
    made = fleet(name="p7")
    ids = [(await decided(made, chat())).id for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(one.startswith("p7-") for one in ids)
