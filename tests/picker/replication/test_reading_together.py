"""Workers in processes of their own read real replicas together."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest_asyncio

from tests.picker.signals.replica import Replica

WORKERS, REPLICAS = 3, 8
FRESH_S = 1.5
"""Far below the 5 s after which a replica gets no requests, far above the intervals."""


class Process:
    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    @classmethod
    async def start(cls, folder: Path, index: int, replicas: list[Replica]) -> Process:
        others = " ".join(str(folder / str(n)) for n in range(WORKERS) if n != index)
        addresses = " ".join(one.address for one in replicas)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.picker.replication.reader"),
            *(str(folder / str(index)), others, addresses),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(child)

    async def look(self) -> Mapping[str, float]:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(b"look\n")
        seen: dict[str, float] = json.loads(await self.child.stdout.readline())
        return seen

    async def until(self, wanted: Callable[[Mapping[str, float]], bool]) -> None:
        async with asyncio.timeout(30):
            while not wanted(await self.look()):  # noqa: ASYNC110 - another process knows
                await asyncio.sleep(0.02)

    async def until_members(self, count: int) -> None:
        await self.until(lambda seen: seen["members"] == count)

    async def until_fresh(self) -> None:
        await self.until(lambda seen: seen["oldest_s"] < FRESH_S)

    async def stay_fresh(self, seconds: float) -> None:
        until_s = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until_s:
            assert (await self.look())["oldest_s"] < FRESH_S
            await asyncio.sleep(0.05)

    async def end(self) -> None:
        if self.child.returncode is None:
            self.child.kill()
        await self.child.wait()


@pytest_asyncio.fixture
async def workers() -> AsyncIterator[list[Process]]:
    replicas = [Replica() for _ in range(REPLICAS)]
    for one in replicas:
        await one.start()
    with tempfile.TemporaryDirectory(prefix="pk") as path:
        made = [await Process.start(Path(path), index, replicas) for index in range(WORKERS)]
        for worker in made:
            await worker.until_members(WORKERS)
            await worker.until_fresh()
        yield made
        for worker in made:
            await worker.end()
    for one in replicas:
        await one.stop()


async def test_together_they_read_each_replica_once(workers: list[Process]) -> None:
    async def counts(key: str) -> list[float]:
        return [(await worker.look())[key] for worker in workers]

    scrapes, heard = sum(await counts("scrapes")), min(await counts("heard"))
    await asyncio.sleep(2)
    scraped, reached = sum(await counts("scrapes")) - scrapes, min(await counts("heard")) - heard
    assert reached > 5 * REPLICAS
    assert scraped < 1.5 * reached  # each for itself: three times as many


async def test_a_killed_worker_makes_no_replica_stale(workers: list[Process]) -> None:
    *rest, gone = workers
    await gone.end()
    for worker in rest:
        await worker.stay_fresh(1.5)
        await worker.until_members(WORKERS - 1)
        assert (await worker.look())["failed"] == 0


async def test_a_hung_worker_makes_no_replica_stale_and_comes_back(
    workers: list[Process],
) -> None:
    *rest, hung = workers
    hung.child.send_signal(signal.SIGSTOP)
    await rest[0].stay_fresh(2)
    for worker in rest:
        await worker.until_members(WORKERS - 1)
    hung.child.send_signal(signal.SIGCONT)
    for worker in workers:
        await worker.until_members(WORKERS)
        await worker.until_fresh()
        assert (await worker.look())["failed"] == 0
