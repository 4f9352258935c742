"""A policy beside the one that decides: it is asked, and changes nothing."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from picker.decisions.record import Record
from picker.request.choice import Shadowed
from picker.seams.background import Background
from picker.state.background import BackgroundThread
from picker.state.shadow import _ROW_BYTES, Shadow
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
from tests.picker.fleet import IDLE, POOL, Fleet, address, chat, decided, end_of, fleet, load

NAME = "shadow-for-tests"
SPEC = PolicySpec(NAME)


@dataclass
class Stub(RoutingPolicy):
    """Does what a test says, and keeps what it was told."""

    does: Callable[[RoutingRequest, PoolView, Slots], Ranking] = lambda request, pool, slots: (
        Ranking(slots[-1:], np.zeros(1), np.array([0.25]))
    )
    learns: Callable[[Observation], None] = lambda observation: None
    seen: list[Observation] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        return self.does(request, pool, candidates)

    def observe(self, observation: Observation, now_s: float) -> None:
        self.seen.append(observation)
        self.learns(observation)

    def reset(self, slot: int) -> None:
        self.forgotten.append(slot)


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    registry.register("policy", NAME)(lambda: made)
    yield made
    del registry._factories["policy", NAME]


def shadow_of(made: Fleet) -> Shadow:
    shadow = made.picker.pools[POOL].shadow
    assert shadow is not None
    return shadow


def shadowed(made: Fleet) -> Shadowed | None:
    record = next(made.picker.decisions.newest_first())
    assert isinstance(record, Record)
    return record.choices[0].shadow


def with_shadow(background: Background | None = None, replicas: int = 3) -> Fleet:
    made = fleet([IDLE] * replicas, background=background)
    made.configure(shadow=SPEC)
    return made


async def test_it_is_asked_and_nothing_is_sent_where_it_points(stub: Stub) -> None:
    made = fleet([IDLE, load(5, 0.5), load(9, 0.9)])
    made.configure(shadow=SPEC)
    decision = await decided(made, chat(stream=True))
    assert decision.addresses[0] == address(1)
    assert shadowed(made) == Shadowed(NAME, address(3), 0.25)
    assert (made.under_way(1), made.under_way(3)) == (1, 0)
    made.picker.complete(end_of(decision))
    counts = shadow_of(made).counts
    assert (counts.agreed, counts.differed, counts.failed) == (0, 1, 0)
    (observation,) = stub.seen
    assert observation.features.slot == made.picker.pools[POOL].state.slot_of[address(1)]
    assert made.seen.completions[0].shadow_ttft_s is None, "it chose another one"


async def test_where_it_agrees_its_prediction_can_be_judged(stub: Stub) -> None:
    made = fleet([load(9, 0.9), load(5, 0.5), IDLE])
    made.configure(shadow=SPEC)
    made.picker.complete(end_of(await decided(made, chat(stream=True))))
    assert shadow_of(made).counts.agreed == 1
    assert made.seen.completions[0].shadow_ttft_s == 0.25
    (expected,) = shadow_of(made).take_expected()
    assert (expected.model, expected.shadow_ttft_s) == ("llama", 0.25)
    assert shadow_of(made).take_expected() == []


async def test_decisions_are_the_same_with_and_without_it(stub: Stub) -> None:
    def scribbles(request: RoutingRequest, pool: PoolView, slots: Slots) -> Ranking:
        request.matched_tokens[:] = 1e6
        pool.in_flight_requests[:] = 1e6
        pool.waiting_requests[:] = np.nan
        chosen = slots[:1].copy()
        slots[:] = 0
        return Ranking(chosen, np.zeros(1))

    async def chosen(made: Fleet) -> list[tuple[str, ...]]:
        return [(await decided(made, chat(f"{n} " * 200))).addresses for n in range(60)]

    stub.does = scribbles
    assert await chosen(with_shadow()) == await chosen(fleet())


def raises(error: type[BaseException], said: object) -> Callable[..., Ranking]:
    def fails(*_: object) -> Ranking:
        raise error(said)  # a new one: it holds the frames that it came through

    return fails


@pytest.mark.parametrize(
    ("does", "failure"),
    [
        (raises(ZeroDivisionError, "no"), "ZeroDivisionError: no"),
        (raises(SystemExit, 3), "SystemExit: 3"),
        (lambda *_: None, "AttributeError"),
        (lambda *_: Ranking(np.array([99]), np.zeros(1)), "IndexError"),
        (lambda *_: Ranking(np.array([0]), np.zeros(1), "soon"), "AttributeError"),  # type: ignore[arg-type]
    ],
)
async def test_its_faults_are_counted_and_shown(
    stub: Stub, does: Callable[..., Ranking], failure: str
) -> None:
    stub.does = does
    made = with_shadow()
    await decided(made, chat())
    counts = shadow_of(made).counts
    assert counts.failed == 1
    assert counts.last_failure.startswith(failure)
    shown = shadowed(made)
    assert shown is not None
    assert shown.failure == counts.last_failure
    assert shown.endpoint == ""


async def test_what_it_cannot_learn_harms_nobody(stub: Stub) -> None:
    def fails(_: Observation) -> None:
        raise ArithmeticError("cannot learn")

    stub.learns = fails
    made = with_shadow()
    made.picker.complete(end_of(await decided(made, chat())))
    assert made.is_settled
    assert shadow_of(made).counts.failed == 1


async def test_one_that_cannot_be_built(stub: Stub) -> None:
    made = fleet()
    made.configure(shadow=PolicySpec("auto", {"no": "such"}))
    await decided(made, chat())
    assert "no" in shadow_of(made).counts.last_failure


async def test_no_time_is_no_prediction(stub: Stub) -> None:
    stub.does = lambda *_: Ranking(np.array([0]), np.zeros(1), np.array([np.nan]))
    made = with_shadow()
    await decided(made, chat())
    shown = shadowed(made)
    assert shown is not None
    assert shown.predicted_ttft_s is None


async def test_it_forgets_endpoints_that_are_gone_and_lives_while_its_spec_does(stub: Stub) -> None:
    made = with_shadow()
    await decided(made, chat())
    before = shadow_of(made)
    slot = made.picker.pools[POOL].state.slot_of[address(2)]
    made.sync([1, 3])
    assert stub.forgotten == [slot]
    made.configure(shadow=SPEC)
    assert shadow_of(made) is before
    made.configure()
    assert made.picker.pools[POOL].shadow is None


async def test_a_slow_one_holds_up_no_request(stub: Stub) -> None:
    """As many wait for it as fit into the room given; the others are skipped and counted."""
    asked, go_on = threading.Event(), threading.Event()

    def waits(request: RoutingRequest, pool: PoolView, slots: Slots) -> Ranking:
        asked.set()
        assert go_on.wait(60)
        return Ranking(slots[:1], np.zeros(1))

    before = sys.getswitchinterval()
    stub.does = waits
    room = BackgroundThread(max_waiting_bytes=10_000)
    made = with_shadow(room)
    slots = made.picker.pools[POOL].state.slots
    fit = 10_000 // (slots * _ROW_BYTES)
    try:
        for _ in range(fit + 7):
            await decided(made, chat())
        counts = shadow_of(made).counts
        assert asked.wait(60)
        assert shadowed(made) is None
        assert counts.skipped == 7
        go_on.set()
        done = threading.Event()
        room.submit(done.set)
        assert done.wait(60)
        assert counts.agreed + counts.differed == fit
        await decided(made, chat())
        assert counts.skipped == 7
    finally:
        go_on.set()
        sys.setswitchinterval(before)


def test_one_that_computes_for_long_pauses() -> None:
    paused: list[float] = []
    room = BackgroundThread(pause=paused.append)

    def computes() -> None:
        until_s = time.thread_time() + 0.02
        while time.thread_time() < until_s:
            pass

    before, done = sys.getswitchinterval(), threading.Event()
    try:
        for job in (lambda: None, computes, done.set):
            room.submit(job)
        assert done.wait(60)
    finally:
        sys.setswitchinterval(before)
    assert max(paused) >= 0.06


def test_a_job_that_asks_to_exit_ends_nothing() -> None:
    room, before, done = BackgroundThread(), sys.getswitchinterval(), threading.Event()
    try:
        room.submit(sys.exit)
        room.submit(done.set)
        assert done.wait(60)
    finally:
        sys.setswitchinterval(before)
