"""The engine model by the wall clock. Steps last as long as they do; no test asks how long."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.engine import EngineDeadError, EngineSettings, RealTimeEngine
from loadtests.sim.serving.job import EngineJob
from loadtests.sim.serving.tokens import NO_TOKENS, Tokens, encode
from tests.loadtests.conftest import CONSTANT_STEP, until

LIMITS = EngineLimits(1000, max_model_len=4096)
FAST = EngineSettings(CONSTANT_STEP, LIMITS, time_scale=0.0)
STALLED = EngineSettings(replace(CONSTANT_STEP, overhead_s=3600.0), LIMITS)
PROMPT = encode("what is it that you want to know of me, and why do you ask me this now?")


def paced(step_s: float, **limits: int) -> EngineSettings:
    size = replace(LIMITS, **limits)  # type: ignore[arg-type]
    return EngineSettings(replace(CONSTANT_STEP, overhead_s=step_s), size)


def job(answer_tokens: int = 4, prompt: Tokens = PROMPT, **rest: object) -> EngineJob:
    return EngineJob(prompt, Tokens(b"word" * answer_tokens), **rest)  # type: ignore[arg-type]


async def turns(count: int) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def generated(one: EngineJob, tokens: int) -> None:
    await until(lambda: one.generated_tokens >= tokens)


@pytest.mark.parametrize("settings", [FAST, paced(0.002)], ids=["fast", "paced"])
async def test_progress_ends_with_the_answer_and_nothing_keeps_running(
    settings: EngineSettings,
) -> None:
    engine = RealTimeEngine(settings)
    before = asyncio.all_tasks()
    submission = engine.submit([job(4), job(7)])
    await submission.finished()
    assert [one.generated_tokens for one in submission.jobs] == [4, 7]
    assert asyncio.all_tasks() == before
    assert engine._timer is None


async def test_an_idle_engine_starts_again() -> None:
    engine = RealTimeEngine(FAST)
    for _ in range(3):
        await engine.submit([job()]).finished()
    assert engine.stats.finished["stop"] == 3


async def test_progress_before_anybody_waits_is_not_lost() -> None:
    engine = RealTimeEngine(FAST)
    submission = engine.submit([job()])
    await turns(8)
    assert engine.stats.finished["stop"] == 1
    await submission.progress()
    assert submission.done


async def test_every_token_is_seen_when_its_step_ends() -> None:
    engine = RealTimeEngine(paced(0.02))
    submission = engine.submit([job(12)])
    seen: list[int] = []
    while not submission.done:
        await submission.progress()
        seen.append(submission.jobs[0].generated_tokens)
    # A machine that is held up misses some; a model that tells only of ends would, nearly all.
    assert seen == sorted(set(seen))
    assert len(seen) >= 6
    assert engine._model.iterations < 12  # it was a plateau


async def test_steps_shorter_than_the_timer_run_together() -> None:
    engine = RealTimeEngine(paced(1e-6))
    submission = engine.submit([job(3000)])
    looks = 0
    while not submission.done:
        await submission.progress()
        looks += 1
    assert looks < 300


async def test_without_a_time_scale_others_get_their_turn() -> None:
    engine = RealTimeEngine(replace(FAST, limits=EngineLimits(10_000, max_model_len=160_000)))
    submission = engine.submit([job(100_000)])
    looks = 0
    while not submission.done:
        await asyncio.sleep(0)
        looks += 1
    assert looks > 5


async def test_an_abort_gives_everything_back() -> None:
    engine = RealTimeEngine(STALLED)
    submission = engine.submit([job(), job()])
    await until(lambda: engine.running_requests == 2)
    assert engine.kv_usage > 0
    submission.abort()
    assert (engine.running_requests, engine.waiting_requests, engine.kv_usage) == (0, 0, 0.0)
    assert submission.done
    await submission.progress()
    assert engine.stats.finished.total() == 0  # as vLLM: who leaves is not counted
    await engine.close()
    assert engine._timer is None


async def test_requests_on_the_way_in_wait() -> None:
    engine = RealTimeEngine(EngineSettings(replace(CONSTANT_STEP, input_s=3600.0), LIMITS))
    submission = engine.submit([job()])
    await turns(3)
    assert (engine.running_requests, engine.waiting_requests) == (0, 1)
    submission.abort()
    assert engine.waiting_requests == 0


async def test_the_way_out_is_taken_on_the_way_in() -> None:
    profile = replace(CONSTANT_STEP, input_s=0.1, output_s=3600.0)
    engine = RealTimeEngine(EngineSettings(profile, LIMITS))
    submission = engine.submit([job()])
    assert submission.jobs[0].queued_s - submission.jobs[0].sent_s == pytest.approx(3600.1)
    submission.abort()


async def test_a_paused_engine_computes_nothing_and_goes_on() -> None:
    engine = RealTimeEngine(FAST)
    engine.pause()
    engine.pause()
    submission = engine.submit([job(5)])
    await turns(20)
    assert submission.jobs[0].generated_tokens == 0
    assert engine.waiting_requests == 1
    engine.resume()
    engine.resume()
    await submission.finished()
    assert submission.jobs[0].generated_tokens == 5


async def test_a_pause_stops_a_running_answer() -> None:
    engine = RealTimeEngine(paced(0.002))
    submission = engine.submit([job(200)])
    (one,) = submission.jobs
    await generated(one, 3)
    engine.pause()
    stopped_at = one.generated_tokens
    await asyncio.sleep(0.05)
    assert one.generated_tokens == stopped_at < 200
    engine.resume()
    await generated(one, stopped_at + 3)
    submission.abort()


async def test_draining_ends_what_runs_and_admits_nobody() -> None:
    engine = RealTimeEngine(paced(0.002))
    running = engine.submit([job(50)])
    await generated(running.jobs[0], 1)
    engine.pause(drain=True)
    waiting = engine.submit([job(5)])
    await running.finished()
    await turns(20)
    assert (engine.running_requests, engine.waiting_requests) == (0, 1)
    engine.resume()
    await waiting.finished()
    assert waiting.jobs[0].generated_tokens == 5


async def test_aborting_all_ends_answers_where_they_are() -> None:
    engine = RealTimeEngine(paced(0.002, max_num_seqs=1))
    running, waiting = engine.submit([job(4000)]), engine.submit([job(4000)])
    await generated(running.jobs[0], 2)
    engine.abort_all()
    await asyncio.gather(running.finished(), waiting.finished())
    assert running.jobs[0].aborted
    assert waiting.jobs[0].aborted
    assert 2 <= running.jobs[0].generated_tokens < 4000
    assert engine.stats.finished["abort"] == 2
    assert engine.kv_usage == 0


async def test_a_slow_engine_takes_longer_and_recovers() -> None:
    engine = RealTimeEngine(paced(0.001))
    engine.slow_down(3_600_000.0)
    submission = engine.submit([job(50)])
    await until(lambda: engine.running_requests)
    await asyncio.sleep(0.05)
    assert submission.jobs[0].generated_tokens == 0
    await engine.close()


async def test_a_repeated_prompt_and_the_next_turn_are_found_cached() -> None:
    engine = RealTimeEngine(FAST)
    first = job(40)
    await engine.submit([first]).finished()
    again, other, turn = job(), job(adapter="x"), job(prompt=Tokens(first.prompt + first.answer))
    for one in (again, other, turn):
        await engine.submit([one]).finished()
    # Nothing of the last token, which is what the answer starts from; and only whole blocks.
    assert first.cached_tokens == 0
    assert again.cached_tokens == (first.prompt_tokens - 1) // 16 * 16 > 0
    assert turn.cached_tokens == (first.prompt_tokens + 40 - 1) // 16 * 16 > again.cached_tokens
    jobs, stats = (first, again, other, turn), engine.stats
    assert stats.prefix_queries == stats.prompt_tokens == sum(one.prompt_tokens for one in jobs)
    assert stats.prefix_hits == stats.cached_tokens == sum(one.cached_tokens for one in jobs)


async def test_salts_and_adapters_keep_prefixes_apart() -> None:
    engine = RealTimeEngine(replace(FAST, limits=replace(LIMITS, max_loras=2)))
    await engine.submit([job(cache_salt="one", adapter="x")]).finished()
    others = [job(), job(cache_salt="one"), job(adapter="x"), job(cache_salt="two", adapter="x")]
    same = job(cache_salt="one", adapter="x")
    for one in (*others, same):
        await engine.submit([one]).finished()
    assert [one.cached_tokens for one in others] == [0, 0, 0, 0]
    assert same.cached_tokens > 0


async def test_forgetting_prefixes_spares_those_that_run_unless_they_start_over() -> None:
    engine = RealTimeEngine(paced(0.002))
    submission = engine.submit([job(400)])
    await generated(submission.jobs[0], 2)
    assert not engine.forget_prefixes()
    assert engine.forget_prefixes(running=True)
    assert engine.stats.preemptions == 1
    assert engine.kv_usage == 0
    await generated(submission.jobs[0], 40)
    submission.abort()


async def test_a_pooling_request_ends_with_its_prompt() -> None:
    engine = RealTimeEngine(FAST)
    one = EngineJob(PROMPT, NO_TOKENS)
    await engine.submit([one]).finished()
    assert (engine.stats.prompt_tokens, engine.stats.generation_tokens) == (one.prompt_tokens, 0)


async def test_a_prompt_that_is_too_long_is_refused_whole() -> None:
    engine = RealTimeEngine(FAST)
    with pytest.raises(ValueError, match="4096 prompt tokens leave no room for an answer"):
        engine.submit([job(), job(prompt=Tokens(b"long" * 4096))])
    assert engine.waiting_requests == 0


async def test_what_is_counted() -> None:
    engine = RealTimeEngine(paced(0.004))
    jobs = [job(10, max_tokens=10, finish_reason="length"), job(1)]
    await engine.submit(jobs).finished()
    stats = engine.stats
    assert stats.finished == {"length": 1, "stop": 1}
    assert stats.generation_tokens == 11
    assert sum(stats.first_token_s.counts) == 2
    assert sum(stats.between_tokens_s.counts) == 9
    assert stats.between_tokens_s.sum == pytest.approx(9 * 0.004, rel=0.01)
    assert stats.decode_s.sum == pytest.approx(9 * 0.004, rel=0.01)
    assert stats.output_token_s.sum == pytest.approx(0.004, rel=0.01)
    assert stats.inference_s.sum == pytest.approx(stats.prefill_s.sum + stats.decode_s.sum)
    assert stats.whole_s.sum == pytest.approx(stats.queue_s.sum + stats.inference_s.sum, abs=0.01)
    assert stats.request_max_tokens.sum == 10
    assert stats.request_generation_tokens.sum == 11
    # One step with both prompts, of which the second finds the first's blocks; then nine tokens.
    assert jobs[1].cached_tokens == (jobs[1].prompt_tokens - 1) // 16 * 16 > 0
    computed = sum(one.prompt_tokens - one.cached_tokens for one in jobs)
    assert stats.step_tokens.sum == computed + 11
    assert sum(stats.step_tokens.counts) == 10


async def test_a_request_without_a_block_starts_over_and_is_answered_in_full() -> None:
    engine = RealTimeEngine(
        replace(FAST, limits=EngineLimits(12, max_model_len=192, async_scheduling=False))
    )
    other = encode("something else altogether, so that nothing is shared between the two of them")
    jobs = [job(80), job(80, other)]
    await engine.submit(jobs).finished()
    assert [one.generated_tokens for one in jobs] == [80, 80]
    assert engine.stats.preemptions >= 1
    assert engine.stats.generation_tokens == 160
    assert engine.stats.request_preemptions.sum == engine.stats.preemptions
    # A second admission is not looked up a second time, as far as the counters go.
    assert engine.stats.prefix_queries == sum(one.prompt_tokens for one in jobs)


async def test_adapters_that_run_and_wait_are_noted() -> None:
    engine = RealTimeEngine(replace(STALLED, limits=replace(LIMITS, max_loras=1)))
    submission = engine.submit([job(adapter="x"), job(adapter="y")])
    await until(lambda: engine.running_requests)
    assert list(engine.stats.adapters_seen_s)[-1] == ("x", "y")
    assert engine.deferred_requests == engine.waiting_requests == 1
    submission.abort()
    assert list(engine.stats.adapters_seen_s)[-1] == ("", "")
    await engine.close()


class Journal:
    def __init__(self) -> None:
        self.announced: dict[int, int] = {}
        self.stored_ids: list[int] = []
        self.flushes = 0
        self.closed = False

    def announce(
        self,
        block_ids: Sequence[int],
        tokens: bytes,
        adapter: str | None,
        *,
        cache_salt: str,
        session_id: str | None,
    ) -> None:
        assert len(tokens) // 4 // 16 == len(block_ids)
        for each in block_ids:
            self.announced[each] = self.announced.get(each, 0) + 1

    def withdraw(self, block_ids: Sequence[int]) -> None:
        for each in block_ids:
            self.announced[each] -= 1

    def stored(self, block_ids: Sequence[int], parent_id: int | None) -> None:
        assert all(self.announced[each] > 0 for each in block_ids)
        self.stored_ids += block_ids

    def removed(self, block_id: int) -> None:
        self.stored_ids.remove(block_id)

    def cleared(self) -> None:
        self.stored_ids.clear()

    def stepped(self) -> None:
        pass

    def flush(self) -> None:
        self.flushes += 1

    def close(self) -> None:
        self.closed = True


async def test_a_journal_knows_every_block_that_is_stored() -> None:
    journal = Journal()
    engine = RealTimeEngine(FAST, journal=journal)
    one, gone = job(40), job(400, encode("to be left soon" * 9))
    submission = engine.submit([gone])
    await engine.submit([one]).finished()
    submission.abort()
    assert set(one.block_ids[: (one.prompt_tokens + 39) // 16]) <= set(journal.stored_ids)
    assert all(count == 0 for count in journal.announced.values())
    assert journal.flushes
    assert engine.forget_prefixes()
    assert journal.stored_ids == []
    await engine.close()
    assert journal.closed


async def test_a_loop_that_was_held_up_does_not_burst() -> None:
    engine = RealTimeEngine(paced(0.005))
    submission = engine.submit([job(4000)])
    (one,) = submission.jobs
    await generated(one, 3)
    before = one.generated_tokens
    time.sleep(0.5)  # noqa: ASYNC251 - this is what holds it up
    await submission.progress()
    await submission.progress()
    assert one.generated_tokens - before < 40
    submission.abort()


async def test_a_failing_model_is_a_dead_engine_and_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = RealTimeEngine(paced(0.002))
    waiting = engine.submit([job(400)])
    await generated(waiting.jobs[0], 1)

    def fail(now_s: float) -> None:
        raise ZeroDivisionError(now_s)

    monkeypatch.setattr(engine._model, "advance", fail)
    with pytest.raises(EngineDeadError):
        await waiting.finished()
    waiting.abort()
    with pytest.raises(EngineDeadError):
        engine.submit([job()])
    assert engine.dead.is_set()
    assert engine._timer is None
    assert "ZeroDivisionError" in caplog.text


async def test_jobs_of_which_one_cannot_run_leave_nothing_behind() -> None:
    engine = RealTimeEngine(FAST)
    with pytest.raises(ValueError, match="empty"):
        engine.submit([job(), job(prompt=NO_TOKENS)])
    assert engine.waiting_requests == 0


async def test_adapters_that_run_and_wait_are_those_of_the_sequences_that_do() -> None:
    engine = RealTimeEngine(paced(0.004, max_loras=2, max_num_seqs=3))
    open_ = [engine.submit([job(5 + n % 7, adapter=f"x{n % 5}")]) for n in range(30)]
    seen: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    while not all(each.done for each in open_):
        if len(seen) == 5:
            open_[17].abort()
        batch = engine._model.scheduler.running
        left = {one.sequence for each in open_ for one in each.jobs if not one.done}
        running = {each.adapter for each in batch}
        waiting = {each.adapter for each in left - set(batch) if each is not None}
        assert engine._adapters() == (running, waiting)
        seen.add((tuple(sorted(map(str, running))), tuple(sorted(map(str, waiting)))))
        await asyncio.sleep(0.001)
    assert len(seen) > 5
    assert engine._adapters() == (set(), set())
    assert not engine._asked_for
