"""Large, wrong and missing bodies, and the errors that answer them."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import aiohttp
import orjson
import pytest
import pytest_asyncio
from backports import zstd

from tests.real.gateway import Gateway, Json
from tests.real.ports import free_port
from tests.real.replicas import FAST, Recorder, Replica

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

LIMIT_BYTES = 8_000_000
JSON = {"content-type": "application/json"}
MESSAGES: Json = {"messages": [{"role": "user", "content": "hello"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorder() -> AsyncIterator[Recorder]:
    async with Recorder() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(
    recorder: Recorder, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[aiohttp.ClientSession]:
    folder = tmp_path_factory.mktemp("bodies")
    async with Replica(folder, *FAST, "--num-blocks=200000") as replica:
        config: Json = {
            "listen": {"max_body_bytes": LIMIT_BYTES},
            "pools": [
                {"name": "chat", "type": "static", "endpoints": [replica.address]},
                {"name": "recorder", "type": "static", "endpoints": [recorder.address]},
                {
                    "name": "down",
                    "type": "static",
                    "endpoints": [f"127.0.0.1:{free_port()}"],
                    "models": ["away"],
                },
            ],
            "models": [{"name": "recorded-alias", "targets": [{"model": "recorded"}]}],
        }
        async with Gateway(folder, config) as gateway, aiohttp.ClientSession(gateway.url) as made:
            yield made


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_of_5_mb(http: aiohttp.ClientSession, stream: bool) -> None:
    words = "word " * 1_000_000
    body = {"model": "m", "messages": [{"role": "user", "content": words}], "max_tokens": 5}
    answer = await http.post("/v1/chat/completions", json={**body, "stream": stream})
    assert answer.status == 200
    text = await answer.text()
    if stream:
        assert text.endswith("data: [DONE]\n\n")
    else:
        assert (await answer.json())["usage"]["prompt_tokens"] > 1_000_000


async def test_a_body_just_below_the_limit_changed_on_its_way(
    http: aiohttp.ClientSession, recorder: Recorder
) -> None:
    words = "x" * (LIMIT_BYTES - 200)
    answer = await http.post(
        "/v1/completions", json={"model": "recorded-alias", "prompt": words, "stream": True}
    )
    assert answer.status == 200
    got = recorder.seen[-1].body
    assert int(recorder.seen[-1].headers["content-length"]) == len(got)
    assert b'"recorded"' in got
    assert b'"include_usage":true' in got
    assert words.encode() in got


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/audio/speech"])
async def test_a_body_over_the_limit(http: aiohttp.ClientSession, path: str, chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(2 + LIMIT_BYTES // 1_000_000):
            yield b" " * 1_000_000

    data = chunks() if chunked else b" " * (LIMIT_BYTES + 1)
    answer = await http.post(path, data=data, headers=JSON)
    assert (answer.status, answer.content_type) == (413, "application/json")
    told = await answer.json()
    if path == "/v1/messages":
        assert (told["type"], told["error"]["type"]) == ("error", "request_too_large")
    else:
        assert told["error"]["code"] == "request_too_large"


async def test_the_connection_still_serves_after_a_refusal(http: aiohttp.ClientSession) -> None:
    for _ in range(3):
        await http.post("/v1/completions", data=b"{", headers=JSON)
    answer = await http.post("/v1/completions", json={"model": "m", "prompt": "x"})
    assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "data", "code", "param"),
    [
        ("/v1/chat/completions", b"no healthy upstream", "invalid_json", None),
        ("/v1/chat/completions", b"", "invalid_json", None),
        ("/v1/chat/completions", b"[]", "invalid_request", None),
        ("/v1/chat/completions", b'{"messages":[]}', "invalid_request", "messages"),
        ("/v1/chat/completions", b'{"model":"m"}', "invalid_request", "messages"),
        ("/v1/completions", b'{"model":"m","prompt":7}', "invalid_request", "prompt"),
        ("/v1/completions", b'{"prompt":"x"}', "model_required", "model"),
        ("/v1/embeddings", b'{"model":7,"input":"x"}', "invalid_request", "model"),
    ],
)
async def test_a_wrong_body(
    http: aiohttp.ClientSession, path: str, data: bytes, code: str, param: str | None
) -> None:
    answer = await http.post(path, data=data, headers=JSON)
    assert (answer.status, answer.content_type) == (400, "application/json")
    error = (await answer.json())["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["param"] == param
    assert error["message"]


async def test_a_wrong_body_in_anthropics_shape(http: aiohttp.ClientSession) -> None:
    answer = await http.post("/v1/messages", data=b"{", headers=JSON)
    assert answer.status == 400
    told = await answer.json()
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")


async def test_the_replicas_own_errors_pass_unchanged(http: aiohttp.ClientSession) -> None:
    body = {"model": "m", **MESSAGES, "max_tokens": 0}
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status == 400
    assert (await answer.json())["error"]["type"] == "BadRequestError"


async def test_no_replica_is_503(http: aiohttp.ClientSession) -> None:
    body = {"model": "away", **MESSAGES, "max_tokens": 4}
    openai, anthropic = await asyncio.gather(
        http.post("/v1/chat/completions", json=body), http.post("/v1/messages", json=body)
    )
    for answer in (openai, anthropic):
        assert (answer.status, answer.content_type) == (503, "application/json")
        assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
    error = (await openai.json())["error"]
    assert (error["type"], error["code"]) == ("server_error", "no_endpoints")
    told = await anthropic.json()
    assert (told["type"], told["error"]["type"]) == ("error", "overloaded_error")


@pytest.mark.parametrize(
    ("name", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstd.compress)],
)
@pytest.mark.parametrize("model", ["recorded", "recorded-alias"])
async def test_an_encoded_body_reaches_the_replica_decoded(
    http: aiohttp.ClientSession,
    recorder: Recorder,
    name: str,
    encode: Callable[[bytes], bytes],
    model: str,
) -> None:
    body = orjson.dumps({"model": model, "prompt": "x" * 100_000})
    answer = await http.post(
        "/v1/completions", data=encode(body), headers={**JSON, "content-encoding": name}
    )
    assert answer.status == 200
    seen = recorder.seen[-1]
    assert "content-encoding" not in seen.headers
    assert int(seen.headers["content-length"]) == len(seen.body)
    assert seen.body == body.replace(b"-alias", b"")


async def test_encodings_that_are_not_taken_and_bombs(http: aiohttp.ClientSession) -> None:
    plain = orjson.dumps({"model": "recorded", "prompt": "x"})
    bomb = gzip.compress(bytes(LIMIT_BYTES + 1))
    for name, data, status in (("br", plain, 415), ("gzip", plain, 400), ("gzip", bomb, 413)):
        answer = await http.post(
            "/v1/completions", data=data, headers={**JSON, "content-encoding": name}
        )
        assert (answer.status, answer.content_type) == (status, "application/json")
        assert ("accept-encoding" in answer.headers) == (status == 415)


async def test_a_form_reaches_the_replica_with_the_served_model(
    http: aiohttp.ClientSession, recorder: Recorder
) -> None:
    form = aiohttp.FormData()
    form.add_field("file", bytes(range(256)) * 4_000, filename="a.wav", content_type="audio/wav")
    form.add_field("model", "recorded-alias")
    answer = await http.post("/v1/audio/transcriptions", data=form)
    assert answer.status == 200
    seen = recorder.seen[-1]
    assert int(seen.headers["content-length"]) == len(seen.body)
    assert b"\r\n\r\nrecorded\r\n" in seen.body
    assert bytes(range(256)) * 4_000 in seen.body


async def test_azures_paths_are_openais_to_the_replica(
    http: aiohttp.ClientSession, recorder: Recorder
) -> None:
    answer = await http.post(
        "/openai/deployments/recorded-alias/completions?api-version=2024-10-21&x=1",
        json={"prompt": "x"},
        headers={"api-key": "any"},
    )
    assert answer.status == 200
    seen = recorder.seen[-1]
    assert seen.path == "/v1/completions?x=1"
    assert orjson.loads(seen.body)["model"] == "recorded"


async def test_a_heavy_body_is_read_and_changed_apart(
    http: aiohttp.ClientSession, recorder: Recorder
) -> None:
    extra = ",".join(['{"model":"recorded-alias"}'] * 20_000)
    body = f'{{"x":[{extra}],"model":"recorded-alias","prompt":"x"}}'.encode()
    answer = await http.post("/v1/completions", data=body, headers=JSON)
    assert answer.status == 200
    head, _, rest = body.rpartition(b"recorded-alias")
    assert recorder.seen[-1].body == head + b"recorded" + rest


async def test_a_refusal_names_the_cap(http: aiohttp.ClientSession) -> None:
    body = {"model": "recorded", "query": "q" * 200_000, "documents": ["a"] * 10_000}
    answer = await http.post("/v1/rerank", json=body)
    assert answer.status == 400
    assert "prompts" in (await answer.json())["error"]["message"]
