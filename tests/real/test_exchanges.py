"""The stream between our Envoy and the picker: many at once, long bodies, clients that leave, and a
picker that starts anew."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.picker.fleet import MODEL
from tests.real.edge import ALIAS, Edge
from tests.real.gateway import eventually
from tests.real.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Mirror:
    """A replica that says what model it was asked for, and how long the text was."""

    port: int = field(default_factory=free_port)

    async def answer(self, request: web.Request) -> web.Response:
        asked = json.loads(await request.read())
        size = len(asked["messages"][0]["content"])
        return web.json_response({"model": asked["model"], "size": size, "usage": {}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge() -> AsyncIterator[Edge]:
    mirror = Mirror()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/v1/chat/completions", mirror.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", mirror.port).start()
    async with Edge([f"127.0.0.1:{mirror.port}"]) as made:
        yield made
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="module")
async def http(edge: Edge) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(edge.url, connector=connector) as session:
        yield session
    await eventually(lambda: nothing_left(edge), "nothing is under way")


async def nothing_left(edge: Edge) -> bool:
    return len(edge.picker.flights) == 0 and edge.open_exchanges == 0


async def ask(http: aiohttp.ClientSession, size: int, model: str = MODEL) -> tuple[str, int]:
    """The model and the size that the replica saw."""
    body = {"model": model, "messages": [{"role": "user", "content": "x" * size}]}
    async with http.post("/v1/chat/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        seen = await answer.json()
        return seen["model"], seen["size"]


async def test_many_at_once(http: aiohttp.ClientSession) -> None:
    sizes = [100 if n % 20 else 600_000 for n in range(300)]
    models = [MODEL, ALIAS]
    asked = [ask(http, size, models[n % 3 == 0]) for n, size in enumerate(sizes)]
    assert [size for _, size in await asyncio.gather(*asked)] == sizes


async def test_short_requests_beside_long_ones(http: aiohttp.ClientSession) -> None:
    """The long ones are changed, so that they go both ways."""
    long = [asyncio.create_task(ask(http, 30 << 20, ALIAS)) for _ in range(2)]
    short = 0
    while not all(one.done() for one in long):
        await ask(http, 10)
        short += 1
    assert [one.result() for one in long] == [(ALIAS, 30 << 20)] * 2
    assert short > 0


async def test_clients_that_leave_at_any_moment(http: aiohttp.ClientSession, edge: Edge) -> None:
    rng = random.Random(5)

    async def leaves() -> None:
        asking = asyncio.create_task(ask(http, rng.choice([10, 200_000]), ALIAS))
        await asyncio.sleep(rng.uniform(0, 0.03))
        asking.cancel()
        await asyncio.wait({asking})

    for _ in range(10):
        stays, *_ = await asyncio.gather(ask(http, 10), *(leaves() for _ in range(20)))
        assert stays == (MODEL, 10)
    await eventually(lambda: nothing_left(edge), "nothing is under way")


async def test_a_picker_that_starts_anew_under_load(
    http: aiohttp.ClientSession, edge: Edge
) -> None:
    over = False

    async def client() -> int:
        asked = 0
        while not over:
            assert await ask(http, 1000) == (MODEL, 1000)
            asked += 1
        return asked

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for _ in range(3):
        await asyncio.sleep(0.1)
        await edge.restart_picker()
    await asyncio.sleep(0.1)
    over = True
    assert all(asked > 0 for asked in await asyncio.gather(*clients))
