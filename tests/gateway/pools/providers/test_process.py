"""Process pools over real child processes that serve HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from gateway.config.reading.secrets import HostSecrets
from gateway.config.schema.pools import ProcessPool, Ready, Restart, SimulatedPool, StaticPool, Stop
from gateway.config.schema.secret import SecretContext
from gateway.pools.provider import ReplicaState
from gateway.pools.providers.process import ReplicaProcesses, process_plan
from picker.state.spec import EndpointSpec

SERVER = Path(__file__).with_name("server.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


Config = Callable[..., ProcessPool]


@pytest.fixture
def config(folder: Path) -> Config:
    def made(replicas: int = 1, **changes: Any) -> ProcessPool:
        values: dict[str, Any] = {
            "name": "chat",
            "type": "process",
            "replicas": replicas,
            "command": (sys.executable, "-S", str(SERVER), "{host}", "{port}", "index={index}"),
            "cwd": folder,
            "ready": Ready(interval_s=0.02),
            "stop": Stop(grace_s=3),
            "restart": Restart(initial_backoff_s=0.05, max_backoff_s=0.2),
        }
        return ProcessPool(**(values | changes))

    return made


Make = Callable[..., Awaitable[ReplicaProcesses[ProcessPool]]]


@pytest.fixture
async def make(folder: Path) -> AsyncIterator[Make]:
    pools: list[ReplicaProcesses[ProcessPool]] = []
    before = set(psutil.Process().children())

    async def made(
        given: ProcessPool, on_change: Callable[[], None] = lambda: None
    ) -> ReplicaProcesses[ProcessPool]:
        pool = ReplicaProcesses(given, process_plan, on_change=on_change, log_dir=folder / "logs")
        pools.append(pool)
        await pool.start()
        return pool

    yield made
    for pool in pools:
        await pool.stop()
    assert set(psutil.Process().children()) <= before


async def until(condition: Callable[[], object], within_s: float = 15) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


async def get(address: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"http://{address}/") as response:
        return dict(await response.json(content_type=None))


def serving(pool: ReplicaProcesses[ProcessPool]) -> list[str]:
    return [spec.address for spec in pool.endpoints() if not spec.draining]


def draining(pool: ReplicaProcesses[ProcessPool]) -> list[str]:
    return [spec.address for spec in pool.endpoints() if spec.draining]


async def test_replicas_become_endpoints_and_have_their_values_filled_in(
    make: Make, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TOKEN", "hush")
    given = config(2, env={"CUDA_VISIBLE_DEVICES": "{index}", "JSON": '{"a": 1}'})
    secret = ProcessPool.model_validate(
        {**given.model_dump(), "env": {**given.env, "TOKEN": {"env": "HUB_TOKEN"}}},
        context=SecretContext(Path("/"), HostSecrets(os.environ)),
    )
    pool = await make(secret)
    assert pool.endpoints() == ()
    await until(lambda: len(serving(pool)) == 2)
    answers = [await get(address) for address in serving(pool)]
    assert {answer["argv"][3] for answer in answers} == {"index=0", "index=1"}
    assert {answer["env"]["CUDA_VISIBLE_DEVICES"] for answer in answers} == {"0", "1"}
    assert {answer["env"]["JSON"] for answer in answers} == {'{"a": 1}'}
    assert {answer["env"]["TOKEN"] for answer in answers} == {"hush"}
    assert {replica.pid for replica in pool.replicas()} == {answer["pid"] for answer in answers}
    assert "hush" not in repr(pool.replicas()) + repr(pool._plan)


async def test_not_an_endpoint_before_health_says_so(
    make: Make, config: Config, folder: Path
) -> None:
    (folder / "unhealthy").touch()
    pool = await make(config())
    await until(lambda: (folder / "logs" / "chat-0.log").exists())
    await asyncio.sleep(0.2)
    assert pool.endpoints() == ()
    assert pool.replicas()[0].state is ReplicaState.STARTING
    (folder / "unhealthy").unlink()
    await until(lambda: serving(pool))


async def test_a_crash_takes_the_endpoint_away_and_it_comes_back(
    make: Make, config: Config
) -> None:
    told: list[int] = []
    pool: ReplicaProcesses[ProcessPool]
    pool = await make(config(2), lambda: told.append(len(pool.endpoints())))
    await until(lambda: len(serving(pool)) == 2)
    victim = pool.replicas()[0]
    assert victim.pid is not None
    told.clear()
    os.kill(victim.pid, signal.SIGKILL)
    await until(lambda: told == [1], 1)
    await until(lambda: len(serving(pool)) == 2)
    again = pool.replicas()[0]
    assert again.restarts == 1
    assert again.pid != victim.pid
    assert again.last_error is not None
    assert again.last_error.startswith("killed by SIGKILL\n  listening")


async def test_one_that_cannot_start_says_its_own_words(
    make: Make, config: Config, folder: Path
) -> None:
    (folder / "broken").touch()
    pool = await make(config())
    await until(lambda: pool.replicas()[0].restarts >= 2)
    assert pool.replicas()[0].last_error == "exit code 1\n  CUDA out of memory"
    (folder / "broken").unlink()
    await until(lambda: serving(pool))


async def test_fewer_replicas_drain_before_they_end(make: Make, config: Config) -> None:
    pool = await make(config(3))
    await until(lambda: len(serving(pool)) == 3)
    leaving = pool.replicas()[2]
    assert leaving.pid is not None
    assert leaving.address is not None
    pool.reconfigure(config(2))
    assert draining(pool) == [leaving.address]
    await asyncio.sleep(0.1)
    assert psutil.pid_exists(leaving.pid)
    assert (await get(leaving.address))["pid"] == leaving.pid
    pool.drained(leaving.address)
    await until(lambda: len(pool.replicas()) == 2)
    assert not psutil.pid_exists(leaving.pid)
    assert len(serving(pool)) == 2


async def test_draining_ends_after_its_timeout(make: Make, config: Config) -> None:
    pool = await make(config(1))
    await until(lambda: serving(pool))
    pool.reconfigure(config(0, drain_timeout_s=0.1))
    await until(lambda: pool.replicas() == (), 3)


async def test_a_crash_while_draining_ends_it(make: Make, config: Config) -> None:
    pool = await make(config(1))
    await until(lambda: serving(pool))
    pid = pool.replicas()[0].pid
    assert pid is not None
    pool.reconfigure(config(0))
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pool.replicas() == (), 3)


async def test_more_replicas_take_back_the_one_that_drains(make: Make, config: Config) -> None:
    pool = await make(config(2))
    await until(lambda: len(serving(pool)) == 2)
    pids = {replica.pid for replica in pool.replicas()}
    pool.reconfigure(config(1))
    assert len(draining(pool)) == 1
    pool.reconfigure(config(3))
    assert len(serving(pool)) == 2
    await until(lambda: len(serving(pool)) == 3)
    assert pids < {replica.pid for replica in pool.replicas()}


async def test_a_new_command_replaces_one_replica_after_the_other(
    make: Make, config: Config
) -> None:
    pool = await make(config(2))
    await until(lambda: len(serving(pool)) == 2)
    fewest = 2

    async def drain_as_told() -> None:
        nonlocal fewest
        while True:
            fewest = min(fewest, len(serving(pool)))
            for address in draining(pool):
                pool.drained(address)
            await asyncio.sleep(0.005)

    drainer = asyncio.create_task(drain_as_told())
    new = config(2, env={"VERSION": "2"})
    pool.reconfigure(new)
    assert len(draining(pool)) == 1
    await until(
        lambda: (
            all(r.plan.launch.env == new.env and r.ready for r in pool._replicas.values())
            and len(serving(pool)) == 2
        )
    )
    drainer.cancel()
    assert fewest == 1
    assert [(await get(address))["env"]["VERSION"] for address in serving(pool)] == ["2", "2"]


async def test_a_broken_new_command_leaves_the_rest_alone(make: Make, config: Config) -> None:
    pool = await make(config(2))
    await until(lambda: len(serving(pool)) == 2)
    pool.reconfigure(config(2, command=("false", "{port}")))
    pool.drained(draining(pool)[0])
    await until(lambda: any(replica.restarts >= 2 for replica in pool.replicas()))
    assert len(serving(pool)) == 1
    pool.reconfigure(config(2))  # put right: the broken one at once
    await until(lambda: len(serving(pool)) == 2)


async def test_fixed_ports(make: Make, config: Config) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        first = probe.getsockname()[1]
    pool = await make(config(1, first_port=first))
    await until(lambda: serving(pool))
    assert pool.endpoints() == (EndpointSpec(f"127.0.0.1:{first}"),)


async def test_a_fixed_port_that_is_taken_is_told(make: Make, config: Config) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        pool = await make(config(1, first_port=taken))
        await until(lambda: pool.replicas()[0].last_error)
        assert f"port {taken} is used by another program" in str(pool.replicas()[0].last_error)
    await until(lambda: serving(pool))


async def test_listening_on_every_interface_is_reached_by_loopback(
    make: Make, config: Config
) -> None:
    pool = await make(config(1, host="0.0.0.0"))
    await until(lambda: serving(pool))
    assert serving(pool)[0].startswith("127.0.0.1:")


@pytest.mark.parametrize("moment_s", [0, 0.02, 0.2])
async def test_stop_at_any_moment_leaves_nothing(
    make: Make, config: Config, moment_s: float
) -> None:
    before = set(psutil.Process().children())
    pool = await make(config(3))
    await asyncio.sleep(moment_s)
    pool.reconfigure(config(1))
    await pool.stop()
    assert set(psutil.Process().children()) <= before
    assert pool.endpoints() == ()
    await pool.stop()


async def test_a_cancelled_stop_leaves_nothing(make: Make, config: Config) -> None:
    before = set(psutil.Process().children())
    pool = await make(config(2))
    await until(lambda: len(serving(pool)) == 2)
    stopping = asyncio.create_task(pool.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert set(psutil.Process().children()) <= before


async def test_another_kind_of_pool_needs_another_provider(make: Make, config: Config) -> None:
    pool = await make(config(0))
    assert not pool.reconfigure(StaticPool(name="chat", type="static", endpoints=()))
    assert not pool.reconfigure(SimulatedPool(name="chat", type="simulated", replicas=1))
    assert pool.replicas() == ()


async def test_it_scales_and_its_configuration_has_the_last_word(
    make: Make, config: Config
) -> None:
    pool = await make(config(1))
    assert pool.scale(2)
    await until(lambda: len(serving(pool)) == 2)
    assert pool.reconfigure(config(1))
    assert len(draining(pool)) == 1


async def test_it_has_left_when_its_last_replica_has_drained(make: Make, config: Config) -> None:
    pool = await make(config(2))
    await until(lambda: len(serving(pool)) == 2)
    leaving = asyncio.create_task(pool.leave())
    await asyncio.sleep(0)
    first, second = draining(pool)
    pool.drained(first)
    await until(lambda: len(pool.replicas()) == 1)
    assert not leaving.done()
    pool.drained(second)
    await leaving
    assert pool.replicas() == ()


async def test_one_that_leaves_can_be_taken_back(make: Make, config: Config) -> None:
    pool = await make(config(1))
    await until(lambda: serving(pool))
    before = serving(pool)
    leaving = asyncio.create_task(pool.leave())
    await asyncio.sleep(0)
    assert draining(pool) == before
    leaving.cancel()
    pool.reconfigure(config(1))
    await asyncio.sleep(0.1)
    assert serving(pool) == before
