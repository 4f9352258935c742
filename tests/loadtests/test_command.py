"""`python -m loadtests.sim` as a process."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from loadtests.sim.options import parse

Start = Callable[..., Awaitable[tuple[Process, list[str]]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start it; the process and the addresses that its line names."""
    processes: list[Process] = []

    async def run(*arguments: str) -> tuple[Process, list[str]]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtests.sim", *arguments, stdout=PIPE, stderr=PIPE
        )
        processes.append(process)
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        words = dict(word.split("=") for word in line.split()[1:])
        return process, [f"{words['host']}:{port}" for port in words["ports"].split(",")]

    yield run
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_replicas_in_one_process_are_independent(
    start: Start, http: aiohttp.ClientSession
) -> None:
    _, addresses = await start("--port", "0", "--replicas", "2", "--model", "m", "--step-ms", "0")
    assert len(set(addresses)) == 2

    async def cached(address: str) -> int:
        body = {"model": "m", "prompt": "z" * 400, "max_tokens": 1}
        async with http.post(f"http://{address}/v1/completions", json=body) as response:
            tokens: int = (await response.json())["usage"]["prompt_tokens_details"]["cached_tokens"]
            return tokens

    assert await cached(addresses[0]) == 0
    assert await cached(addresses[0]) > 0
    assert await cached(addresses[1]) == 0


async def test_sigterm_ends_it_cleanly_under_load(
    start: Start, http: aiohttp.ClientSession
) -> None:
    process, (address,) = await start(
        "--port", "0", "--model", "m", "--step-ms", "1e9", "--drain-s", "0"
    )
    body = {"model": "m", "prompt": "x", "stream": True}
    async with http.post(f"http://{address}/v1/completions", json=body) as response:
        assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_taken_port_is_named(start: Start) -> None:
    _, (address,) = await start("--port", "0", "--model", "m")
    port = address.split(":")[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtests.sim", "--model", "m", "--port", port, stderr=PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert f"cannot listen on {address}" in errors.decode()


def test_options_become_settings() -> None:
    arguments = (
        "--model a,b --lora x --lora y --port 9000 --replicas 3 "
        "--prefill-us-per-token 100 --num-blocks 100 --block-size 8"
    )
    options = parse(arguments.split())
    assert options.ports == (9000, 9001, 9002)
    assert options.replica.models == ("a", "b")
    assert options.replica.adapters == ("x", "y")
    engine = options.replica.engine
    assert engine.prefill_s_per_token == pytest.approx(1e-4)
    assert (engine.max_model_tokens, engine.max_loras) == (800, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model"),
        (["--model", "m", "--max-model-len", "999999999"], "raise num_blocks"),
        (["--model", "m", "--replicas", "0"], "--replicas is 0, must be at least 1"),
        (["--model", "m", "--lora", "x", "--max-loras", "0"], "need max_loras of at least 1"),
    ],
)
def test_wrong_options_are_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err
