"""A client that leaves: everything it held is given back at once, and it pays what it got."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime

import aiohttp
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.replicas import STEADY, Replica

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

CHAT: Json = {"messages": [{"role": "user", "content": "hello"}]}
CONTINUOUS: Json = {"include_usage": True, "continuous_usage_stats": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replica]:
    async with Replica(tmp_path_factory.mktemp("abort"), *STEADY) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    replica: Replica, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    config: Json = {
        "pools": [{"name": "chat", "type": "static", "endpoints": [replica.address]}],
        "models": [{"name": "alias", "targets": [{"model": "m"}]}],
        "identity": {"anonymous": "acme"},
        "tenants": [
            {
                "name": "acme",
                "limits": [{"count": "total_tokens", "limit": 10**9, "period": "day"}],
            }
        ],
    }
    async with Gateway(tmp_path_factory.mktemp("gateway"), config) as running:
        yield running


async def logged(gateway: Gateway, request_id: str) -> Json:
    """The request's line in the request log, as soon as it is there."""
    found: list[Json] = []

    async def there() -> bool:
        found[:] = [one for one in gateway.request_log() if one["request_id"] == request_id]
        return bool(found)

    await eventually(there, f"a log line of {request_id}")
    (line,) = found
    return line


@pytest.mark.parametrize(
    ("path", "body", "counted"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "m"}, b'"delta":{"content":'),
        ("/v1/chat/completions", {**CHAT, "model": "alias"}, b'"delta":{"content":'),
        ("/v1/chat/completions", {**CHAT, "model": "m", "n": 3}, b'"delta":{"content":'),
        (
            "/v1/chat/completions",
            {**CHAT, "model": "m", "stream_options": CONTINUOUS},
            b'"delta":{"content":',
        ),
        ("/v1/completions", {"model": "m", "prompt": "hello"}, b'"text":'),
        ("/v1/messages", {**CHAT, "model": "m"}, b"event: content_block_delta"),
        ("/v1/responses", {"model": "m", "input": "hello"}, b"event: response.output_text.delta"),
    ],
)
async def test_in_mid_stream(
    gateway: Gateway, replica: Replica, path: str, body: Json, counted: bytes
) -> None:
    async def runs() -> bool:
        return await replica.running() == body.get("n", 1) and await gateway.in_flight() == 1

    request_id = f"abort-{time.monotonic_ns()}"
    asked = {**body, "max_tokens": 5000, "stream": True}
    async with aiohttp.ClientSession(gateway.url) as session:
        answer = await session.post(path, json=asked, headers={"x-request-id": request_id})
        assert answer.status == 200, await answer.text()
        chunks = 0
        async for line in answer.content:
            chunks += counted in line
            if chunks == 25:
                break
        await eventually(runs, "the request runs")
        while answer.content.total_bytes and not answer.content.at_eof():  # what is here already
            waiting = answer.content.read_nowait()
            if not waiting:
                break
            chunks += waiting.count(counted)
        left_s = time.time()
        answer.close()
    told = await logged(gateway, request_id)
    ended_s = datetime.fromisoformat(str(told["time"])).timestamp()
    print(f"{path}: the picker knew after {(ended_s - left_s) * 1e3:.0f} ms")
    assert ended_s - left_s < 1
    assert told["reason"] == "client_aborted"
    # A step's tokens, one of each choice, may be on their way while the client leaves.
    assert abs(int(str(told["output_tokens"])) - chunks) <= int(str(body.get("n", 1)))
    assert told["input_tokens"] != 0

    async def nothing_runs() -> bool:
        return await replica.running() == 0 and await gateway.in_flight() == 0

    await eventually(nothing_runs, "nothing runs after the client left", timeout_s=5)


async def test_its_prompt_is_what_the_engine_counts(gateway: Gateway) -> None:
    """Digits look dear: they are estimated at a token each, and are four to a token here."""
    request_id = f"abort-{time.monotonic_ns()}"
    body = {"model": "m", "prompt": "1234" * 2_000, "max_tokens": 5000, "stream": True}
    async with aiohttp.ClientSession(gateway.url) as session:
        answer = await session.post(
            "/v1/completions", json=body, headers={"x-request-id": request_id}
        )
        await answer.content.readuntil(b"\n\n")
        answer.close()
        async with session.post("/tokenize", json={"model": "m", "prompt": body["prompt"]}) as said:
            truth = (await said.json())["count"]
    told = await logged(gateway, request_id)
    assert (told["reason"], told["usage_reported"]) == ("client_aborted", False)
    assert told["input_tokens"] == truth < 2_500


@pytest.mark.parametrize("stream", [True, False])
async def test_before_the_answer(gateway: Gateway, replica: Replica, stream: bool) -> None:
    body = {**CHAT, "model": "m", "max_tokens": 5000, "stream": stream}

    async def runs() -> bool:
        return await replica.running() == 8 and await gateway.in_flight() == 8

    async def nothing_runs() -> bool:
        return await replica.running() == 0 and await gateway.in_flight() == 0

    async with aiohttp.ClientSession(gateway.url) as session:
        asked = [
            asyncio.create_task(session.post("/v1/chat/completions", json=body)) for _ in range(8)
        ]
        await eventually(runs, "eight requests run")
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    await eventually(nothing_runs, "nothing runs after the clients left", timeout_s=5)


async def test_many_at_once(gateway: Gateway, replica: Replica) -> None:
    body = {**CHAT, "model": "m", "max_tokens": 5000, "stream": True}

    async def read_a_little() -> None:
        async with session.post("/v1/chat/completions", json=body) as answer:
            await answer.content.readline()

    async def nothing_runs() -> bool:
        return await replica.running() == 0 and await gateway.in_flight() == 0

    async with aiohttp.ClientSession(gateway.url) as session:
        await asyncio.gather(*(read_a_little() for _ in range(60)))
    await eventually(nothing_runs, "nothing runs after the clients left", timeout_s=5)
