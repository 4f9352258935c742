"""200 requests at the same time, room for ten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.limits.accounts import (
    held,
    key_of,
    left,
    limit,
    redis_store,
    settled,
    tenant,
)
from tests.real.limits.asking import Api, Ask, Outcome, send
from tests.real.replicas import STEADY, Replica
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

ROOM: Final = 10
CLIENTS: Final = 200
INPUT, OUTPUT = 20, 5
EACH: Final = INPUT + OUTPUT
TENANTS: Final = ("requests", "anthropic", "tokens", "money", "together")
ASK: Final = Ask(Api.COMPLETIONS, tuple(range(1, INPUT + 1)), max_tokens=OUTPUT, stream=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("concurrency")
    async with Replica(folder, *STEADY) as replica:
        config: Json = {
            "picker": {"workers": 4},
            "envoy": {"concurrency": 2},
            "limits": {"store": redis_store(server.url, timeout_ms=2_000)},
            "pricing": {"models": [{"model": "*", "input": 1, "output": 1}]},
            "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
            "tenants": [
                # What comes back meanwhile is not enough for an eleventh request.
                tenant("requests", limit("requests", 1, "minute", burst=ROOM)),
                tenant("anthropic", limit("requests", 1, "minute", burst=ROOM)),
                tenant("tokens", limit("total_tokens", 1, "minute", burst=ROOM * EACH)),
                tenant("money", limit("cost", ROOM * EACH / 1e6, "day")),
                tenant("together", limit("concurrency", ROOM)),
            ],
        }
        async with Gateway(folder / "gateway", config) as running:
            yield running


async def all_at_once(gateway: Gateway, tenant: str, ask: Ask) -> list[Outcome]:
    """Each on a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(gateway.url, connector=connector) as session:
        key = key_of(tenant)
        return await asyncio.gather(*(send(session, ask, key) for _ in range(CLIENTS)))


def sorted_out(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Those that were admitted, and the others, which are 429."""
    admitted = [one for one in outcomes if one.status == 200]
    refused = [one for one in outcomes if one.status != 200]
    assert {one.status for one in refused} <= {429}
    assert (len(admitted), len(refused)) == (ROOM, CLIENTS - ROOM)
    return admitted, refused


def error_of(outcome: Outcome) -> Json:
    found = outcome.error["error"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("api", [Api.COMPLETIONS, Api.MESSAGES], ids=["openai", "anthropic"])
async def test_requests(gateway: Gateway, api: Api) -> None:
    """Told as the API tells it."""
    anthropic = api is Api.MESSAGES
    name = "anthropic" if anthropic else "requests"
    ask = replace(ASK, api=api, prompt="hello") if anthropic else ASK
    admitted, refused = sorted_out(await all_at_once(gateway, name, ask))
    left_over = sorted(int(one.headers["x-ratelimit-remaining-requests"]) for one in admitted)
    assert left_over == list(range(ROOM))
    for one in refused:
        assert one.headers["x-ratelimit-limit-requests"] == str(ROOM)
        assert one.headers["x-ratelimit-remaining-requests"] == "0"
        assert one.headers["x-ratelimit-reset-requests"].endswith("s")
        assert 1 <= int(one.headers["retry-after"]) <= 60
        error = error_of(one)
        assert f"requests-per-minute of tenant {name}" in str(error["message"])
        if anthropic:
            assert one.error["type"] == "error"
            assert error["type"] == "rate_limit_error"
            assert one.headers["anthropic-ratelimit-requests-remaining"] == "0"
        else:
            assert error["type"] == "requests"
            assert error["code"] == "rate_limit_exceeded"
    await settled(gateway, ROOM, tenant=name)


async def test_tokens(gateway: Gateway) -> None:
    admitted, refused = sorted_out(await all_at_once(gateway, "tokens", ASK))
    left_over = sorted(int(one.headers["x-ratelimit-remaining-tokens"]) for one in admitted)
    assert [tokens // EACH for tokens in left_over] == list(range(ROOM))
    for one in refused:
        assert one.headers["x-ratelimit-limit-tokens"] == str(ROOM * EACH)
        assert int(one.headers["x-ratelimit-remaining-tokens"]) < EACH
        # A token a minute, and a whole request's are missing, but for what came back by then.
        assert 60 * (EACH - 5) < int(one.headers["retry-after"]) <= 60 * EACH
        error = error_of(one)
        assert error["type"] == "tokens"
        assert error["code"] == "rate_limit_exceeded"
        assert f"requested {EACH}" in str(error["message"])
    row = await settled(gateway, ROOM, tenant="tokens")
    assert (row.input_tokens, row.output_tokens) == (ROOM * INPUT, ROOM * OUTPUT)


async def test_money(gateway: Gateway) -> None:
    _, refused = sorted_out(await all_at_once(gateway, "money", ASK))
    for one in refused:
        error = error_of(one)
        assert error["type"] == "insufficient_quota"
        assert error["code"] == "insufficient_quota"
        assert int(one.headers["retry-after"]) > 0
    row = await settled(gateway, ROOM, tenant="money")
    assert row.cost_micros == ROOM * EACH


async def test_together(gateway: Gateway, server: RedisServer) -> None:
    """Ten streams go on until all others have been refused; then their places are free again."""
    endless = replace(ASK, max_tokens=50_000, stream=True)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(gateway.url, connector=connector) as session:
        asked = [
            asyncio.create_task(send(session, endless, key_of("together"))) for _ in range(CLIENTS)
        ]

        async def told() -> bool:
            return sum(task.done() for task in asked) >= CLIENTS - ROOM

        await eventually(told, "all but ten have been refused", timeout_s=30)
        assert (await left(gateway, tenant="together"))["concurrency"].used == ROOM
        admitted = [task for task in asked if not task.done()]
        assert len(admitted) == ROOM
        for task in asked:
            if task.done():
                one = task.result()
                assert one.status == 429
                assert one.headers["retry-after"] == "1"
                assert error_of(one)["code"] == "rate_limit_exceeded"
                assert "requests at once" in str(error_of(one)["message"])
        for task in admitted:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    async def free() -> bool:
        return (await left(gateway, tenant="together"))["concurrency"].idle

    await eventually(free, "their places are free again")
    await settled(gateway, ROOM, tenant="together")
    assert not held(server, TENANTS)
