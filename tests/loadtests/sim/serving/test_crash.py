"""`python -m loadtests.sim --fault ...`: a process that really dies, or starts slowly."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from tests.loadtests.sim.serving.waiting import until

Start = Callable[..., Awaitable[tuple[Process, str]]]
PROMPT = {"model": "m", "prompt": "x", "max_tokens": 50, "ignore_eos": True}
KILLED = 128 + 9


async def run(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.sim", "--port", "0", "--model", "m"),
        *("--profile", "constant-step", "--set", "overhead_s=0.005", *arguments),
        stdout=PIPE,
        stderr=PIPE,
    )


async def gather(response: aiohttp.ClientResponse, received: bytearray) -> None:
    while chunk := await response.content.readany():
        received += chunk


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a replica with faults; the process and its URL."""
    processes: list[Process] = []

    async def begin(*faults: str) -> tuple[Process, str]:
        process = await run(*(word for fault in faults for word in ("--fault", fault)))
        processes.append(process)
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        words = dict(word.split("=") for word in line.split()[1:])
        return process, f"http://{words['host']}:{words['ports']}"

    yield begin
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_dies_at_a_request(start: Start, http: aiohttp.ClientSession) -> None:
    process, base = await start('{"kind": "crash", "at_request": 2}')
    async with http.post(f"{base}/v1/completions", json=PROMPT) as response:
        assert response.status == 200
    assert process.returncode is None
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.post(f"{base}/v1/completions", json=PROMPT)
    assert await process.wait() == KILLED


async def test_it_dies_in_the_middle_of_a_stream(start: Start, http: aiohttp.ClientSession) -> None:
    process, base = await start('{"kind": "crash", "at_token": 20}')
    body = PROMPT | {"stream": True}
    received = bytearray()
    async with http.post(f"{base}/v1/completions", json=body) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await gather(response, received)
    assert 10 <= received.count(b'"text":') <= 19  # several tokens may share a write
    assert await process.wait() == KILLED


async def test_it_dies_when_told_to(start: Start, http: aiohttp.ClientSession) -> None:
    process, base = await start()
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.post(f"{base}/sim/faults", json={"kind": "crash"})
    assert await process.wait() == KILLED


async def test_it_dies_after_its_time(start: Start) -> None:
    process, _ = await start('{"kind": "crash", "after_s": 0.1}')
    assert await process.wait() == KILLED


async def test_it_is_not_ready_at_first(start: Start, http: aiohttp.ClientSession) -> None:
    _, base = await start('{"kind": "error", "status": 503, "paths": "all", "for_s": 0.5}')
    seen = set()

    async def is_ready() -> bool:
        async with http.get(f"{base}/health") as response:
            seen.add(response.status)
        return 200 in seen

    await until(is_ready)
    assert seen == {503, 200}


async def test_a_wrong_fault_is_explained() -> None:
    process = await run("--fault", '{"kind": "slow", "factor": 2, "speed": 1}')
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert "slow.speed: Extra inputs are not permitted" in errors.decode()
