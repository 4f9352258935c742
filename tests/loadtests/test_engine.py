import asyncio
from dataclasses import replace

from loadtests.sim.engine import Engine
from loadtests.sim.scheduler import EngineSettings, Sequence
from loadtests.sim.tokens import encode

FAST = EngineSettings(time_scale=0.0)


def sequence(answer: str = "well then it is") -> Sequence:
    return Sequence(encode("what is it"), encode(answer))


async def turns(count: int) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_progress_ends_with_the_answer_and_nothing_keeps_running() -> None:
    engine = Engine(FAST)
    before = asyncio.all_tasks()
    submission = engine.submit([sequence(), sequence("a longer answer than that")])
    await submission.finished()
    assert [one.generated_tokens for one in submission.sequences] == [4, 7]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_an_idle_engine_starts_again() -> None:
    engine = Engine(FAST)
    for _ in range(3):
        await engine.submit([sequence()]).finished()
    assert engine.stats.finished["stop"] == 3


async def test_progress_before_anybody_waits_is_not_lost() -> None:
    engine = Engine(FAST)
    submission = engine.submit([sequence()])
    await turns(8)
    assert engine.stats.finished["stop"] == 1
    await submission.progress()
    assert submission.done


async def test_an_abort_gives_everything_back() -> None:
    engine = Engine(replace(FAST, step_fixed_s=3600.0, time_scale=1.0))
    submission = engine.submit([sequence(), sequence()])
    await turns(8)
    assert engine.running_requests == 2
    assert engine.kv_usage > 0
    submission.abort()
    assert (engine.running_requests, engine.waiting_requests, engine.kv_usage) == (0, 0, 0.0)
    assert submission.done
    await engine.close()
