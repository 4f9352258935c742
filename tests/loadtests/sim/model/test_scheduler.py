from typing import Any

import pytest

from loadtests.sim.model.request import EngineRequest, Sequence, SequenceState
from loadtests.sim.model.scheduler import EngineLimits, Scheduler
from loadtests.sim.model.step import Step


def limits(**changes: Any) -> EngineLimits:
    values: dict[str, Any] = {
        "num_blocks": 100,
        "block_size_tokens": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 16,
        "max_model_len": 200,
        "async_scheduling": False,
    }
    return EngineLimits(**(values | changes))


def request(
    name: str, prompt: int, output: int = 8, ids: tuple[int, ...] = (), adapter: str | None = None
) -> EngineRequest:
    return EngineRequest(name, prompt, output, ids, adapter)


def work(step: Step | None) -> dict[str, int]:
    assert step is not None
    found = {sequence.request.request_id: tokens for sequence, tokens in step.prefill}
    return found | {sequence.request.request_id: 1 for sequence in step.decode}


def run(scheduler: Scheduler, steps: int) -> list[dict[str, int]]:
    done: list[dict[str, int]] = []
    for _ in range(steps):
        step = scheduler.schedule(0.0)
        done.append(work(step))
        assert step is not None
        scheduler.complete(step)
    return done


def test_decodes_come_first_and_a_long_prompt_gets_what_is_left() -> None:
    scheduler = Scheduler(limits())
    scheduler.add(request("a", 3), 0)
    assert run(scheduler, 1) == [{"a": 3}]
    scheduler.add(request("long", 40), 0)
    scheduler.add(request("next", 5), 0)
    assert run(scheduler, 3) == [
        {"a": 1, "long": 15},
        {"a": 1, "long": 15},
        {"a": 1, "long": 10, "next": 5},
    ]


def test_a_threshold_keeps_room_for_others_unless_there_are_none() -> None:
    scheduler = Scheduler(limits(long_prefill_token_threshold=6))
    scheduler.add(request("long", 30), 0)
    assert run(scheduler, 1) == [{"long": 16}]
    scheduler.add(request("short", 9), 0)
    assert run(scheduler, 1) == [{"long": 6, "short": 6}]


def test_a_repeated_prompt_computes_only_its_last_block() -> None:
    scheduler = Scheduler(limits())
    first = scheduler.add(request("a", 12, 1, (1, 2, 3)), 0)
    run(scheduler, 1)
    second = scheduler.add(request("b", 12, 1, (1, 2, 3)), 0)
    assert run(scheduler, 1) == [{"b": 4}]
    assert (first.cached_tokens, second.cached_tokens) == (0, 8)


def test_an_answer_that_is_fed_back_is_found() -> None:
    scheduler = Scheduler(limits())
    scheduler.add(request("turn 1", 8, 9, (1, 2, 3, 4)), 0)
    run(scheduler, 9)
    # 8 prompt and 8 computed answer tokens; the ninth was never computed.
    turn = scheduler.add(request("turn 2", 22, 1, (1, 2, 3, 4, 5)), 0)
    assert run(scheduler, 1) == [{"turn 2": 6}]
    assert turn.cached_tokens == 16


def test_the_youngest_is_preempted_goes_first_in_the_queue_and_starts_over() -> None:
    scheduler = Scheduler(limits(num_blocks=5, max_model_len=20))
    old = scheduler.add(request("old", 8, 12), 0)
    young = scheduler.add(request("young", 8, 12), 0)
    run(scheduler, 1)  # two blocks each
    assert run(scheduler, 1) == [{"old": 1}]  # the fifth block goes to the older
    assert young.state is SequenceState.WAITING
    assert young.preemptions == 1
    scheduler.add(request("late", 4), 0)
    assert scheduler.waiting[0] is young
    run(scheduler, 10)
    assert old.state is SequenceState.FINISHED
    # Its prompt is still there, the block of its answer is not.
    assert run(scheduler, 1)[0]["young"] >= 1
    assert young.generated_tokens == 2


def test_a_prompt_that_does_not_fit_yet_blocks_those_behind_it() -> None:
    scheduler = Scheduler(limits(num_blocks=8, max_model_len=32))
    scheduler.add(request("a", 16), 0)
    run(scheduler, 1)
    scheduler.add(request("large", 20), 0)
    scheduler.add(request("small", 2), 0)
    assert run(scheduler, 1) == [{"a": 1}]
    assert scheduler.blocked()


def test_places_are_limited() -> None:
    scheduler = Scheduler(limits(max_num_seqs=1))
    scheduler.add(request("a", 2, 2), 0)
    scheduler.add(request("b", 2, 2), 0)
    assert run(scheduler, 3) == [{"a": 2}, {"a": 1}, {"b": 2}]


def test_adapters_wait_for_a_slot_and_others_pass_them() -> None:
    scheduler = Scheduler(limits(max_loras=1))
    scheduler.add(request("x1", 2, 2, adapter="x"), 0)
    scheduler.add(request("y1", 2, 2, adapter="y"), 0)
    scheduler.add(request("base", 2, 2), 0)
    scheduler.add(request("x2", 2, 2, adapter="x"), 0)
    step = scheduler.schedule(0.0)
    assert work(step) == {"x1": 2, "base": 2, "x2": 2}
    assert step is not None
    assert step.adapter_loads == 1
    scheduler.complete(step)
    run(scheduler, 1)
    step = scheduler.schedule(0.0)
    assert work(step) == {"y1": 2}
    assert step is not None
    assert step.adapter_loads == 1


def test_an_abort_frees_blocks_at_once() -> None:
    scheduler = Scheduler(limits())
    gone = scheduler.add(request("gone", 12), 0)
    step = scheduler.schedule(0.0)
    scheduler.abort(gone)
    assert scheduler.pool.used_blocks == 0
    assert step is not None
    assert scheduler.complete(step) == []
    scheduler.abort(gone)


def test_with_a_step_in_flight_the_last_token_is_not_asked_for_twice() -> None:
    scheduler = Scheduler(limits(async_scheduling=True))
    sequence = scheduler.add(request("a", 3, 2), 0)
    first, second = scheduler.schedule(0.0), scheduler.schedule(0.0)
    assert (work(first), work(second)) == ({"a": 3}, {"a": 1})
    assert scheduler.schedule(0.0) is None
    assert first is not None
    assert second is not None
    scheduler.complete(first)
    assert not sequence.done
    scheduler.complete(second)
    assert sequence.done


def test_what_can_never_run_is_refused() -> None:
    scheduler = Scheduler(limits(max_model_len=20))
    with pytest.raises(ValueError, match="request big: 20 prompt tokens leave no room"):
        scheduler.add(request("big", 20), 0)
    cut: Sequence = scheduler.add(request("cut", 15, 100), 0)
    assert cut.output_tokens == 5


def test_a_pool_smaller_than_one_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="raise num_blocks or lower max_model_len"):
        limits(num_blocks=3)
