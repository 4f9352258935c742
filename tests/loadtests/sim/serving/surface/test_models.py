"""LoRA adapters at run time: what vLLM 0.32 was seen to do on the same calls."""

import asyncio
from dataclasses import replace

import aiohttp
import pytest

from loadtests.sim.serving.engine import EngineSettings
from loadtests.sim.serving.server import ReplicaServer
from tests.loadtests.conftest import CONSTANT_STEP, FAST, Serve
from tests.loadtests.sim.serving.waiting import until

CHAT = {"messages": [{"role": "user", "content": "hello " * 100}], "max_tokens": 3}
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
BRISK = EngineSettings(replace(CONSTANT_STEP, overhead_s=0.002), FAST.limits)


def url(server: ReplicaServer, path: str) -> str:
    return f"http://{server.address}{path}"


async def post(
    http: aiohttp.ClientSession, server: ReplicaServer, path: str, **body: object
) -> tuple[int, str]:
    async with http.post(url(server, path), json=body) as response:
        return response.status, await response.text()


async def adapters(http: aiohttp.ClientSession, server: ReplicaServer) -> dict[str, str]:
    """Name to path."""
    async with http.get(url(server, "/v1/models")) as response:
        cards = (await response.json())["data"]
    return {card["id"]: card["root"] for card in cards if card["parent"]}


async def cached_tokens(http: aiohttp.ClientSession, server: ReplicaServer, model: str) -> int:
    async with http.post(url(server, "/v1/chat/completions"), json=CHAT | {"model": model}) as got:
        assert got.status == 200
        cached: int = (await got.json())["usage"]["prompt_tokens_details"]["cached_tokens"]
        return cached


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param", "message"),
    [
        (
            LOAD,
            {},
            400,
            "Bad Request",
            "body.lora_name",
            """2 validation errors:
  {'type': 'missing', 'loc': 'body.lora_name', 'msg': 'Field required', 'input': \
'<dict of 0 items>'}
  {'type': 'missing', 'loc': 'body.lora_path', 'msg': 'Field required', 'input': \
'<dict of 0 items>'}""",
        ),
        (
            LOAD,
            {"lora_name": 7, "lora_path": "x"},
            400,
            "Bad Request",
            "body.lora_name",
            """1 validation error:
  {'type': 'string_type', 'loc': 'body.lora_name', 'msg': 'Input should be a valid string', \
'input': '7'}""",
        ),
        (
            LOAD,
            [],
            400,
            "Bad Request",
            "body",
            """1 validation error:
  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary \
or object to extract fields from', 'input': '<list of 0 items>'}""",
        ),
        (
            LOAD,
            {"lora_name": "", "lora_path": ""},
            400,
            "InvalidUserInput",
            None,
            "Both 'lora_name' and 'lora_path' must be provided.",
        ),
        (
            LOAD,
            {"lora_name": "sim-model", "lora_path": "/x"},
            400,
            "InvalidUserInput",
            None,
            "The lora adapter 'sim-model' conflicts with a served base model.",
        ),
        (
            LOAD,
            {"lora_name": "first", "lora_path": "/x"},
            400,
            "InvalidUserInput",
            None,
            """The lora adapter 'first' has already been loaded. If you want to load the adapter \
in place, set 'load_inplace' to True.""",
        ),
        (
            UNLOAD,
            {"lora_name": ""},
            400,
            "InvalidUserInput",
            None,
            "'lora_name' needs to be provided to unload a LoRA adapter.",
        ),
        (
            UNLOAD,
            {"lora_name": "sim-model"},
            404,
            "NotFoundError",
            None,
            "The lora adapter 'sim-model' cannot be found.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("/") else "",
)
async def test_errors_are_vllms(
    serve: Serve,
    http: aiohttp.ClientSession,
    path: str,
    body: object,
    status: int,
    kind: str,
    param: str | None,
    message: str,
) -> None:
    server = await serve(adapters=("first",), max_loras=1)
    async with http.post(url(server, path), json=body) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert error == {"message": message, "type": kind, "param": param, "code": status}
    assert await adapters(http, server) == {"first": "/adapters/first"}


@pytest.mark.parametrize(
    ("data", "content_type", "message"),
    [
        ("{}", "text/plain", "Unsupported Media Type: Only 'application/json' is allowed"),
        (
            "x",
            "application/json",
            """{'type': 'json_invalid', 'loc': 'body.0', 'msg': 'JSON decode error', 'input': \
'<dict of 0 items>', 'ctx': {'error': 'Expecting value'}}""",
        ),
    ],
)
async def test_a_body_that_is_no_json(
    serve: Serve, http: aiohttp.ClientSession, data: str, content_type: str, message: str
) -> None:
    server = await serve(max_loras=1)
    headers = {"Content-Type": content_type}
    async with http.post(url(server, LOAD), data=data, headers=headers) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["message"] == f"1 validation error:\n  {message}"


async def test_more_adapters_than_slots(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve(engine=BRISK, adapters=("a", "b"), max_loras=1)
    for name in ("c", "d"):
        assert await post(http, server, LOAD, lora_name=name, lora_path=f"/{name}") == (
            200,
            f"Success: LoRA adapter '{name}' added successfully.",
        )
    assert list(await adapters(http, server)) == ["a", "b", "c", "d"]
    await asyncio.gather(*(cached_tokens(http, server, name) for name in "abcdabcd"))
    async with http.get(url(server, "/metrics")) as response:
        page = await response.text()
    states = [line for line in page.splitlines() if line.startswith("vllm:lora_requests_info{")]
    running = {line.split('running_lora_adapters="')[1].split('"')[0] for line in states}
    assert all('max_lora="1"' in line for line in states)
    assert {name for names in running for name in names.split(",")} == {"", "a", "b", "c", "d"}


async def test_an_adapter_that_is_unloaded_finishes_what_it_runs(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(engine=BRISK, adapters=("first",), max_loras=1)
    body = CHAT | {"model": "first", "stream": True, "max_tokens": 200, "ignore_eos": True}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        await response.content.readline()
        assert await post(http, server, UNLOAD, lora_name="first") == (
            200,
            "Success: LoRA adapter 'first' removed successfully.",
        )
        assert await adapters(http, server) == {}
        status, text = await post(http, server, "/v1/chat/completions", **CHAT, model="first")
        assert (status, "`first` does not exist" in text) == (404, True)
        assert (await response.text()).endswith("data: [DONE]\n\n")


async def test_loading_takes_time_in_which_nothing_is_computed(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    profile = replace(BRISK.profile, adapter_load_s=3600.0)
    server = await serve(engine=replace(BRISK, profile=profile), max_loras=1)
    engine = server.replica.engine
    body = CHAT | {"stream": True, "max_tokens": 200, "ignore_eos": True}
    async with http.post(url(server, "/v1/chat/completions"), json=body) as response:
        await response.content.readline()
        load = asyncio.create_task(post(http, server, LOAD, lora_name="new", lora_path="/new"))

        async def stands_still() -> bool:
            return engine.paused

        await until(stands_still)
        tokens = engine.stats.generation_tokens
        assert await adapters(http, server) == {}
        assert engine.stats.generation_tokens == tokens
        assert not load.done()
        load.cancel()
        response.close()


async def test_loads_of_one_name_take_turns(serve: Serve, http: aiohttp.ClientSession) -> None:
    profile = replace(BRISK.profile, adapter_load_s=0.05)
    server = await serve(engine=replace(BRISK, profile=profile), max_loras=1)
    loads = (post(http, server, LOAD, lora_name="new", lora_path=f"/{i}") for i in range(3))
    statuses = [status for status, _ in await asyncio.gather(*loads)]
    assert sorted(statuses) == [200, 400, 400]


async def test_another_adapter_under_the_same_name_shares_no_prefixes(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(adapters=("first",), max_loras=1)
    assert await cached_tokens(http, server, "first") == 0
    assert await cached_tokens(http, server, "first") > 0
    again = {"lora_name": "first", "load_inplace": True}
    assert (await post(http, server, LOAD, **again, lora_path="/adapters/first"))[0] == 200
    assert await cached_tokens(http, server, "first") > 0
    assert (await post(http, server, LOAD, **again, lora_path="/other"))[0] == 200
    assert await adapters(http, server) == {"first": "/other"}
    assert await cached_tokens(http, server, "first") == 0


async def test_without_lora_there_are_no_such_endpoints(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    for path in (LOAD, UNLOAD):
        status, text = await post(http, server, path, lora_name="x", lora_path="/x")
        assert (status, text) == (404, '{"detail":"Not Found"}')
