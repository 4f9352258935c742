"""Work that is run at once, and goes on in a task when it waits."""

from __future__ import annotations

import asyncio

import pytest

from picker.server.eager import Eager

pytestmark = pytest.mark.asyncio


async def test_work_that_does_not_wait_has_no_task() -> None:
    eager, done = Eager(), list[int]()

    async def work() -> None:
        async with asyncio.timeout(0):  # noqa: ASYNC100 - what looks for its task
            done.append(1)

    for _ in range(3):
        assert eager.start(work()) is None
    await asyncio.sleep(0)
    assert done == [1, 1, 1]
    await eager.close()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("turns", [0, 1], ids=["a new task", "a task in reserve"])
async def test_what_it_raises_at_once(turns: int) -> None:
    eager = Eager()

    async def fail() -> None:
        raise ValueError("at once")

    for _ in range(2):
        with pytest.raises(ValueError, match="at once"):
            eager.start(fail())
        for _ in range(turns):
            await asyncio.sleep(0)
    assert asyncio.current_task() is not None
    await eager.close()


@pytest.mark.parametrize("turns", [0, 1], ids=["a new task", "a task in reserve"])
async def test_a_timeout_from_before_there_was_a_task(turns: int) -> None:
    """Ends the wait, and nothing else."""
    eager, seen = Eager(), list[object]()

    async def work() -> None:
        first = asyncio.current_task()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.get_running_loop().create_future()
        seen.append(asyncio.current_task() is first)
        await asyncio.sleep(0)
        seen.append("went on")

    if turns:
        eager.start(_nothing())
        await asyncio.sleep(0)
    task = eager.start(work())
    assert task is not None
    await task
    assert seen == [True, "went on"]
    assert not task.cancelling()
    await eager.close()


async def test_what_it_waits_for_is_done_already() -> None:
    eager, got = Eager(), list[str]()

    async def work() -> None:
        waits = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(waits.set_result, "result")
        got.append(await waits)

    tasks = [eager.start(work()) for _ in range(3)]
    await asyncio.gather(*(task for task in tasks if task is not None))
    assert got == ["result"] * 3
    await eager.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_cancelled_wait_ends_what_is_waited_for(turns: int) -> None:
    """In the turn that began it, too: a task of its own, as `asyncio.gather` makes them, must not
    go on."""
    eager, ended = Eager(), list[str]()

    async def inner() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("inner")

    async def work() -> None:
        try:
            await asyncio.gather(inner(), inner())
        except asyncio.CancelledError:
            ended.append("work")
            raise

    before = asyncio.all_tasks()
    task = eager.start(work())
    assert task is not None
    for _ in range(turns):
        await asyncio.sleep(0)
    assert task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert ended[-1] == "work"
    assert asyncio.all_tasks() == before
    await eager.close()


async def test_work_that_goes_on_after_it_was_cancelled() -> None:
    eager, went_on = Eager(), list[bool]()

    async def work() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            went_on.append(True)

    task = eager.start(work())
    assert task is not None
    task.cancel()
    await task
    assert went_on == [True]
    await eager.close()


async def _nothing() -> None:
    pass
