"""Somebody else's Envoy, as the examples have it, over a picker of the test's process."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml

import policies.routing  # noqa: F401 - registers the built-in policies
from gateway.config.schema.sections import EnvoyProxy
from gateway.envoy.proxy import binary
from picker.core import Parts, Picker
from picker.server.health import Health
from picker.server.listen import Address, Listeners, Servers
from picker.settings import PickerSettings, PoolSettings
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec
from tests.picker.fleet import IDLE, POOL, Recorder, policy
from tests.real.gateway import eventually
from tests.real.ports import free_port
from tests.real.replicas import Recorder as Replica
from tests.real.spawn import spawn, tail

pytestmark = pytest.mark.envoy

GATEWAYS = Path(__file__).parents[2] / "deploy" / "examples" / "gateways"
CHAT = {"model": "recorded", "messages": [{"role": "user", "content": "hello"}]}


class Foreign:
    """A gateway, and what the picker said of its requests."""

    def __init__(self, port: int, seen: Recorder) -> None:
        self.port, self.seen = port, seen

    async def listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


@asynccontextmanager
async def foreign(
    example: str, replicas: Sequence[str], changes: Mapping[str, str], *, fallbacks: int
) -> AsyncIterator[Foreign]:
    """The example with ports of the test's own, and other ``changes`` of its text."""
    port, picker_port = free_port(), free_port()
    seen = Recorder()
    picker = Picker("p0", Parts(observer=seen), now=time.monotonic, rng=random.Random(1))
    picker.configure(
        PickerSettings(
            pools=(PoolSettings(POOL, policy()),),
            stale_after_s=3600.0,
            foreign_fallbacks=fallbacks,
        )
    )
    picker.pools.sync_endpoints(POOL, [EndpointSpec(address) for address in replicas])
    for address in replicas:
        picker.apply_signals(POOL, address, IDLE, picker.now())
        picker.apply_models(POOL, address, [ServedModel("recorded", None, 32_768)], picker.now())
    listeners = Listeners(None, None, Address("127.0.0.1", picker_port), None)
    servers = Servers(picker, Health(picker), listeners)
    text = (GATEWAYS / example).read_text()
    for old, new in {**changes, "8080": str(port), "9002": str(picker_port)}.items():
        assert old in text, old
        text = text.replace(old, new)
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    file = folder / "envoy.yaml"
    file.write_text(text)
    command = [str(binary(EnvoyProxy())), "-c", str(file), "--use-dynamic-base-id"]
    await servers.start()
    process = spawn([*command, "--concurrency", "1", "--log-level", "error"], folder / "envoy.log")
    made = Foreign(port, seen)
    try:
        await eventually(made.listens, f"{example} listens")
        yield made
    except BaseException:
        print(tail(folder / "envoy.log"))
        raise
    finally:
        process.kill()
        process.wait()
        await servers.stop(0)
        shutil.rmtree(folder, ignore_errors=True)


async def test_a_cluster_that_goes_where_the_picker_says() -> None:
    short = {"request_timeout: 3600s ": "request_timeout: 1s "}
    async with (
        Replica() as one,
        Replica() as other,
        foreign(
            "envoy-original-dst.yaml", [one.address, other.address], short, fallbacks=0
        ) as gateway,
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
    ):
        for _ in range(6):
            answer = await http.post("/v1/chat/completions/", json=CHAT)
            assert answer.status == 200
        assert {seen.path for seen in one.seen + other.seen} == {"/v1/chat/completions"}
        assert len(one.seen + other.seen) == 6
        assert (await http.get("/metrics")).status == 404
        # An upload that stalls ends with the gateway's own answer.
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{"
        )
        status = await asyncio.wait_for(reader.readline(), 20)
        writer.close()
        assert b" 408 " in status
        assert [(x.status, x.reason) for x in gateway.seen.rejections][-1] == (
            408,
            "request_timeout",
        )


async def test_a_cluster_that_takes_a_list() -> None:
    async with Replica() as alive:
        dead = f"127.0.0.1:{free_port()}"
        members = {
            "address: 10.0.0.11, port_value: 8000": f"address: 127.0.0.1, port_value: {alive.port}",
            "address: 10.0.0.12, port_value: 8000": "address: 127.0.0.1, port_value: "
            + dead.rpartition(":")[2],
        }
        async with (
            foreign(
                "envoy-override-host.yaml", [alive.address, dead], members, fallbacks=2
            ) as gateway,
            aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
        ):
            for _ in range(8):
                answer = await http.post("/v1/chat/completions", json=CHAT)
                assert answer.status == 200
            assert len(alive.seen) == 8


@pytest.mark.parametrize("example", ["agentgateway.yaml", "nginx.yaml"])
def test_the_other_examples_are_yaml(example: str) -> None:
    documents = list(yaml.safe_load_all((GATEWAYS / example).read_text()))
    assert all(isinstance(document, dict) for document in documents)
