"""Many requests over few and many connections, and TLS on both sides."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from gateway.run.certificates import write_self_signed
from tests.real.gateway import Gateway, Json
from tests.real.replicas import FAST, Recorder, Replica

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

BODY: Json = {"model": "m", "prompt": "hello", "max_tokens": 1}


class Uvicorn(Recorder):
    """Closes an idle connection after 20 ms, as vLLM's server does after 5 s."""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", self._record)
        self._runner = web.AppRunner(app, keepalive_timeout=0.02)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("connections")
    async with (
        Replica(folder, *FAST) as one,
        Replica(folder, *FAST) as two,
        Uvicorn("hasty") as three,
        Recorder("hasty") as four,
    ):
        config: Json = {
            "pools": [
                {"name": "chat", "type": "static", "endpoints": [one.address, two.address]},
                {"name": "hasty", "type": "static", "endpoints": [three.address, four.address]},
            ]
        }
        async with Gateway(folder, config) as running:
            await running.healthy(one.address, two.address, three.address, four.address)
            yield running


async def test_a_thousand_requests_one_after_the_other(gateway: Gateway) -> None:
    async with aiohttp.ClientSession(gateway.url) as session:
        for _ in range(1000):
            async with session.post("/v1/completions", json=BODY) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()


async def test_two_hundred_at_once(gateway: Gateway) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(gateway.url, connector=connector) as session:
        for _ in range(3):
            answers = await asyncio.gather(
                *(session.post("/v1/completions", json=BODY) for _ in range(200))
            )
            assert {answer.status for answer in answers} == {200}
            await asyncio.gather(*(answer.read() for answer in answers))


async def test_replicas_that_close_idle_connections_soon(gateway: Gateway) -> None:
    """A request that meets the closing of its connection goes to the second choice."""
    async with aiohttp.ClientSession(gateway.url) as session:

        async def ask(pause_s: float) -> None:
            for _ in range(25):
                body = {**BODY, "model": "hasty"}
                async with session.post("/v1/completions", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                await asyncio.sleep(pause_s)

        await asyncio.gather(*(ask(0.019 + n * 0.0004) for n in range(8)))


async def test_tls_to_clients_and_to_replicas(tmp_path: Path) -> None:
    pem = tmp_path / "both.pem"
    write_self_signed(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    recorder = Recorder("secure")
    app = web.Application()
    app.router.add_get("/metrics", recorder._metrics)
    app.router.add_get("/v1/models", recorder._models)
    app.router.add_route("*", "/{path:.*}", recorder._record)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", recorder.port, ssl_context=context).start()
    config: Json = {
        "listen": {"tls": {"certificate": {"file": str(pem)}, "key": {"file": str(pem)}}},
        "pools": [
            {
                "name": "secure",
                "type": "static",
                "endpoints": [recorder.address],
                "tls": {"verify": False},
            }
        ],
    }
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    try:
        async with Gateway(tmp_path, config) as gateway, aiohttp.ClientSession() as session:
            url = f"https://127.0.0.1:{gateway.port}/v1/completions"
            async with session.post(url, json={**BODY, "model": "secure"}, ssl=client) as answer:
                assert (answer.status, await answer.json()) == (200, {})
            with pytest.raises(aiohttp.ClientError):
                await session.post(gateway.url + "/v1/completions", json=BODY)
    finally:
        await runner.cleanup()
