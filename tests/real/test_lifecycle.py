"""`penstock up` as a process: parts that die, signals, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest
import pytest_asyncio

from gateway.config.schema.sections import EnvoyProxy
from gateway.envoy.proxy import binary
from tests.real.gateway import Gateway, Json, eventually
from tests.real.load import Load
from tests.real.replicas import STEADY, Replica, stepping

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

_CUT = "not completed"
"""A picker that dies in the instant after its decision takes that answer with it."""
_DELAYED_CLOSE_S = 1.5
"""Envoy lets a client know of that as late as 1 s."""
CHAT: Json = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replica]:
    async with Replica(tmp_path_factory.mktemp("replica"), *STEADY, *stepping(4)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    replica: Replica, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """For tests after which it runs on as before. Penstock chooses the run directory, whose path
    Envoy quotes in its details of a failure."""
    folder = tmp_path_factory.mktemp("gateway")
    async with Gateway(folder, static(replica), run_dir=False) as running:
        yield running


def static(replica: Replica) -> Json:
    """A pool of one replica that outlives the gateway."""
    endpoints = [replica.address]
    pool = {"name": "chat", "type": "static", "endpoints": endpoints, "default": True}
    return {"pools": [pool]}


def simulated(**options: object) -> Json:
    """A pool of replicas that the gateway starts itself."""
    pool = {"name": "chat", "type": "simulated", "model": "m", "replicas": 2, **options}
    return {"pools": [pool]}


async def chat_status(gateway: Gateway) -> int:
    """Of one request on a new connection; 0 when there is no connection."""
    try:
        async with (
            aiohttp.ClientSession(gateway.url) as session,
            session.post("/v1/chat/completions", json=CHAT) as answer,
        ):
            return answer.status
    except aiohttp.ClientConnectionError:
        return 0


async def serving(gateway: Gateway, wanted: int = 200) -> float:
    """Seconds until a request gets this status."""

    async def so() -> bool:
        return await chat_status(gateway) == wanted

    return await eventually(so, f"a request is answered with {wanted}")


async def nothing_in_flight(gateway: Gateway) -> None:
    """Returns when it is so."""

    async def so() -> bool:
        return await gateway.in_flight() == 0

    await eventually(so, "nothing is in flight")


async def test_envoy_killed_is_started_again(gateway: Gateway) -> None:
    (pid,) = gateway.pids("envoy")
    os.kill(pid, signal.SIGKILL)
    took_s = await serving(gateway)
    print(f"served again after {took_s:.2f} s")
    assert gateway.pids("envoy") not in ([], [pid])

    async def ready_again() -> bool:
        envoy = (await gateway.status())["envoy"]
        assert isinstance(envoy, dict)
        return (envoy["state"], envoy["restarts"]) == ("ready", 1)

    await eventually(ready_again, "the status tells of the restart")
    assert "SIGKILL" in gateway.output()
    await nothing_in_flight(gateway)


async def test_streams_that_envoys_death_ended_do_not_stay_in_flight(gateway: Gateway) -> None:
    """Nobody reports their end: the replica that has become idle does."""
    async with aiohttp.ClientSession(gateway.url) as session:
        body = {**CHAT, "max_tokens": 5000, "stream": True}
        answers = [await session.post("/v1/chat/completions", json=body) for _ in range(5)]
        os.kill(gateway.pids("envoy")[0], signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await answers[0].text()
    await nothing_in_flight(gateway)
    await serving(gateway)


async def test_an_envoy_that_cannot_start_says_why(tmp_path: Path, replica: Replica) -> None:
    wrapper = tmp_path / "envoy"
    wrapper.write_text(f'#!/bin/sh\nexec {binary(EnvoyProxy())} --no-such-option "$@"\n')
    wrapper.chmod(0o755)
    config = {**static(replica), "envoy": {"binary": str(wrapper)}}
    gateway = Gateway(tmp_path, config)
    gateway.launch()
    assert await gateway.exited() == 1
    assert "Couldn't find match for argument" in gateway.output()  # Envoy's own words
    assert "Traceback" not in gateway.output()
    await gateway.stop()


async def test_a_rotated_log_and_sighup(gateway: Gateway) -> None:
    await serving(gateway)
    gateway.log_file.rename(gateway.log_file.with_suffix(".1"))
    os.kill(gateway.pid, signal.SIGHUP)

    async def opened() -> bool:
        return await chat_status(gateway) == 200 and bool(gateway.request_log())

    await eventually(opened, "the request log goes on in a new file")


@pytest.mark.parametrize("port", ["listen", "admin"])
async def test_a_taken_port_is_named(tmp_path: Path, replica: Replica, port: str) -> None:
    gateway = Gateway(tmp_path, static(replica))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", gateway.port if port == "listen" else gateway.admin_port))
        other.listen()
        gateway.launch()
        assert await gateway.exited() == 1
    assert "cannot listen on 127.0.0.1" in gateway.output()
    assert f"{port}.port" in gateway.output()
    assert "Traceback" not in gateway.output()
    await gateway.stop()


async def test_the_only_picker_killed_under_load(gateway: Gateway) -> None:
    failures = await picker_killed_under_load(gateway, workers=1)
    assert failures > 0


async def test_one_of_two_pickers_killed_under_load(tmp_path: Path, replica: Replica) -> None:
    config = {**static(replica), "picker": {"workers": 2, "failure_mode": "open"}}
    async with Gateway(tmp_path, config, run_dir=False) as two:
        failures = await picker_killed_under_load(two, workers=2)
    assert failures <= 4  # at most those being decided: one a client


async def picker_killed_under_load(gateway: Gateway, *, workers: int) -> int:
    """Kill the first one; the number of requests that failed until it was back."""

    async def first_picker() -> Json:
        pickers = (await gateway.status())["pickers"]
        assert isinstance(pickers, list)
        first: Json = pickers[0]
        return first

    pids = gateway.pids("gateway.run.worker")
    assert len(pids) == workers
    async with Load(gateway.url) as load:
        os.kill(pids[0], signal.SIGKILL)

        async def restarted() -> bool:
            first = await first_picker()
            return (first["restarts"], first["state"]) == (1, "ready")

        took_s = await eventually(restarted, "the picker is back")
        await serving(gateway)
        await asyncio.sleep(_DELAYED_CLOSE_S)
        during = len(load.failures)
        await load.more(100)
    print(f"{workers}: {during} of {load.done} requests failed, back in {took_s:.2f} s")
    assert len(load.failures) == during
    for failure in load.failures:
        told = '"code":"picker_unavailable"' in failure.replace(": ", ":")
        assert (failure.startswith("503 ") and told) or _CUT in failure
    await nothing_in_flight(gateway)
    return during


async def test_a_killed_replica_of_ours_is_started_again(tmp_path: Path) -> None:
    async with Gateway(tmp_path, simulated(time_scale=0.1)) as gateway:
        async with Load(gateway.url) as load:
            pids = gateway.pids("loadtests.sim")
            assert len(pids) == 2
            os.kill(pids[0], signal.SIGKILL)

            async def two_again() -> bool:
                told = await gateway.endpoints()
                return len(told) == 2 and all(one["healthy"] for one in told.values())

            await eventually(two_again, "two replicas get requests")
            await load.more(50)
        cut_off = [one for one in load.failures if "stream=True" in one]
        assert load.failures == cut_off
        assert len(cut_off) <= 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_after_the_running_streams(
    tmp_path: Path, number: signal.Signals
) -> None:
    gateway = Gateway(tmp_path, simulated(), run_dir=False)
    async with gateway:
        (run_dir,) = gateway.temp_dir.glob("penstock-*")
        async with aiohttp.ClientSession(gateway.url) as session:
            body = {**CHAT, "max_tokens": 200, "stream": True}
            streams = [await session.post("/v1/chat/completions", json=body) for _ in range(6)]
            assert len(gateway.family()) >= 5
            gateway.signal(number)
            await serving(gateway, 0)
            texts = [await stream.text() for stream in streams]
        assert all(text.endswith("data: [DONE]\n\n") for text in texts)
        assert all(text.count("data: ") == 202 for text in texts)  # role, tokens, [DONE]
        assert await gateway.exited() == 0
        assert not run_dir.exists()
    assert "Stopping; running requests have 30 s to finish." in gateway.output()
    assert "Traceback" not in gateway.output()


async def test_a_second_signal_does_not_wait(tmp_path: Path, replica: Replica) -> None:
    async with (
        Gateway(tmp_path, static(replica)) as gateway,
        aiohttp.ClientSession(gateway.url) as session,
    ):
        body = {**CHAT, "max_tokens": 10_000, "stream": True}
        stream = await session.post("/v1/chat/completions", json=body)
        gateway.signal(signal.SIGTERM)
        await serving(gateway, 0)
        os.kill(gateway.pid, signal.SIGTERM)
        assert await gateway.exited(timeout_s=15) == 0
        with pytest.raises(aiohttp.ClientError):
            await stream.text()


async def test_a_signal_while_it_starts(tmp_path: Path) -> None:
    config = simulated()
    config["pools"] = [
        {
            "name": "slow",
            "type": "process",
            "command": [sys.executable, "-c", "import time; time.sleep(600)", "{port}"],
        }
    ]
    gateway = Gateway(tmp_path, config)
    gateway.launch()

    async def begun() -> bool:
        return len(gateway.family()) > 2

    await eventually(begun, "it has started something")
    await gateway.stop()


async def test_a_killed_supervisor_takes_everything_along(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, {**simulated(), "picker": {"workers": 2}})
    await gateway.start()
    family = gateway.family()
    assert len(family) == 1 + 1 + 2 + 2
    gateway.signal(signal.SIGKILL)
    assert await gateway.exited() == -signal.SIGKILL

    async def all_gone() -> bool:
        return not [one for one in family if psutil.pid_exists(one.pid) and one.is_running()]

    await eventually(all_gone, "no process is left", timeout_s=10)
    await gateway.stop()
