"""`python -m loadtests.sim` as a process."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from loadtests.sim.__main__ import serve
from loadtests.sim.model.profile import built_in, write_profile
from loadtests.sim.serving.engine import RealTimeEngine
from loadtests.sim.serving.options import parse

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
    _, addresses = await start(
        "--port", "0", "--replicas", "2", "--model", "m", "--time-scale", "0"
    )
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
        "--port", "0", "--model", "m", "--set", "overhead_s=1e9", "--drain-s", "0"
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
        "--model a,b --lora x --lora y --port 9000 --replicas 3 --profile constant-step "
        "--set overhead_s=0.5 --set tensor_parallel=2 --num-blocks 100 --block-size 8 "
        "--max-num-batched-tokens 512 --time-scale 0.5 --seed 7 "
        "--kv-events-endpoint tcp://*:5557 --kv-events-topic kv"
    )
    options = parse(arguments.split())
    assert options.ports == (9000, 9001, 9002)
    replica = options.replicas[0]
    assert replica.models == ("a", "b")
    assert replica.adapters == ("x", "y")
    assert replica.seed == 7
    engine = replica.engine
    assert (engine.profile.name, engine.time_scale) == ("constant-step", 0.5)
    assert (engine.profile.overhead_s, engine.profile.tensor_parallel) == (0.5, 2)
    limits = engine.limits
    assert (limits.max_model_len, limits.max_loras, limits.max_num_batched_tokens) == (800, 1, 512)
    events = [each.kv_events for each in options.replicas]
    assert [each and each.endpoint for each in events] == [
        f"tcp://*:{port}" for port in (5557, 5558, 5559)
    ]
    assert {each and each.topic for each in events} == {"kv"}


def test_memory_is_the_profiles_and_no_events_are_published_unless_told() -> None:
    (replica,) = parse(["--model", "m"]).replicas
    profile = replica.engine.profile
    assert profile.name == "qwen3-8b-tp1-h100"
    assert replica.engine.limits.num_blocks == profile.kv_blocks(16)
    assert replica.engine.limits.max_model_len == profile.kv_blocks(16) * 16
    assert replica.kv_events is None


def test_a_profile_can_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    write_profile(replace(built_in("constant-step"), name="mine"), file)
    (replica,) = parse(["--model", "m", "--profile", str(file)]).replicas
    assert replica.engine.profile.name == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model"),
        (["--model", "m", "--max-model-len", "999999999"], "raise num_blocks"),
        (["--model", "m", "--replicas", "0"], "--replicas is 0, must be at least 1"),
        (["--model", "m", "--num-blocks", "0"], "num_blocks is 0, must be at least 1"),
        (["--model", "m", "--time-scale", "-1"], "--time-scale is -1.0, must be a number that is"),
        (
            ["--model", "m", "--drain-s", "nan"],
            "--drain-s is nan, must be a number that is not neg",
        ),
        (["--model", "m", "--startup-delay-s", "-1"], "--startup-delay-s is -1.0"),
        (["--model", "m", "--port", "70000"], "ports are 0 to 65535"),
        (["--model", "m", "--port", "65535", "--replicas", "2"], "ports are 0 to 65535"),
        (["--model", "m", "--block-size", "0"], "block_size_tokens is 0, must be at least 1"),
        (["--model", "m", "--max-loras", "-1"], "max_loras is -1, must not be negative"),
        (["--model", "m", "--output-tokens-median", "0"], "median is 0.0 tokens, must be above 0"),
        (["--model", "m", "--output-tokens-sigma", "-1"], "sigma is -1.0, must be 0 to 10"),
        (["--model", "m", "--set", "compute_share=0"], "compute_share is 0.0, must be above 0"),
        (["--model", "m", "--profile", "h900"], "among the built-in ones: codellama"),
        (["--model", "m", "--profile", "./none.yaml"], "none.yaml: No such file"),
        (["--model", "m", "--set", "overhead_s"], "FIELD=VALUE is wanted; fields are tensor_par"),
        (["--model", "m", "--set", "name=x"], "FIELD=VALUE is wanted"),
        (["--model", "m", "--set", "overhead_s=-1"], "overhead_s is a number that is not neg"),
        (["--model", "m", "--set", "tensor_parallel=1.5"], "tensor_parallel is a whole number"),
        (["--model", "m", "--kv-events-replay-endpoint", "x"], "needs --kv-events-endpoint"),
        (["--model", "m", "--fault", '{"kind": "flood"}'], "flood"),
        (["--model", "m", "--lora", "x", "--max-loras", "0"], "need max_loras of at least 1"),
    ],
)
def test_wrong_options_are_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert message in capsys.readouterr().err


async def test_a_dead_engine_ends_the_process_as_vllms_does(
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(self: RealTimeEngine) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(RealTimeEngine, "_catch_up", fail)
    ended = asyncio.create_task(serve(parse(["--model", "m", "--port", "0"])))
    printed = ""
    while "ports=" not in printed:
        await asyncio.sleep(0)
        printed += capsys.readouterr().out
    port = int(printed.rpartition("=")[2])
    body = {"prompt": "hello"}
    async with http.post(f"http://127.0.0.1:{port}/v1/completions", json=body) as response:
        assert response.status == 500
        assert (await response.json())["error"]["type"] == "InternalServerError"
    assert await ended == 1
