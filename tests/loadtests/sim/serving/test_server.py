"""The bytes on the wire, for clients that read them themselves."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import ClientConnectionResetError, web
from prometheus_client.parser import text_string_to_metric_families

from loadtests.sim.serving.server import ReplicaServer
from tests.loadtests.conftest import Serve

CHAT = {"model": "sim-model", "messages": [{"role": "user", "content": "hello"}]}


def url(server: ReplicaServer, path: str) -> str:
    return f"http://{server.address}{path}"


async def metric(http: aiohttp.ClientSession, server: ReplicaServer, name: str) -> float:
    async with http.get(url(server, "/metrics")) as response:
        page = await response.text()
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


async def until(
    http: aiohttp.ClientSession, server: ReplicaServer, name: str, value: float
) -> None:
    """Ask again and again; the test's own time limit ends it."""
    while await metric(http, server, name) != value:
        pass


@pytest.mark.parametrize("include_usage", [False, True])
async def test_chat_stream_is_role_then_tokens_then_usage_then_done(
    serve: Serve, http: aiohttp.ClientSession, include_usage: bool
) -> None:
    server = await serve()
    body: dict[str, object] = CHAT | {"stream": True, "max_tokens": 3}
    if include_usage:
        body["stream_options"] = {"include_usage": True}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        assert response.content_type == "text/event-stream"
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    usage = [chunk for chunk in chunks if "usage" in chunk]
    assert len(usage) == include_usage
    if include_usage:
        assert chunks.pop()["choices"] == []
        assert usage[0]["usage"]["completion_tokens"] == 3
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [set(choice["delta"]) for choice in choices[1:]] == [{"content"}] * 3
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "length"]


async def test_continuous_usage_counts_up(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = CHAT | {"stream": True, "max_tokens": 3, "stream_options": options}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        events = (await response.text()).split("\n\n")[:-2]
    counts = [json.loads(event[6:])["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 3


async def test_headers_come_before_the_first_token(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(stalled=True)
    body = CHAT | {"stream": True}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        assert response.status == 200
        assert await metric(http, server, "vllm:generation_tokens_total") == 0
        response.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_what_it_held(
    serve: Serve, http: aiohttp.ClientSession, stream: bool
) -> None:
    server = await serve(stalled=True)
    body = CHAT | {"stream": stream}
    request = asyncio.create_task(http.post(url(server, "/v1/chat/completions"), json=body))
    await until(http, server, "vllm:num_requests_running", 1)
    assert await metric(http, server, "vllm:kv_cache_usage_perc") > 0
    if stream:
        (await request).close()
    else:
        request.cancel()
    await until(http, server, "vllm:num_requests_running", 0)
    assert await metric(http, server, "vllm:kv_cache_usage_perc") == 0
    assert await metric(http, server, "vllm:request_success_total") == 0


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/v1/chat/completions", "no healthy upstream", 400, "Bad Request", "JSON decode"),
        ("/v1/chat/completions", "[]", 400, "BadRequestError", "valid dictionary"),
        ("/v1/chat/completions", {}, 400, "BadRequestError", "messages: Field required"),
        ("/v1/chat/completions", {"messages": []}, 400, "BadRequestError", "at least 1 item"),
        ("/v1/chat/completions", {"messages": "x"}, 400, "BadRequestError", "list of objects"),
        ("/v1/chat/completions", CHAT | {"model": 7}, 400, "BadRequestError", "valid string"),
        ("/v1/chat/completions", CHAT | {"model": "x"}, 404, "NotFoundError", "`x` does not"),
        ("/v1/chat/completions", CHAT | {"max_tokens": 0}, 400, "BadRequestError", "at least 1"),
        ("/v1/chat/completions", CHAT | {"max_tokens": 5000}, 400, "BadRequestError", "too large"),
        ("/v1/chat/completions", CHAT | {"n": "2"}, 400, "BadRequestError", "valid integer"),
        (
            "/v1/chat/completions",
            CHAT | {"stream_options": {"include_usage": True}},
            400,
            "BadRequestError",
            "only be defined when",
        ),
        ("/v1/completions", {"prompt": "x" * 20_000}, 400, "BadRequestError", "context length"),
        ("/v1/completions", {"prompt": []}, 400, "BadRequestError", "a list of strings"),
        ("/v1/completions", {"prompt": ""}, 400, "BadRequestError", "cannot be empty"),
        ("/v1/completions", {"prompt": [-1]}, 400, "BadRequestError", "out of vocabulary"),
        ("/v1/completions", {"prompt": ["a", 3]}, 400, "BadRequestError", "token ids"),
        ("/v1/embeddings", {"input": 3}, 400, "BadRequestError", "input: "),
        ("/v1/responses", {"model": "sim-model"}, 400, "BadRequestError", "input: Field"),
    ],
)
async def test_errors(
    serve: Serve,
    http: aiohttp.ClientSession,
    path: str,
    body: object,
    status: int,
    kind: str,
    message: str,
) -> None:
    server = await serve()
    data = body if isinstance(body, str) else json.dumps(body)
    async with http.post(url(server, path), data=data) as response:
        error = (await response.json())["error"]
        assert (response.status, error["type"], error["code"]) == (status, kind, status)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/v1/audio/transcriptions", 404, "Not Found"),
        ("/v1/models", 405, "Method Not Allowed"),
        ("/v1/load_lora_adapter", 404, "Not Found"),
    ],
)
async def test_paths_that_are_not_served(
    serve: Serve, http: aiohttp.ClientSession, path: str, status: int, detail: str
) -> None:
    server = await serve()
    async with http.post(url(server, path), json={}) as response:
        assert (response.status, await response.json()) == (status, {"detail": detail})


async def test_counters_agree_with_usage(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    prompt_tokens = completion_tokens = 0
    for number in range(5):
        body = CHAT | {"messages": [{"role": "user", "content": f"hello {number}" * 30}]}
        async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
            usage = (await response.json())["usage"]
        prompt_tokens += usage["prompt_tokens"]
        completion_tokens += usage["completion_tokens"]
    assert await metric(http, server, "vllm:prompt_tokens_total") == prompt_tokens
    assert await metric(http, server, "vllm:generation_tokens_total") == completion_tokens
    assert await metric(http, server, "vllm:time_to_first_token_seconds_count") == 5
    async with http.get(url(server, "/metrics")) as response:
        page = await response.text()
    assert 'vllm:cache_config_info{block_size="16"' in page
    assert 'num_gpu_blocks="16385"' in page
    assert "vllm:lora_requests_info" not in page


async def test_adapters_load_serve_and_unload(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve(adapters=("first",), max_loras=2)
    load = {"lora_name": "second", "lora_path": "/somewhere"}
    async with http.post(url(server, "/v1/load_lora_adapter"), json=load) as response:
        assert response.status == 200
        assert "added successfully" in await response.text()
    async with http.post(url(server, "/v1/load_lora_adapter"), json=load) as response:
        assert response.status == 400
    async with http.get(url(server, "/v1/models")) as response:
        cards = (await response.json())["data"]
    assert [(card["id"], card["root"], card["parent"]) for card in cards[2:]] == [
        ("first", "/adapters/first", "sim-model"),
        ("second", "/somewhere", "sim-model"),
    ]
    assert cards[0]["max_model_len"] == 4096
    asked = CHAT | {"model": "second"}
    async with http.post(url(server, "/v1/chat/completions"), json=asked) as response:
        assert (await response.json())["model"] == "second"
    async with http.get(url(server, "/metrics")) as response:
        page = await response.text()
    info = 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="%s"'
    assert info % "second" in page
    stamps = {
        line.split('running_lora_adapters="')[1].split('"')[0]: float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith("vllm:lora_requests_info{")
    }
    assert max(stamps, key=lambda name: stamps[name]) == ""
    name = {"lora_name": "second"}
    async with http.post(url(server, "/v1/unload_lora_adapter"), json=name) as response:
        assert response.status == 200
    async with http.post(url(server, "/v1/chat/completions"), json=asked) as response:
        assert response.status == 404


async def test_tokenize_and_detokenize(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    async with http.post(url(server, "/tokenize"), json={"prompt": "grüß dich"}) as response:
        tokenized = await response.json()
    assert tokenized["count"] == len(tokenized["tokens"]) == 3
    assert tokenized["max_model_len"] == 4096
    body = {"tokens": tokenized["tokens"]}
    async with http.post(url(server, "/detokenize"), json=body) as response:
        assert await response.json() == {"prompt": "grüß dich"}
    async with http.post(url(server, "/tokenize"), json=CHAT) as response:
        count = (await response.json())["count"]
    async with http.post(url(server, "/v1/chat/completions"), json=CHAT) as response:
        assert (await response.json())["usage"]["prompt_tokens"] == count


async def test_rerank_and_score_prefer_what_is_alike(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    body = {"query": "red apple", "documents": ["blue sky", {"text": "a red apple"}], "top_n": 1}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        async with http.post(url(server, path), json=body) as response:
            results = (await response.json())["results"]
        assert [(item["index"], item["document"]["text"]) for item in results] == [
            (1, "a red apple")
        ]
    pair = {"text_1": "red apple", "text_2": ["blue sky", "a red apple"]}
    async with http.post(url(server, "/score"), json=pair) as response:
        scored = (await response.json())["data"]
    assert scored[0]["score"] < scored[1]["score"]


async def test_request_id_comes_back(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    headers = {"X-Request-Id": "abc"}
    async with http.post(
        url(server, "/v1/chat/completions"), json=CHAT, headers=headers
    ) as response:
        assert response.headers["X-Request-Id"] == "abc"
        assert (await response.json())["id"] == "chatcmpl-abc"


async def test_resetting_the_cache_forgets_prefixes(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()

    async def cached() -> int:
        async with http.post(url(server, "/v1/completions"), json={"prompt": "y" * 999}) as made:
            tokens: int = (await made.json())["usage"]["prompt_tokens_details"]["cached_tokens"]
            return tokens

    assert [await cached(), await cached()] == [0, 240]
    async with http.post(url(server, "/reset_prefix_cache")) as response:
        assert response.status == 200
    assert await cached() == 0


async def test_stopping_lets_a_running_answer_finish(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    body = CHAT | {"stream": True, "max_tokens": 2000, "ignore_eos": True}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        await response.content.readline()
        stopped = asyncio.create_task(server.stop(drain_s=60.0))
        assert (await response.text()).endswith("data: [DONE]\n\n")
    await stopped
    with pytest.raises(aiohttp.ClientConnectorError):
        await http.get(url(server, "/health"))


async def test_stopping_cuts_off_what_does_not_finish(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(stalled=True)
    body = CHAT | {"stream": True}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        await server.stop(drain_s=0.0)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert server.replica.engine.kv_usage == 0


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/chat/completions", CHAT | {"n": 16385}, "n must be at most 16384, got 16385."),
        ("/v1/completions", {"prompt": "a", "n": 10**9}, "n must be at most 16384"),
        ("/v1/embeddings", {"input": "a", "dimensions": 10**9}, "dimensions must be at most"),
        ("/rerank", {"query": "", "documents": ["a", ""]}, "prompt cannot be empty"),
        ("/score", {"text_1": "", "text_2": ""}, "prompt cannot be empty"),
    ],
)
async def test_what_would_never_end_or_never_begin_is_refused(
    serve: Serve, http: aiohttp.ClientSession, path: str, body: dict[str, object], message: str
) -> None:
    server = await serve()
    async with http.post(url(server, path), json=body) as response:
        assert response.status == 400
        assert message in (await response.json())["error"]["message"]
    assert server.replica.engine.waiting_requests == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_body_of_nothing_but_brackets_is_the_clients_fault(
    serve: Serve, http: aiohttp.ClientSession, path: str
) -> None:
    server = await serve()
    deep = "[" * 600 + "]" * 600
    body = f'{{"max_tokens": 3, "messages": [{{"role": "user", "content": {deep}}}]}}'
    async with http.post(url(server, path), data=body) as response:
        assert response.status == 400
        assert "nested too deeply" in await response.text()


@pytest.mark.parametrize("body", [b'{"lora_name": "\\ud800", "lora_path": "/x"}', b"[" * 100_000])
async def test_an_adapter_of_no_text_is_not_loaded(
    serve: Serve, http: aiohttp.ClientSession, body: bytes
) -> None:
    server = await serve(max_loras=1)
    headers = {"Content-Type": "application/json"}
    where = url(server, "/v1/load_lora_adapter")
    async with http.post(where, data=body, headers=headers) as response:
        assert response.status == 400
    assert server.replica.adapter_paths == {}


async def test_names_are_escaped_in_metrics(serve: Serve, http: aiohttp.ClientSession) -> None:
    name = 'a"b\\c\nd'
    server = await serve(adapters=(name,), max_loras=1)
    body = CHAT | {"model": name, "max_tokens": 2}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        assert response.status == 200
    async with http.get(url(server, "/metrics")) as response:
        families = text_string_to_metric_families(await response.text())
    info = next(each for each in families if each.name == "vllm:lora_requests_info")
    assert name in {sample.labels["running_lora_adapters"] for sample in info.samples}


async def test_a_client_that_left_before_the_headers_is_no_error(
    serve: Serve,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def gone(response: web.StreamResponse, request: web.BaseRequest) -> None:
        monkeypatch.undo()
        raise ClientConnectionResetError("Cannot write to closing transport")

    server = await serve()
    monkeypatch.setattr(web.StreamResponse, "prepare", gone)
    body = CHAT | {"stream": True}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        await response.read()
    assert caplog.text == ""
    assert server.replica.engine.waiting_requests == 0


async def test_an_engine_that_dies_breaks_streams_off_and_is_not_healthy(
    serve: Serve, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(stalled=True)
    body = CHAT | {"stream": True}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        monkeypatch.setattr(server.replica.engine._model, "advance", None)
        server.replica.engine._turn()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    async with http.get(url(server, "/health")) as response:
        assert response.status == 503
