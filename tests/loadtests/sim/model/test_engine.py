"""The engine in virtual time: skipping over equal steps changes nothing, and time adds up."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.sim.model.catalogue import H100, architecture
from loadtests.sim.model.engine import Engine, Event, Kind
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.request import EngineRequest, Sequence
from loadtests.sim.model.scheduler import Limits
from loadtests.sim.model.step_time import StepTime, Work

PROFILE = Profile("test", architecture("Llama-2-7b-hf"), H100)
INSTANT = replace(PROFILE, input_s=0.0, input_token_s=0.0, output_s=0.0)


def limits(*, ahead: bool = True) -> Limits:
    return Limits(1000, max_model_len=8192, async_scheduling=ahead)


calls = st.tuples(
    st.floats(0.0, 1.5),  # seconds since the call before
    st.integers(1, 90),  # prompt tokens
    st.integers(1, 120),  # output tokens
    st.integers(0, 3),  # which prefix
    st.integers(-1, 12),  # abort the request of that number, if it is there
    st.sampled_from([None, None, "x", "y", "z"]),
)


def drive(
    plan: list[tuple[float, int, int, int, int, str | None]], engine: Engine, look_s: float
) -> tuple[list[tuple[float, str, str, int | None, int]], list[int], int]:
    events: list[Event] = []
    sent: list[Sequence] = []
    now_s = 0.0
    for index, (gap_s, prompt, output, prefix, abort, adapter) in enumerate(plan):
        end_s = now_s + gap_s
        while now_s + look_s < end_s:
            now_s += look_s
            events += engine.advance(now_s)
        now_s = end_s
        ids = tuple(prefix * 1000 + number for number in range(prompt // 4))
        request = EngineRequest(str(index), prompt, output, ids, adapter)
        events += engine.advance(now_s)
        sent.append(engine.add(request, now_s))
        if 0 <= abort < len(sent):
            events += engine.abort(sent[abort], now_s)
    for _ in range(100_000):
        if engine.idle:
            break
        events += engine.advance(engine.next_event_s())
    assert engine.idle
    told = [
        (e.at_s, e.kind.value, e.sequence.request.request_id, e.sequence.cached_tokens,
         e.sequence.generated_tokens if e.sequence.done else -1)
        for e in events
    ]  # fmt: skip
    pool = engine.scheduler.pool
    assert pool.used_blocks == 0
    return told, [sum(each.preemptions for each in sent), pool.evicted_blocks], engine.steps


@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(calls, min_size=1, max_size=12),
    blocks=st.integers(53, 90),
    places=st.integers(1, 8),
    budget=st.sampled_from([8, 32, 512]),
    ahead=st.booleans(),
    loras=st.sampled_from([0, 1, 2]),
)
def test_skipping_is_stepping(
    plan: list[tuple[float, int, int, int, int, str | None]],
    blocks: int,
    places: int,
    budget: int,
    ahead: bool,
    loras: int,
) -> None:
    size = Limits(
        blocks, 4, places, budget, max_model_len=210, max_loras=loras, async_scheduling=ahead
    )
    skipping = drive(plan, Engine(PROFILE, size), inf)
    stepping = drive(plan, Engine(PROFILE, size, skip=False), inf)
    watched = drive(plan, Engine(PROFILE, size), 0.01)
    assert skipping == stepping
    assert skipping == watched


def test_skipping_takes_few_iterations() -> None:
    engine = Engine(PROFILE, limits())
    engine.add(EngineRequest("a", 100, 5000), 0.0)
    engine.advance(inf)
    assert engine.steps == 5000
    assert engine.iterations < 10


def test_a_lone_request_takes_the_sum_of_its_steps() -> None:
    engine = Engine(INSTANT, limits(ahead=False))
    engine.add(EngineRequest("a", 100, 4), 1.0)
    first, last = engine.advance(inf)
    time = StepTime(INSTANT)
    prefill_s = time.step_s(Work(100, 100 * 50.0, prefill_context_tokens=100))
    assert first.kind is Kind.FIRST_TOKEN
    assert first.at_s == pytest.approx(1.0 + prefill_s)
    decode_s = sum(time.decode_s(1, context) for context in (101, 102, 103))
    assert last.kind is Kind.FINISHED
    assert last.at_s == pytest.approx(first.at_s + decode_s)


def test_working_ahead_makes_an_arrival_wait_a_step_longer() -> None:
    waits: list[float] = []
    for ahead in (False, True):
        engine = Engine(INSTANT, limits(ahead=ahead))
        engine.add(EngineRequest("running", 32, 500), 0.0)
        engine.advance(1.0)
        engine.add(EngineRequest("new", 32, 2), 1.0)
        told = [e for e in engine.advance(2.0) if e.kind is Kind.FIRST_TOKEN]
        waits.append(told[-1].at_s - 1.0)
    assert waits[1] - waits[0] == pytest.approx(StepTime(INSTANT).decode_s(1, 150), rel=0.05)


def test_the_way_in_and_out_counts_for_the_client() -> None:
    plain, real = Engine(INSTANT, limits()), Engine(PROFILE, limits())
    for engine in (plain, real):
        engine.add(EngineRequest("a", 50, 1), 0.0)
    way_s = PROFILE.input_s + 50 * PROFILE.input_token_s + PROFILE.output_s
    assert real.advance(inf)[0].at_s == pytest.approx(plain.advance(inf)[0].at_s + way_s)


def test_nothing_is_told_before_its_time() -> None:
    engine = Engine(PROFILE, limits())
    engine.add(EngineRequest("a", 50, 3), 0.0)
    seen: list[float] = []
    while not engine.idle:
        due_s = engine.next_event_s()
        for event in engine.advance(due_s):
            assert event.at_s <= due_s
            seen.append(event.at_s)
    assert seen == sorted(seen)
    assert len(seen) == 2
    assert engine.next_event_s() == inf


def test_only_a_cold_server_pays_for_first_uses_and_not_for_long() -> None:
    profile = replace(INSTANT, first_use_s=2.0)
    for cold in (True, False):
        engine = Engine(profile, limits(), cold=cold)
        first_token_s: list[float] = []
        for number in range(10):
            engine.add(EngineRequest(str(number), 50, 1), number * 10.0)
            first_token_s.append(engine.advance(number * 10.0 + 9.0)[0].at_s - number * 10.0)
        assert (first_token_s[0] > 2.0) is cold
        assert first_token_s[-1] < 0.5


def test_a_slow_replica_takes_so_many_times_as_long() -> None:
    engine = Engine(INSTANT, limits())
    engine.slow_down(3.0, 0.0)
    engine.add(EngineRequest("a", 50, 100), 0.0)
    usual = Engine(INSTANT, limits())
    usual.add(EngineRequest("a", 50, 100), 0.0)
    assert engine.advance(inf)[-1].at_s == pytest.approx(3 * usual.advance(inf)[-1].at_s)
