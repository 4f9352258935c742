"""Changes of the configuration file under load, without one failed request."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.load import Load
from tests.real.replicas import Replica, stepping

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Replica]]:
    """Three of model ``m``, one of ``other``."""
    folder = tmp_path_factory.mktemp("replicas")
    made = [Replica(folder, *stepping(2), model=model) for model in ("m", "m", "m", "other")]
    await asyncio.gather(*(replica.start() for replica in made))
    yield made
    for replica in made:
        replica.kill()


@pytest.fixture(scope="module")
def config(replicas: list[Replica]) -> Json:
    """What every test begins with."""
    endpoints = [replica.address for replica in replicas[:2]]
    return {
        "pools": [{"name": "chat", "type": "static", "endpoints": endpoints, "default": True}],
        "models": [{"name": "alias", "targets": [{"model": "m"}]}],
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(config: Json, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with Gateway(tmp_path_factory.mktemp("gateway"), config) as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(running: Gateway, config: Json, replicas: list[Replica]) -> Gateway:
    """With the configuration of the beginning."""
    if running.config != config:
        await changed(running, config)
    await running.healthy(*(replica.address for replica in replicas[:2]))
    return running


async def changed(gateway: Gateway, config: Json) -> None:
    """Write the file and return when the change is in force."""

    async def version() -> object:
        told = (await gateway.status())["config"]
        assert isinstance(told, dict)
        assert told["refused"] is None, told["refused"]
        return told["version"]

    before = await version()
    gateway.write(config)

    async def in_force() -> bool:
        return await version() != before

    await eventually(in_force, "the change is in force")


async def post(gateway: Gateway, path: str, body: Json) -> tuple[int, Json]:
    """Status and JSON."""
    async with (
        aiohttp.ClientSession(gateway.url) as session,
        session.post(path, json=body) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_pool_comes_and_goes(
    gateway: Gateway, config: Json, replicas: list[Replica]
) -> None:
    wider: Any = copy.deepcopy(config)
    wider["pools"].append({"name": "second", "type": "static", "endpoints": [replicas[3].address]})
    body: Json = {"model": "other", "prompt": "x", "max_tokens": 2}
    async with Load(gateway.url) as load:
        assert (await post(gateway, "/v1/completions", body))[0] == 404
        await changed(gateway, wider)

        async def served() -> bool:
            status, _ = await post(gateway, "/v1/completions", body)
            assert status in (404, 503, 200)
            return status == 200

        await eventually(served, "the new pool serves")
        async with Load(gateway.url, "other", clients=2) as other:
            await load.more(50)
        await changed(gateway, config)

        async def unknown() -> bool:
            status, _ = await post(gateway, "/v1/completions", body)
            assert status in (200, 404, 503)
            return status == 404

        await eventually(unknown, "the removed pool is not known")
        await load.more(50)
    assert (load.failures, other.failures) == ([], [])


async def test_a_stream_outlives_its_pool(
    gateway: Gateway, config: Json, replicas: list[Replica]
) -> None:
    wider: Any = copy.deepcopy(config)
    wider["pools"].append({"name": "brief", "type": "static", "endpoints": [replicas[3].address]})
    await changed(gateway, wider)
    await gateway.healthy(*(replicas[n].address for n in (0, 1, 3)))
    body: Json = {"model": "other", "prompt": "x", "max_tokens": 500, "stream": True}
    async with (
        aiohttp.ClientSession(gateway.url) as session,
        session.post("/v1/completions", json=body) as answer,
    ):
        await answer.content.readline()
        await changed(gateway, config)
        assert (await answer.text()).endswith("data: [DONE]\n\n")


async def test_replicas_of_a_removed_pool_finish_and_then_end(
    gateway: Gateway, config: Json
) -> None:
    wider: Any = copy.deepcopy(config)
    wider["pools"].append({"name": "own", "type": "simulated", "replicas": 1, "model": "own-m"})
    await changed(gateway, wider)
    body: Json = {
        "model": "own-m",
        "prompt": "x",
        "max_tokens": 250,
        "stream": True,
        "ignore_eos": True,
    }

    found: list[psutil.Process] = []

    async def served() -> bool:
        status: Any = await gateway.status()
        found.extend(
            psutil.Process(pool["replicas"][0]["pid"])
            for pool in status["pools"]
            if pool["name"] == "own" and any(one["healthy"] for one in pool["endpoints"])
        )
        return bool(found)

    await eventually(served, "the replica serves")
    replica = found[0]
    async with (
        aiohttp.ClientSession(gateway.url) as session,
        session.post("/v1/completions", json=body) as answer,
    ):
        await answer.content.readline()
        await changed(gateway, config)
        assert replica.is_running()
        assert (await answer.text()).endswith("data: [DONE]\n\n")

    async def ended() -> bool:
        return not replica.is_running()

    await eventually(ended, "its replica has ended")


async def test_the_kind_of_a_pool_changes(
    gateway: Gateway, config: Json, replicas: list[Replica]
) -> None:
    """From addresses to replicas of its own, which take their time to start, and back."""
    simulated: Any = copy.deepcopy(config)
    simulated["pools"] = [
        {"name": "chat", "type": "simulated", "replicas": 1, "model": "m", "default": True}
    ]
    given = {replica.address for replica in replicas[:2]}
    async with Load(gateway.url) as load, Load(gateway.url, clients=2, max_tokens=400) as long:
        await changed(gateway, simulated)
        await load.more(30)

        async def only_ours() -> bool:
            healthy = {a for a, one in (await gateway.endpoints()).items() if one["healthy"]}
            return len(healthy) == 1 and not healthy & given

        await eventually(only_ours, "its own replica serves alone", timeout_s=60)
        await load.more(30)
        await changed(gateway, config)
        await gateway.healthy(*given)
        await load.more(30)
    assert (load.failures, long.failures) == ([], [])


async def test_an_alias_comes_and_moves(gateway: Gateway, config: Json) -> None:
    longer: Any = copy.deepcopy(config)
    longer["models"].append({"name": "new-alias", "targets": [{"model": "m"}]})
    body: Json = {"model": "new-alias", "prompt": "x", "max_tokens": 2}
    async with Load(gateway.url, "alias") as load:
        assert (await post(gateway, "/v1/completions", body))[0] == 404
        await changed(gateway, longer)

        async def served() -> bool:
            return (await post(gateway, "/v1/completions", body))[0] == 200

        await eventually(served, "the new alias is served")
        assert (await post(gateway, "/v1/completions", body))[1]["model"] == "new-alias"
        await load.more(50)
    assert load.failures == []


async def test_a_profile_changes(gateway: Gateway, config: Json) -> None:
    one_sided: Any = copy.deepcopy(config)
    one_sided["scheduling"] = {
        "profiles": {
            "auto": {"picker": {"name": "weighted-random"}, "scorers": [{"name": "queue"}]}
        },
        "fallbacks": 1,
    }
    async with Load(gateway.url) as load:
        await changed(gateway, one_sided)
        await load.more(50)
        await changed(gateway, config)
        await load.more(50)
    assert load.failures == []


async def test_the_listener_changes(gateway: Gateway, config: Json) -> None:
    tighter: Any = copy.deepcopy(config)
    tighter["listen"] = {"max_body_bytes": 4096, "stream_idle_timeout_s": 60.0}
    body: Json = {"model": "m", "prompt": "x" * 5000, "max_tokens": 2}
    async with Load(gateway.url) as load, Load(gateway.url, clients=2, max_tokens=800) as long:
        assert (await post(gateway, "/v1/completions", body))[0] == 200
        for wanted, status in ((tighter, 413), (config, 200)):
            await changed(gateway, wanted)

            async def so(status: int = status) -> bool:
                return (await post(gateway, "/v1/completions", body))[0] == status

            await eventually(so, f"a body of 5,000 bytes is answered with {status}")
            await load.more(50)
    assert (load.failures, long.failures) == ([], [])


async def test_endpoints_come_and_go(
    gateway: Gateway, config: Json, replicas: list[Replica]
) -> None:
    a, b, c = (replica.address for replica in replicas[:3])
    async with Load(gateway.url) as load, Load(gateway.url, clients=2, max_tokens=400) as long:
        for members in ([a, b, c], [c], [a, b], [a], [a, b]):
            changing: Any = copy.deepcopy(config)
            changing["pools"][0]["endpoints"] = members
            await changed(gateway, changing)
            await gateway.healthy(*members)
            await load.more(30)
    assert (load.failures, long.failures) == ([], [])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pools: [", "YAML"),
        ("pools:\n  - {name: chat, type: static, endpoints: [nowhere]}\n", "endpoints"),
        ("listen: {prot: 1}\n", "prot"),
        ("pools: []\nmodels:\n  - {name: a, targets: [{model: b, pool: none}]}\n", "none"),
    ],
)
async def test_a_wrong_file_is_refused_and_the_old_one_stays(
    gateway: Gateway, config: Json, text: str, told: str
) -> None:
    async with Load(gateway.url) as load:
        gateway.write_text(text)

        async def refused() -> bool:
            state = (await gateway.status())["config"]
            assert isinstance(state, dict)
            return state["refused"] is not None and told in str(state["refused"])

        await eventually(refused, f"the status tells of {told}")
        await load.more(20)
    assert load.failures == []
    assert "is refused, the old one stays" in gateway.logs()
    assert told in gateway.output()
    gateway.write(config)

    async def accepted() -> bool:
        state = (await gateway.status())["config"]
        assert isinstance(state, dict)
        return state["refused"] is None

    await eventually(accepted, "the good file is in force again")
