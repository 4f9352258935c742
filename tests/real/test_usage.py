"""Usage in streams: asked of every replica, shown to those clients only that asked for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json
from tests.real.replicas import FAST, Recorder, Replica

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

CHAT: Json = {"messages": [{"role": "user", "content": "hello there"}]}
TEXT: Json = {"prompt": "hello there"}
FORMS = pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)]
)
MODELS = pytest.mark.parametrize("model", ["m", "alias"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorder() -> AsyncIterator[Recorder]:
    async with Recorder() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(
    recorder: Recorder, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[aiohttp.ClientSession]:
    folder = tmp_path_factory.mktemp("usage")
    async with Replica(folder, *FAST) as replica:
        config: Json = {
            "pools": [
                {"name": "chat", "type": "static", "endpoints": [replica.address]},
                {"name": "recorder", "type": "static", "endpoints": [recorder.address]},
            ],
            "models": [{"name": "alias", "targets": [{"model": "m"}]}],
        }
        async with Gateway(folder, config) as gateway, aiohttp.ClientSession(gateway.url) as made:
            yield made


async def events_of(http: aiohttp.ClientSession, path: str, body: Json) -> list[str]:
    """Data of each event, to the last one."""
    async with http.post(path, json={"stream": True, "max_tokens": 30, **body}) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        text = await answer.text()
    assert text.endswith("\n\n")
    return [event.removeprefix("data: ") for event in text.split("\n\n")[:-1]]


@MODELS
@FORMS
@pytest.mark.parametrize(
    "options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}]
)
async def test_who_did_not_ask_sees_no_usage(
    http: aiohttp.ClientSession, path: str, body: Json, model: str, options: Json
) -> None:
    *events, done = await events_of(http, path, {**body, "model": model, **options})
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert not any(chunk.get("usage") for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert {chunk["model"] for chunk in chunks} == {model}


@MODELS
@FORMS
async def test_who_asked_sees_it_once(
    http: aiohttp.ClientSession, path: str, body: Json, model: str
) -> None:
    asked = {**body, "model": model, "stream_options": {"include_usage": True}}
    *events, done = await events_of(http, path, asked)
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 30
    assert {chunk["model"] for chunk in chunks} == {model}


@FORMS
async def test_other_stream_options_are_kept(
    http: aiohttp.ClientSession, recorder: Recorder, path: str, body: Json
) -> None:
    options = {"include_obfuscation": False, "chunk_size": 7}
    sent = {**body, "model": "recorded", "stream": True, "stream_options": options, "seed": 1}
    await http.post(path, json=sent)
    got = json.loads(recorder.seen[-1].body)
    assert got == {**sent, "stream_options": {**options, "include_usage": True}}


@FORMS
async def test_continuous_usage_is_the_clients_to_have(
    http: aiohttp.ClientSession, path: str, body: Json
) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = {**body, "model": "m", "stream_options": options}
    *events, _ = await events_of(http, path, asked)
    counts = [json.loads(event)["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 30


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": False}),
        (
            "/v1/chat/completions",
            {**CHAT, "stream": True, "stream_options": {"include_usage": True}},
        ),
        ("/v1/responses", {"input": "hello", "stream": True}),
        ("/v1/messages", {**CHAT, "max_tokens": 9, "stream": True}),
        ("/v1/embeddings", {"input": "hello"}),
    ],
)
async def test_bodies_that_need_no_change_go_through_byte_for_byte(
    http: aiohttp.ClientSession, recorder: Recorder, path: str, body: Json
) -> None:
    sent = json.dumps({"model": "recorded", **body}, indent=3).encode()
    await http.post(path, data=sent, headers={"content-type": "application/json"})
    assert recorder.seen[-1].body == sent
