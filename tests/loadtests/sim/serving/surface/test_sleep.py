"""Sleep, wake, pause and resume: what vLLM 0.32 was seen to do on the same calls."""

import asyncio
import json
from dataclasses import replace

import aiohttp
import pytest

from loadtests.sim.serving.engine import EngineSettings
from loadtests.sim.serving.server import ReplicaServer
from tests.loadtests.conftest import CONSTANT_STEP, FAST, STALLED, Serve
from tests.loadtests.sim.serving.waiting import until

CHAT = {"model": "sim-model", "messages": [{"role": "user", "content": "hello " * 100}]}
PATH = "/v1/chat/completions"
BRISK = EngineSettings(replace(CONSTANT_STEP, overhead_s=0.002), FAST.limits)


def url(server: ReplicaServer, path: str) -> str:
    return f"http://{server.address}{path}"


async def post(http: aiohttp.ClientSession, server: ReplicaServer, path: str) -> dict[str, object]:
    async with http.post(url(server, path)) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, object] = await response.json()
        return answer


async def flags(http: aiohttp.ClientSession, server: ReplicaServer) -> tuple[bool, bool]:
    """is_sleeping and is_paused."""
    async with http.get(url(server, "/is_sleeping")) as response:
        sleeping = (await response.json())["is_sleeping"]
    async with http.get(url(server, "/is_paused")) as response:
        return sleeping, (await response.json())["is_paused"]


async def gauge(http: aiohttp.ClientSession, server: ReplicaServer) -> list[str]:
    """Values of sleep_state that are 1."""
    async with http.get(url(server, "/metrics")) as response:
        page = await response.text()
    lines = [line for line in page.splitlines() if line.startswith("vllm:engine_sleep_state{")]
    assert len(lines) == 3
    return [line.split('sleep_state="')[1].split('"')[0] for line in lines if line[-3:] == "1.0"]


async def ask(http: aiohttp.ClientSession, server: ReplicaServer, tokens: int) -> dict[str, object]:
    body = CHAT | {"max_tokens": tokens, "ignore_eos": True}
    async with http.post(url(server, PATH), json=body) as response:
        assert response.status == 200
        answer: dict[str, object] = await response.json()
        return answer


def cached_tokens(answer: dict[str, object]) -> int:
    usage = answer["usage"]
    assert isinstance(usage, dict)
    cached: int = usage["prompt_tokens_details"]["cached_tokens"]
    return cached


async def runs(server: ReplicaServer, requests: int) -> None:
    async def running() -> bool:
        return server.replica.engine.running_requests == requests

    await until(running)


async def pauses(http: aiohttp.ClientSession, server: ReplicaServer) -> None:
    async def paused() -> bool:
        return await flags(http, server) == (True, True)

    await until(paused)


async def test_sleep_ends_what_runs_and_keeps_what_comes_until_it_wakes(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(engine=BRISK)
    body = CHAT | {"stream": True, "max_tokens": 3000, "ignore_eos": True}
    async with http.post(url(server, PATH), json=body) as response:
        for _ in range(6):
            await response.content.readline()
        whole = asyncio.create_task(ask(http, server, 3000))
        await runs(server, 2)
        assert await post(http, server, "/sleep") == {"status": "sleeping", "level": 1}
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert json.loads(events[-3][6:])["choices"][0]["finish_reason"] == "abort"
    aborted = await whole
    assert isinstance(aborted["choices"], list)
    assert aborted["choices"][0]["finish_reason"] == "abort"
    assert server.replica.engine.stats.finished["abort"] == 2
    assert await flags(http, server) == (True, True)
    assert await gauge(http, server) == ["weights_offloaded"]
    async with http.get(url(server, "/health")) as response:
        assert response.status == 200

    async with http.post(url(server, PATH), json=body | {"max_tokens": 3}) as late:
        assert late.status == 200  # headers come, tokens do not
        tokens = server.replica.engine.stats.generation_tokens
        assert await post(http, server, "/wake_up") == {"status": "awake", "tags": None}
        assert (await late.text()).endswith("data: [DONE]\n\n")
    assert server.replica.engine.stats.generation_tokens == tokens + 3
    assert await flags(http, server) == (False, False)
    assert await gauge(http, server) == ["awake"]


@pytest.mark.parametrize(("level", "forgotten"), [(0, False), (1, True), (2, True)])
async def test_the_prefix_cache_does_not_survive_sleep_but_a_pause(
    serve: Serve, http: aiohttp.ClientSession, level: int, forgotten: bool
) -> None:
    server = await serve()
    assert cached_tokens(await ask(http, server, 1)) == 0
    assert cached_tokens(await ask(http, server, 1)) > 0
    await post(http, server, f"/sleep?level={level}")
    await post(http, server, "/wake_up?tags=scheduling" if level == 0 else "/wake_up")
    assert (cached_tokens(await ask(http, server, 1)) == 0) is forgotten


async def test_memory_comes_back_part_by_part(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    await post(http, server, "/sleep?level=2")
    assert await gauge(http, server) == ["discard_all"]
    waits = asyncio.create_task(ask(http, server, 1))
    for tags in ("nothing", "weights", "weights"):
        answer = await post(http, server, f"/wake_up?tags={tags}")
        assert answer == {"status": "sleeping", "tags": [tags]}
        assert await flags(http, server) == (True, True)
    answer = await post(http, server, "/wake_up?tags=kv_cache&tags=nothing")  # all or none
    assert answer["status"] == "sleeping"
    await post(http, server, "/resume")  # not enough
    assert await flags(http, server) == (True, False)
    assert not waits.done()
    answer = await post(http, server, "/wake_up?tags=kv_cache&tags=scheduling")
    assert answer["status"] == "awake"
    await waits
    assert await gauge(http, server) == ["awake"]


async def test_waiting_lets_the_running_finish_and_admits_nobody(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(engine=BRISK)
    running = asyncio.create_task(ask(http, server, 100))
    await runs(server, 1)
    pause = asyncio.create_task(post(http, server, "/pause?mode=wait&clear_cache=false"))
    await pauses(http, server)
    late = asyncio.create_task(ask(http, server, 1))
    assert await pause == {"status": "paused"}
    answer = await running
    assert isinstance(answer["choices"], list)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert await gauge(http, server) == ["awake"]  # a pause is no sleep
    assert server.replica.engine.running_requests == 0
    assert not late.done()
    assert await post(http, server, "/resume") == {"status": "resumed"}
    assert cached_tokens(await late) > 0


@pytest.mark.parametrize("clear", [False, True])
async def test_kept_requests_go_on_and_start_over_if_their_kv_is_gone(
    serve: Serve, http: aiohttp.ClientSession, clear: bool
) -> None:
    server = await serve(engine=BRISK)
    kept = asyncio.create_task(ask(http, server, 100))
    await runs(server, 1)
    await post(http, server, f"/pause?mode=keep&clear_cache={clear}")
    tokens = server.replica.engine.stats.generation_tokens
    assert await flags(http, server) == (True, True)
    assert not kept.done()
    assert server.replica.engine.stats.generation_tokens == tokens
    await post(http, server, "/resume")
    answer = await kept
    assert isinstance(answer["choices"], list)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert server.replica.engine.stats.preemptions == int(clear)
    assert server.replica.engine.stats.generation_tokens == 100


@pytest.mark.parametrize(
    ("path", "param", "error"),
    [
        (
            "/sleep?level=3",
            "query.level",
            """{'type': 'less_than_equal', 'loc': 'query.level', 'msg': 'Input should be less than \
or equal to 2', 'input': '3', 'ctx': {'le': 2}}""",
        ),
        (
            "/sleep?level=x",
            "query.level",
            """{'type': 'int_parsing', 'loc': 'query.level', 'msg': 'Input should be a valid \
integer, unable to parse string as an integer', 'input': 'x'}""",
        ),
        (
            "/pause?mode=foo",
            "query.mode",
            """{'type': 'literal_error', 'loc': 'query.mode', 'msg': "Input should be 'abort', \
'wait' or 'keep'", 'input': 'foo', 'ctx': {'expected': "'abort', 'wait' or 'keep'"}}""",
        ),
        (
            "/pause?clear_cache=maybe",
            "query.clear_cache",
            """{'type': 'bool_parsing', 'loc': 'query.clear_cache', 'msg': 'Input should be a \
valid boolean, unable to interpret input', 'input': 'maybe'}""",
        ),
    ],
)
async def test_wrong_parameters_get_vllms_own_words(
    serve: Serve, http: aiohttp.ClientSession, path: str, param: str, error: str
) -> None:
    server = await serve()
    async with http.post(url(server, path)) as response:
        assert response.status == 400
        told = (await response.json())["error"]
    message = f"1 validation error:\n  {error}"
    assert told == {"message": message, "type": "Bad Request", "param": param, "code": 400}
    assert await flags(http, server) == (False, False)


async def test_weights_take_their_time_to_the_host_and_back(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    profile = replace(CONSTANT_STEP, host_bandwidth_bytes_per_s=1e-3, remap_s=0.0)
    server = await serve(engine=replace(STALLED, profile=profile))  # its 2 bytes: over half an hour
    asleep = asyncio.create_task(post(http, server, "/sleep?level=1"))
    await pauses(http, server)
    assert await gauge(http, server) == ["awake"]
    assert not asleep.done()
    asleep.cancel()
    server = await serve(engine=replace(STALLED, profile=profile))
    await post(http, server, "/sleep?level=2")  # thrown away: at once
    assert await gauge(http, server) == ["discard_all"]
    assert (await post(http, server, "/wake_up"))["status"] == "awake"


async def test_a_client_that_leaves_does_not_keep_it_awake(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    profile = replace(CONSTANT_STEP, remap_s=0.1)
    server = await serve(engine=replace(STALLED, profile=profile))
    asleep = asyncio.create_task(post(http, server, "/sleep"))
    await pauses(http, server)
    asleep.cancel()

    async def sleeps() -> bool:
        return await gauge(http, server) == ["weights_offloaded"]

    await until(sleeps)
    assert (await post(http, server, "/wake_up"))["status"] == "awake"


async def test_a_running_request_keeps_the_prefix_cache_unless_it_starts_over(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(stalled=True)
    assert await post(http, server, "/reset_prefix_cache") == {"success": True}
    request = asyncio.create_task(ask(http, server, 5))
    await runs(server, 1)
    assert await post(http, server, "/reset_prefix_cache") == {"success": False}
    path = "/reset_prefix_cache?reset_running_requests=true"
    assert await post(http, server, path) == {"success": True}
    assert server.replica.engine.stats.preemptions == 1
    request.cancel()
