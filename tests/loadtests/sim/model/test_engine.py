"""The engine in virtual time: skipping over equal steps changes nothing, and time adds up."""

from collections.abc import Sequence as Ordered
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.sim.model.catalogue import H100, architecture
from loadtests.sim.model.engine import EngineEvent, EngineModel, EventKind
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.request import EngineRequest, Sequence
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.model.step_time import StepTime, Work

PROFILE = Profile("test", architecture("Llama-2-7b-hf"), H100)
INSTANT = replace(PROFILE, input_s=0.0, input_token_s=0.0, output_s=0.0)


def limits(*, ahead: bool = True) -> EngineLimits:
    return EngineLimits(1000, max_model_len=8192, async_scheduling=ahead)


calls = st.tuples(
    st.floats(0.0, 1.5),  # seconds since the call before
    st.integers(1, 90),  # prompt tokens
    st.integers(1, 120),  # output tokens
    st.integers(0, 3),  # which prefix
    st.integers(-1, 12),  # abort the request of that number, if it is there
    st.sampled_from([None, None, "x", "y", "z"]),
)


def drive(
    plan: list[tuple[float, int, int, int, int, str | None]], engine: EngineModel, look_s: float
) -> tuple[list[tuple[float, str, str, int | None, int]], list[int], int]:
    events: list[EngineEvent] = []
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
    size = EngineLimits(
        blocks, 4, places, budget, max_model_len=210, max_loras=loras, async_scheduling=ahead
    )
    skipping = drive(plan, EngineModel(PROFILE, size), inf)
    stepping = drive(plan, EngineModel(PROFILE, size, skip=False), inf)
    watched = drive(plan, EngineModel(PROFILE, size), 0.01)
    assert skipping == stepping
    assert skipping == watched


class Plodding(EngineModel):
    """Schedules every single step, which is what `skip=False` does not: it walks on plateaus."""

    def _try_plateau(self) -> None:
        self._plateau = None


others = st.one_of(
    st.tuples(st.just("slow"), st.sampled_from([0.5, 1.0, 3.0])),
    st.tuples(st.just("admit"), st.booleans()),
    st.tuples(st.just("forget"), st.booleans()),
    st.tuples(st.just("abort"), st.integers(0, 12)),
)
prompts = st.tuples(
    st.just("add"),
    st.one_of(st.integers(1, 30), st.integers(60, 90)),  # prompt tokens
    st.integers(1, 120),  # output tokens
    st.integers(0, 1),  # which prefix
    st.booleans(),  # whether the prefix goes on through the answer
    st.sampled_from([None, None, "x", "y"]),
)


def outcome(
    plan: list[tuple[float, tuple[object, ...]]], engine: EngineModel
) -> tuple[list[tuple[float, str, str]], list[tuple[int | None, int, int]], int, int]:
    events: list[EngineEvent] = []
    sent: list[Sequence] = []
    now_s = 0.0
    for index, (gap_s, (what, *how)) in enumerate(plan):
        now_s += gap_s
        events += engine.advance(now_s)
        match what, how:
            case "add", [int(prompt), int(output), int(prefix), answers, adapter]:
                named = (prompt + output if answers else prompt) // 4
                ids = tuple(prefix * 1000 + number for number in range(named))
                name = adapter if isinstance(adapter, str) else None
                sent.append(engine.add(EngineRequest(str(index), prompt, output, ids, name), now_s))
            case "abort", [int(number)] if number < len(sent):
                events += engine.abort(sent[number], now_s)
            case "slow", [float(factor)]:
                events += engine.slow_down(factor, now_s)
            case "admit", [bool(admitting)]:
                events += engine.admit(admitting, now_s)
            case "forget", [bool(running)]:
                events += engine.forget_prefixes(now_s, running=running)[1]
    events += engine.admit(True, now_s)
    while not engine.idle:
        events += engine.advance(engine.next_event_s())
    assert all(each.done for each in sent)
    assert engine.scheduler.pool.used_blocks == 0
    told = [(round(e.at_s, 9), e.kind.value, e.sequence.request.request_id) for e in events]
    ends = [(each.cached_tokens, each.preemptions, each.generated_tokens) for each in sent]
    return told, ends, engine.scheduler.pool.evicted_blocks, engine.steps


@settings(max_examples=100, deadline=None)
@given(
    plan=st.lists(
        st.tuples(st.floats(0.0, 0.4), st.one_of(prompts, prompts, prompts, others)),
        min_size=1,
        max_size=12,
    ),
    places=st.integers(1, 8),
    ahead=st.booleans(),
    loras=st.sampled_from([0, 1]),
    reserve=st.booleans(),
)
def test_a_plateau_is_what_scheduling_each_step_gives(
    plan: list[tuple[float, tuple[object, ...]]],
    places: int,
    ahead: bool,
    loras: int,
    reserve: bool,
) -> None:
    size = EngineLimits(
        53,
        4,
        places,
        64,
        max_model_len=210,
        max_loras=loras,
        reserve_full_prompt=reserve,
        async_scheduling=ahead,
    )
    assert outcome(plan, EngineModel(PROFILE, size)) == outcome(plan, Plodding(PROFILE, size))


def test_a_plateau_ends_when_one_who_waits_finds_more_of_its_prompt() -> None:
    """What others answer is what the last one asks: the blocks they fill need no further room."""
    size = EngineLimits(53, 4, 8, 512, max_model_len=210, async_scheduling=False)
    plan: list[tuple[float, tuple[object, ...]]] = [
        (0.5, ("add", 92, 102, 0, True, None)),
        (0.2, ("add", 167, 34, 0, True, None)),
        (0.05, ("add", 199, 4, 0, True, None)),
    ]
    _, ends, *_ = scheduled = outcome(plan, Plodding(PROFILE, size))
    assert ends[2] == (176, 1, 4)
    assert outcome(plan, EngineModel(PROFILE, size)) == scheduled


def test_skipping_takes_few_iterations() -> None:
    engine = EngineModel(PROFILE, limits())
    engine.add(EngineRequest("a", 100, 5000), 0.0)
    engine.advance(inf)
    assert engine.steps == 5000
    assert engine.iterations < 10


def test_a_lone_request_takes_the_sum_of_its_steps() -> None:
    engine = EngineModel(INSTANT, limits(ahead=False))
    engine.add(EngineRequest("a", 100, 4), 1.0)
    first, last = engine.advance(inf)
    time = StepTime(INSTANT)
    prefill_s = time.step_s(Work(100, 100 * 50.0, prefill_context_tokens=100))
    assert first.kind is EventKind.FIRST_TOKEN
    assert first.at_s == pytest.approx(1.0 + prefill_s)
    decode_s = sum(time.decode_s(1, context) for context in (101, 102, 103))
    assert last.kind is EventKind.FINISHED
    assert last.at_s == pytest.approx(first.at_s + decode_s)


def test_working_ahead_makes_an_arrival_wait_a_step_longer() -> None:
    waits: list[float] = []
    for ahead in (False, True):
        engine = EngineModel(INSTANT, limits(ahead=ahead))
        engine.add(EngineRequest("running", 32, 500), 0.0)
        engine.advance(1.0)
        engine.add(EngineRequest("new", 32, 2), 1.0)
        told = [e for e in engine.advance(2.0) if e.kind is EventKind.FIRST_TOKEN]
        waits.append(told[-1].at_s - 1.0)
    assert waits[1] - waits[0] == pytest.approx(StepTime(INSTANT).decode_s(1, 150), rel=0.05)


def test_the_way_in_and_out_counts_for_the_client() -> None:
    plain, real = EngineModel(INSTANT, limits()), EngineModel(PROFILE, limits())
    for engine in (plain, real):
        engine.add(EngineRequest("a", 50, 1), 0.0)
    way_s = PROFILE.input_s + 50 * PROFILE.input_token_s + PROFILE.output_s
    assert real.advance(inf)[0].at_s == pytest.approx(plain.advance(inf)[0].at_s + way_s)


def test_nothing_is_told_before_its_time() -> None:
    engine = EngineModel(PROFILE, limits())
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
        engine = EngineModel(profile, limits(), cold=cold)
        first_token_s: list[float] = []
        for number in range(10):
            engine.add(EngineRequest(str(number), 50, 1), number * 10.0)
            first_token_s.append(engine.advance(number * 10.0 + 9.0)[0].at_s - number * 10.0)
        assert (first_token_s[0] > 2.0) is cold
        assert first_token_s[-1] < 0.5


def test_a_slow_replica_takes_so_many_times_as_long() -> None:
    engine = EngineModel(INSTANT, limits())
    engine.slow_down(3.0, 0.0)
    engine.add(EngineRequest("a", 50, 100), 0.0)
    usual = EngineModel(INSTANT, limits())
    usual.add(EngineRequest("a", 50, 100), 0.0)
    assert engine.advance(inf)[-1].at_s == pytest.approx(3 * usual.advance(inf)[-1].at_s)


def test_a_step_under_way_is_slow_and_fast_again_with_its_replica() -> None:
    engine = EngineModel(INSTANT, limits())
    engine.add(EngineRequest("a", 50, 1), 0.0)
    engine.advance(0.0)
    usual_s = engine.next_step_s()
    engine.slow_down(1000.0, usual_s / 2)
    assert engine.next_step_s() == pytest.approx(usual_s * 500.5)
    engine.slow_down(1.0, usual_s * 1.5)
    assert engine.next_step_s() == pytest.approx(usual_s * 1.999)
    assert engine.busy_s == pytest.approx(engine.next_step_s())


class Watch:
    """Tokens of each request by the time they came, and steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[tuple[str, ...], int, float]] = []

    def stepped(self, sequences: Ordered[Sequence], steps: int, end_s: float) -> None:
        names = tuple(each.request.request_id for each in sequences)
        self.steps.append((names, steps, end_s))


def test_an_observer_sees_every_step_when_it_is_asked_for_at_its_end() -> None:
    leaping, walking = Watch(), Watch()
    for watch in (leaping, walking):
        engine = EngineModel(INSTANT, limits(), observer=watch)
        engine.add(EngineRequest("a", 40, 50), 0.0)
        engine.add(EngineRequest("b", 40, 20), 0.05)
        next_s = engine.next_event_s if watch is leaping else engine.next_step_s
        while not engine.idle:
            seen = len(watch.steps)
            engine.advance(next_s())
            assert watch is leaping or len(watch.steps) <= seen + 1
        assert engine.next_step_s() == inf
    assert [steps for _, steps, _ in walking.steps] == [1] * len(walking.steps)
    assert len(walking.steps) > 40 > len(leaping.steps)
    for name, tokens in (("a", 50), ("b", 20)):
        for watch in (leaping, walking):
            assert sum(steps for names, steps, _ in watch.steps if name in names) == tokens
    ends_s = {end_s for *_, end_s in walking.steps}
    assert {end_s for *_, end_s in leaping.steps} <= ends_s


def test_with_nobody_admitted_what_runs_ends_and_the_rest_starts_when_it_may() -> None:
    engine = EngineModel(INSTANT, limits())
    running = engine.add(EngineRequest("running", 40, 20), 0.0)
    engine.advance(0.05)
    engine.admit(False, 0.05)
    waiting = engine.add(EngineRequest("waiting", 40, 5), 0.05)
    engine.advance(100.0)
    assert running.done
    assert engine.waiting_sequences == 1
    assert engine.next_step_s() == inf
    engine.admit(True, 100.0)
    engine.advance(200.0)
    assert waiting.done
    assert waiting.admitted_s == 100.0


def test_forgetting_what_runs_makes_it_start_over_and_end_all_the_same() -> None:
    engine = EngineModel(INSTANT, limits())
    both = [engine.add(EngineRequest(name, 40, 60), 0.0) for name in "ab"]
    engine.advance(0.1)
    before = [each.generated_tokens for each in both]
    assert engine.forget_prefixes(0.1) == (False, [])
    forgotten, events = engine.forget_prefixes(0.1, running=True)
    assert forgotten
    assert [each.kind for each in events] == [EventKind.PREEMPTED] * 2
    assert engine.scheduler.pool.used_blocks == 0
    assert list(engine.scheduler.waiting) == both
    engine.advance(inf)
    assert all(0 < tokens < 60 for tokens in before)
    assert [each.generated_tokens for each in both] == [60, 60]
    assert engine.scheduler.pool.used_blocks == 0


def test_an_adapter_is_loaded_before_it_is_asked_for() -> None:
    engine = EngineModel(INSTANT, replace(limits(), max_loras=1))
    engine.scheduler.load_adapter("x")
    engine.scheduler.load_adapter("y")
    assert list(engine.scheduler.resident_adapters) == ["y"]
    engine.add(EngineRequest("a", 40, 100, adapter="y"), 0.0)
    engine.advance(0.05)
    engine.scheduler.load_adapter("x")  # the only slot is in use
    assert list(engine.scheduler.resident_adapters) == ["y"]
