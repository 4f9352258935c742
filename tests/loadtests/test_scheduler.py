"""The engine in virtual time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.sim.scheduler import EngineSettings, Scheduler, Sequence, State
from loadtests.sim.tokens import NO_TOKENS, Tokens

SMALL = EngineSettings(
    num_blocks=64,
    block_size_tokens=4,
    max_num_seqs=4,
    max_num_batched_tokens=32,
    max_model_tokens=256,
    step_fixed_s=1.0,
    prefill_s_per_token=0.01,
    decode_s_per_sequence=0.1,
)


def text(tokens: int, mark: str = "a") -> Tokens:
    return Tokens(b"".join(f"{mark}{i:03d}".encode() for i in range(tokens)))


def sequence(prompt: int, answer: int = 1, mark: str = "a", **rest: object) -> Sequence:
    return Sequence(text(prompt, mark), text(answer, mark.upper()), **rest)  # type: ignore[arg-type]


def step(scheduler: Scheduler, now_s: float = 0.0) -> float:
    planned = scheduler.schedule(now_s)
    assert planned is not None
    now_s += planned.duration_s
    scheduler.complete(planned, now_s)
    return now_s


def run(scheduler: Scheduler, now_s: float = 0.0) -> float:
    while scheduler.running or scheduler.waiting:
        now_s = step(scheduler, now_s)
    return now_s


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    scheduler = Scheduler(SMALL)
    one = sequence(prompt=70, answer=3)
    scheduler.add(one, 0.0)
    end_s = run(scheduler)
    # Three prefill steps of 32, 32 and 6 tokens; the last gives the first token; two decodes.
    assert one.first_token_s == pytest.approx(3 * 1.0 + 70 * 0.01)
    assert end_s == pytest.approx(3 * 1.0 + 70 * 0.01 + 2 * 1.1)
    assert (scheduler.stats.prompt_tokens, scheduler.stats.generation_tokens) == (70, 3)


def test_decodes_take_their_share_of_the_budget_before_prefills() -> None:
    scheduler = Scheduler(SMALL)
    scheduler.add(sequence(prompt=4, answer=50), 0.0)
    step(scheduler)
    scheduler.add(sequence(prompt=60, mark="b"), 0.0)
    planned = scheduler.schedule(0.0)
    assert planned is not None
    assert (planned.decode_sequences, planned.prefill_tokens) == (1, 31)


def test_no_more_than_max_num_seqs_run() -> None:
    scheduler = Scheduler(SMALL)
    for mark in "abcdef":
        scheduler.add(sequence(prompt=2, answer=9, mark=mark), 0.0)
    step(scheduler)
    assert (len(scheduler.running), len(scheduler.waiting)) == (4, 2)
    run(scheduler)
    assert scheduler.stats.finished["stop"] == 6


def test_a_repeated_prompt_is_cached_but_for_its_last_token() -> None:
    scheduler = Scheduler(SMALL)
    scheduler.add(sequence(prompt=16), 0.0)
    run(scheduler)
    again = sequence(prompt=16)
    scheduler.add(again, 0.0)
    run(scheduler)
    assert again.cached_tokens == 12  # the fourth block holds the last token
    assert (scheduler.stats.prefix_queries, scheduler.stats.prefix_hits) == (32, 12)


def test_the_next_turn_finds_the_answer_cached_too() -> None:
    scheduler = Scheduler(SMALL)
    first = sequence(prompt=10, answer=9)
    scheduler.add(first, 0.0)
    run(scheduler)
    second = Sequence(Tokens(first.content + text(5, "z")), text(1))
    scheduler.add(second, 0.0)
    run(scheduler)
    # 19 tokens were known, the last of them never computed: four full blocks.
    assert second.cached_tokens == 16


def test_prompts_in_one_step_share_their_prefix() -> None:
    scheduler = Scheduler(SMALL)
    both = [sequence(prompt=12), sequence(prompt=12)]
    for one in both:
        scheduler.add(one, 0.0)
    step(scheduler)
    assert [one.cached_tokens for one in both] == [0, 8]


def test_salts_keep_prefixes_apart() -> None:
    scheduler = Scheduler(SMALL)
    scheduler.add(sequence(prompt=16, salt=1), 0.0)
    run(scheduler)
    other, same = sequence(prompt=16, salt=2), sequence(prompt=16, salt=1)
    scheduler.add(other, 0.0)
    scheduler.add(same, 0.0)
    run(scheduler)
    assert (other.cached_tokens, same.cached_tokens) == (0, 12)


def test_without_blocks_the_youngest_starts_over() -> None:
    scheduler = Scheduler(replace(SMALL, num_blocks=10, max_model_tokens=40))
    old, young = sequence(prompt=12, answer=20), sequence(prompt=12, answer=20, mark="b")
    scheduler.add(old, 0.0)
    scheduler.add(young, 0.0)
    end_s = run(scheduler)
    assert scheduler.stats.preemptions >= 1
    assert old.generated_tokens == young.generated_tokens == 20
    assert scheduler.stats.generation_tokens == 40
    assert scheduler.pool.used_blocks == 0
    assert end_s > 0


def test_an_abort_frees_blocks_at_once_even_in_the_middle_of_a_step() -> None:
    scheduler = Scheduler(SMALL)
    running, queued = sequence(prompt=20, answer=5), sequence(prompt=20, mark="b")
    scheduler.add(running, 0.0)
    planned = scheduler.schedule(0.0)
    scheduler.add(queued, 0.0)
    assert planned is not None
    assert scheduler.pool.used_blocks == 5
    scheduler.abort(running)
    scheduler.abort(queued)
    scheduler.abort(queued)
    assert scheduler.pool.used_blocks == 0
    assert scheduler.complete(planned, 1.0) == []
    assert scheduler.schedule(1.0) is None
    assert (running.state, queued.state) == (State.ABORTED, State.ABORTED)
    assert scheduler.stats.finished.total() == 0  # as vLLM: an abort is no success


def test_adapters_beyond_max_loras_wait_and_others_overtake_them() -> None:
    scheduler = Scheduler(replace(SMALL, max_loras=1))
    for mark, adapter in zip("abcd", ["x", "y", "x", None], strict=True):
        scheduler.add(sequence(prompt=2, answer=3, mark=mark, adapter=adapter), 0.0)
    step(scheduler)
    assert [one.adapter for one in scheduler.running] == ["x", "x", None]
    assert scheduler.adapters() == ({"x"}, {"y"})
    run(scheduler)
    assert scheduler.stats.finished["stop"] == 4


def test_a_pooling_request_ends_with_its_prompt() -> None:
    scheduler = Scheduler(SMALL)
    one = Sequence(text(40), NO_TOKENS)
    scheduler.add(one, 0.0)
    run(scheduler)
    assert one.state is State.FINISHED
    assert (scheduler.stats.prompt_tokens, scheduler.stats.generation_tokens) == (40, 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_blocks", 0, "num_blocks is 0, must be at least 1"),
        ("time_scale", -1.0, "time_scale is -1.0, must not be negative"),
        ("max_model_tokens", 257, "raise num_blocks or lower max_model_tokens"),
    ],
)
def test_impossible_settings_are_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **{field: value})  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(0, 20), st.sampled_from("ab"), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.integers(13, 30),
)
def test_whatever_arrives_everything_is_answered_and_given_back(
    requests: list[tuple[int, int, str, bool]], num_blocks: int
) -> None:
    scheduler = Scheduler(replace(SMALL, num_blocks=num_blocks, max_model_tokens=50))
    kept: list[Sequence] = []
    for prompt, answer, mark, abandoned in requests:
        one = sequence(prompt, answer, mark)
        scheduler.add(one, 0.0)
        step(scheduler)
        if abandoned:
            scheduler.abort(one)
        else:
            kept.append(one)
        assert scheduler.pool.used_blocks <= num_blocks
    run(scheduler)
    assert all(one.state is State.FINISHED for one in kept)
    assert all(one.generated_tokens == one.answer_tokens for one in kept)
    assert scheduler.pool.used_blocks == 0
