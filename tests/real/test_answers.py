"""Answers of odd shape: what is read from them, and what reaches the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest
import pytest_asyncio

from tests.picker.server.renames import ASKED, CASES, SERVED
from tests.real.gateway import Gateway, Json, eventually
from tests.real.replicas import PADDING, Scripted

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

SSE = "text/event-stream; charset=utf-8"
USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}\n\n'
DONE = "data: [DONE]\n\n"
ODD_NAME = 'we"ird/na%me\\x'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with Scripted(model="m") as replica:
        config: Json = {
            "listen": {"max_body_bytes": 65536},
            "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
            "models": [
                {"name": "alias", "targets": [{"model": "m"}]},
                {"name": ODD_NAME, "targets": [{"model": "m"}]},
            ],
        }
        async with Gateway(tmp_path_factory.mktemp("answers"), config) as made:
            yield made


async def ask(
    gateway: Gateway,
    answer: Sequence[str],
    *,
    kind: str = SSE,
    model: str = "m",
    request_id: bytes = b"odd",
) -> str:
    """What the client gets when the replica answers with these chunks."""
    body: Json = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": kind == SSE,
        "answer": list(answer),
        "type": kind,
    }
    async with (
        aiohttp.ClientSession(gateway.url) as session,
        session.post(
            "/v1/chat/completions",
            json=body,
            headers={"x-request-id": request_id.decode("utf-8", "surrogateescape")},
        ) as got,
    ):
        assert got.status == 200, await got.text()
        return await got.text()


async def logged(gateway: Gateway, request_id: str) -> Json:
    """The request log's line."""
    found: list[Json] = []

    async def there() -> bool:
        found.extend(line for line in gateway.request_log() if line["request_id"] == request_id)
        return bool(found)

    await eventually(there, f"{request_id} is logged")
    return found[0]


CONTENT = 'data: {"model":"m","choices":[{"delta":{"content":"a"}}]}\n\n'


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([CONTENT, USAGE, DONE], CONTENT + DONE),
        ([CONTENT, USAGE[:20], USAGE[20:] + DONE], CONTENT + DONE),
        (
            ['data: {"choices":[],"usage":null}\n\n', DONE],
            'data: {"choices":[],"usage":null}\n\n' + DONE,
        ),
        (
            ['data: {"error":{"message":"boom"},"choices":[],"usage":{}}\n\n'],
            'data: {"error":{"message":"boom"},"choices":[],"usage":{}}\n\n',
        ),
        (
            ['data: {"choices":[{"logprobs":{"choices":[]}}],"usage":null}\n\n', DONE],
            'data: {"choices":[{"logprobs":{"choices":[]}}],"usage":null}\n\n' + DONE,
        ),
    ],
)
async def test_only_the_usage_chunk_that_we_asked_for_is_taken_out(
    gateway: Gateway, given: list[str], kept: str
) -> None:
    assert await ask(gateway, given) == kept


@pytest.mark.parametrize(
    "name",
    [
        "behind metadata",
        "a document in each line",
        "broken off",
        "chat in events",
        "Responses with CRLF",
        "Messages",
        "an event in two lines",
        "an event without its end",
    ],
)
async def test_the_top_level_name_is_renamed_however_the_answer_is_cut(
    gateway: Gateway, name: str
) -> None:
    case = next(case for case in CASES if case.name == name)
    written, wanted = (
        text.decode().replace(json.dumps(old, ensure_ascii=False), f'"{new}"')
        for text, old, new in ((case.given, SERVED, "m"), (case.wanted, ASKED, "alias"))
    )
    wanted = wanted.replace(json.dumps(SERVED, ensure_ascii=False), '"m"')
    chunks = [written[at : at + 23] for at in range(0, len(written), 23)]
    kind = SSE if case.streamed else "application/json"
    assert await ask(gateway, chunks, kind=kind, model="alias") == wanted


async def test_a_name_in_the_content_is_not_renamed(gateway: Gateway) -> None:
    given = 'data: {"model":"m","choices":[{"delta":{"tool":{"model":"m"}}}]}\n\n'
    kept = 'data: {"model":"alias","choices":[{"delta":{"tool":{"model":"m"}}}]}\n\n'
    assert await ask(gateway, [given, DONE], model="alias") == kept + DONE


async def test_an_odd_name_stays_valid_json(gateway: Gateway) -> None:
    written = ODD_NAME.replace("\\", "\\\\").replace('"', '\\"')
    streamed = await ask(gateway, [CONTENT, DONE], model=ODD_NAME)
    assert streamed == CONTENT.replace('"m"', f'"{written}"') + DONE
    whole = await ask(gateway, ['{"model":"m","x":1}'], kind="application/json", model=ODD_NAME)
    assert whole == f'{{"model":"{written}","x":1}}'


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
async def test_usage_is_read_whatever_the_charset(gateway: Gateway, kind: str) -> None:
    name = f"usage-{len(kind)}"
    usage = '{"usage":{"prompt_tokens":11,"completion_tokens":7}}'
    await ask(gateway, [usage], kind=kind, request_id=name.encode())
    line = await logged(gateway, name)
    assert (line["input_tokens"], line["output_tokens"]) == (11, 7)


@pytest.mark.parametrize("model", ["m", "alias"])
async def test_an_answer_may_be_longer_than_a_request(gateway: Gateway, model: str) -> None:
    answer = '{"model":"m","data":"PADDING"}'
    got = await ask(gateway, [answer], kind="application/json", model=model)
    assert got == answer.replace('"m"', f'"{model}"').replace("PADDING", PADDING)


async def test_an_illegible_request_id_costs_nobody_else_anything(gateway: Gateway) -> None:
    good = [f"good-{n}" for n in range(40)]
    bad = [b"caf\xe9", b"\xff" * 200, b"x" * 20_000] * 4
    await asyncio.gather(
        *(ask(gateway, [CONTENT, DONE], request_id=name.encode()) for name in good),
        *(ask(gateway, [CONTENT, DONE], request_id=name) for name in bad),
    )
    for name in good:
        assert (await logged(gateway, name))["status"] == 200

    async def idle() -> bool:
        return await gateway.in_flight() == 0

    await eventually(idle, "nothing is in flight")


async def test_what_envoy_refuses_itself_is_counted(gateway: Gateway) -> None:
    async with aiohttp.ClientSession(gateway.url) as session:
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "x-request-id": "socket"}
        answer = await session.get("/v1/realtime", headers=upgrade)
        assert answer.status == 403
    line = await logged(gateway, "socket")
    assert (line["status"], line["reason"]) == (403, "upgrade_not_supported")


async def test_connect_is_refused_at_once(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"CONNECT example.test:443 HTTP/1.1\r\nhost: example.test:443\r\n\r\n")
    await writer.drain()
    answer = await asyncio.wait_for(reader.readuntil(b"}}\n"), 10)
    writer.close()
    assert b" 405 " in answer.splitlines()[0]
    assert b"no forward proxy" in answer
