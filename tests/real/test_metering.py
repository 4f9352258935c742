"""However a path is spelled and whatever it answers with: what runs a model is charged for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from tests.real.gateway import Gateway, Json, eventually
from tests.real.replicas import Scripted

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

JSON = "application/json"
SSE = "text/event-stream"
USAGE = '{"usage":{"prompt_tokens":7,"completion_tokens":3}}'
META = '"meta_info":{"prompt_tokens":9,"completion_tokens":%d,"cached_tokens":4}'
LITELLM = '{"usage":{"prompt_tokens":100,"completion_tokens":1,"cache_read_input_tokens":80}}'
CHAT: Json = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("metering")
    limits = [{"count": "total_tokens", "limit": 1_000_000, "period": "day"}]
    async with Scripted(model="m") as replica:
        config: Json = {
            "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
            "identity": {"anonymous": "acme"},
            "tenants": [{"name": "acme", "limits": limits}],
        }
        async with Gateway(folder, config) as made:
            yield made


async def post(
    gateway: Gateway, path: str, body: Mapping[str, object], answer: Sequence[str], kind: str = JSON
) -> tuple[int, str]:
    """Status and body of what the replica answers with these chunks."""
    sent = {"model": "m", **body, "answer": list(answer), "type": kind}
    async with (
        aiohttp.ClientSession() as session,
        session.post(URL(gateway.url + path, encoded=True), json=sent) as got,
    ):
        return got.status, await got.text()


async def charged(gateway: Gateway, before: int) -> tuple[int, int, int]:
    """Input, cached and output tokens of the one request after so many."""

    async def ended() -> bool:
        return len(gateway.request_log()) == before + 1

    await eventually(ended, "the request has ended")
    last = gateway.request_log()[-1]
    tokens = [last[name] for name in ("input_tokens", "cached_tokens", "output_tokens")]
    return int(str(tokens[0])), int(str(tokens[1])), int(str(tokens[2]))


async def test_spellings_and_shapes(gateway: Gateway) -> None:
    stream = [f'data: {{"text":"{"a" * n}",{META % n}}}\n\n' for n in (1, 2, 3)]
    text: Json = {"text": "Hello", "sampling_params": {"max_new_tokens": 4}}
    cases: list[tuple[str, Json, Sequence[str], str, tuple[int, int, int]]] = [
        ("/v1/chat%2fcompletions", CHAT, [USAGE], JSON, (7, 0, 3)),
        ("/v1%2Fchat/%63ompletions", CHAT, [USAGE], JSON, (7, 0, 3)),
        ("//v1//chat%2F%2fcompletions", CHAT, [USAGE], JSON, (7, 0, 3)),
        ("/v1/%2e%2e/v1/chat/completions", CHAT, [USAGE], JSON, (7, 0, 3)),
        ("/v1%5Cchat/completions", CHAT, [USAGE], JSON, (7, 0, 3)),
        ("/invocations", CHAT, [USAGE], JSON, (7, 0, 3)),
        ("/generate", text, [f'{{"text":"aaa",{META % 3}}}'], JSON, (9, 4, 3)),
        ("/generate", {**text, "stream": True}, stream, SSE, (9, 4, 3)),
        ("/v1/chat/completions", CHAT, [LITELLM], JSON, (100, 80, 1)),
    ]
    for path, body, answer, kind, tokens in cases:
        before = len(gateway.request_log())
        status, _ = await post(gateway, path, body, answer, kind)
        assert status == 200, path
        assert await charged(gateway, before) == tokens, path


async def test_a_lax_flag_is_a_stream_whose_usage_is_asked_for(gateway: Gateway) -> None:
    before = len(gateway.request_log())
    chunk = 'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
    _, text = await post(gateway, "/v1/chat/completions", {**CHAT, "stream": 1}, [chunk], SSE)
    assert text == ""
    assert await charged(gateway, before) == (7, 0, 3)


@pytest.mark.parametrize("path", ["/api/generate", "/cohere/v2/chat", "/encode"])
async def test_what_cannot_be_metered_is_refused(gateway: Gateway, path: str) -> None:
    status, text = await post(gateway, path, CHAT, [USAGE])
    assert (status, json.loads(text)["error"]["code"]) == (403, "path_not_metered")
