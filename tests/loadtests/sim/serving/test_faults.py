"""Faults on purpose, as clients of the replica see them."""

import asyncio
import json
from dataclasses import replace

import aiohttp
import pytest

from loadtests.sim.serving.clock import LONGEST_LAG_S
from loadtests.sim.serving.faults import without_families
from loadtests.sim.serving.server import ReplicaServer
from loadtests.sim.serving.surface import choices
from tests.loadtests.conftest import CONSTANT_STEP, FAST, STALLED, Serve
from tests.loadtests.sim.serving.waiting import until

CHAT = {"model": "sim-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}
LONG = CHAT | {"stream": True, "max_tokens": 3000, "ignore_eos": True}
PATH = "/v1/chat/completions"


def url(server: ReplicaServer, path: str) -> str:
    return f"http://{server.address}{path}"


async def give(http: aiohttp.ClientSession, server: ReplicaServer, **fault: object) -> str:
    """The fault's id."""
    async with http.post(url(server, "/sim/faults"), json=fault) as response:
        assert response.status == 200, await response.text()
        given: str = (await response.json())["faults"][0]["id"]
        return given


async def take_back(http: aiohttp.ClientSession, server: ReplicaServer, *ids: str) -> None:
    params = [("id", each) for each in ids]
    async with http.delete(url(server, "/sim/faults"), params=params) as response:
        assert response.status == 200


async def faults(
    http: aiohttp.ClientSession, server: ReplicaServer
) -> dict[str, dict[str, object]]:
    async with http.get(url(server, "/sim/faults")) as response:
        return {each["id"]: each for each in (await response.json())["faults"]}


async def strikes(
    http: aiohttp.ClientSession, server: ReplicaServer, fault: str, hits: int
) -> None:
    """Wait until a fault has struck so often."""

    async def struck() -> bool:
        return (await faults(http, server))[fault]["hits"] == hits

    await until(struck)


async def status(http: aiohttp.ClientSession, server: ReplicaServer, path: str = PATH) -> int:
    method, body = ("POST", CHAT) if path == PATH else ("GET", None)
    async with http.request(method, url(server, path), json=body) as response:
        await response.read()
        return response.status


async def page(http: aiohttp.ClientSession, server: ReplicaServer) -> str:
    async with http.get(url(server, "/metrics")) as response:
        assert response.status == 200
        return await response.text()


async def gather_lines(response: aiohttp.ClientResponse, lines: list[bytes]) -> None:
    while line := await response.content.readline():
        lines.append(line)


def holds_nothing(server: ReplicaServer) -> bool:
    engine = server.replica.engine
    return (engine.running_requests, engine.waiting_requests, engine.kv_usage) == (0, 0, 0.0)


async def test_the_next_requests_get_an_error_in_vllms_words(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    await give(http, server, kind="error", status=503, retry_after_s=7, count=2)
    assert await status(http, server, "/health") == 200
    async with http.post(url(server, PATH), json=CHAT) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "7")
        error = (await response.json())["error"]
    assert (error["type"], error["code"]) == ("Service Unavailable", 503)
    assert "currently busy" in error["message"]
    assert [await status(http, server) for _ in range(2)] == [503, 200]


async def test_a_share_of_requests_fails_and_the_same_ones_every_time(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    runs = []
    for _ in range(2):
        server = await serve()
        await give(http, server, kind="error", status=429, share=0.5)
        runs.append([await status(http, server) for _ in range(30)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 429}


async def test_a_server_that_is_not_up_yet_refuses_everything_but_faults(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    fault = await give(http, server, kind="error", status=503, paths="all")
    paths = (PATH, "/health", "/metrics", "/v1/models", "/nowhere")
    assert [await status(http, server, path) for path in paths] == [503] * 5
    await take_back(http, server, fault)
    assert await status(http, server, "/health") == 200


async def test_a_reset_connection(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    await give(http, server, kind="reset", count=1)
    with pytest.raises(aiohttp.ClientOSError, match="reset by peer"):
        await status(http, server)
    assert await status(http, server) == 200


@pytest.mark.parametrize("after_tokens", [0, 3])
async def test_a_stream_that_breaks_off_leaves_nothing_behind(
    serve: Serve, http: aiohttp.ClientSession, after_tokens: int
) -> None:
    one_by_one = replace(CONSTANT_STEP, overhead_s=LONGEST_LAG_S * 1.2)  # never two in a write
    slowly = replace(FAST, profile=one_by_one, time_scale=1.0)
    server = await serve(engine=slowly)
    fault = await give(http, server, kind="reset", after_tokens=after_tokens, count=1)
    async with http.post(url(server, PATH), json=CHAT | {"max_tokens": 1}) as response:
        assert response.status == 200  # what is not streamed is left alone
    async with http.post(url(server, PATH), json=LONG) as response:
        assert response.status == 200
        lines: list[bytes] = []
        with pytest.raises(aiohttp.ClientError):
            await gather_lines(response, lines)
    tokens = sum(b'"content":' in line and b'"role"' not in line for line in lines)
    assert tokens == after_tokens
    assert (await faults(http, server))[fault]["hits"] == 1
    assert holds_nothing(server)


async def test_a_hung_server_answers_nobody_until_the_fault_is_taken_back(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    fault = await give(http, server, kind="hang")
    paths = (PATH, "/health", "/metrics")
    asked = [asyncio.create_task(status(http, server, path)) for path in paths]
    await strikes(http, server, fault, len(paths))
    assert not any(task.done() for task in asked)
    await take_back(http, server, fault)
    assert await asyncio.gather(*asked) == [200] * 3


async def test_a_hung_engine_stops_streams_but_not_health_and_metrics(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    slowly = replace(FAST, profile=replace(CONSTANT_STEP, overhead_s=0.002), time_scale=1.0)
    server = await serve(engine=slowly)
    body = LONG | {"max_tokens": 60}
    async with http.post(url(server, PATH), json=body) as response:
        await response.content.readline()
        fault = await give(http, server, kind="hang", paths="generating")
        tokens = server.replica.engine.stats.generation_tokens
        late = asyncio.create_task(status(http, server))
        await strikes(http, server, fault, 1)
        assert await status(http, server, "/health") == 200
        assert "vllm:num_requests_running{" in await page(http, server)
        assert server.replica.engine.stats.generation_tokens == tokens < 60
        assert not late.done()
        await take_back(http, server, fault)
        assert (await response.text()).endswith("data: [DONE]\n\n")
    assert await late == 200


async def test_one_request_hangs_and_others_do_not(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    fault = await give(http, server, kind="hang", paths="generating", count=1)
    lost = asyncio.create_task(status(http, server))
    await strikes(http, server, fault, 1)
    assert await status(http, server) == 200
    assert not lost.done()
    lost.cancel()  # its client gives up
    await take_back(http, server)


async def test_a_fault_is_over_when_its_time_is(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    hang = await give(http, server, kind="hang", for_s=0.05)
    later = await give(http, server, kind="error", after_s=3600)
    assert await status(http, server) == 200
    known = await faults(http, server)
    assert (known[hang]["state"], known[later]["state"]) == ("over", "to come")
    assert known[later]["fault"] == {"kind": "error", "after_s": 3600}


async def test_steps_take_as_many_times_as_long_as_all_factors_say(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(engine=STALLED)  # a step takes an hour
    quick = [await give(http, server, kind="slow", factor=1e-3) for _ in range(2)]
    assert await status(http, server) == 200
    await take_back(http, server, quick[0])
    asked = asyncio.create_task(status(http, server))

    async def runs() -> bool:
        return server.replica.engine.running_requests == 1

    await until(runs)
    assert not asked.done()
    asked.cancel()


async def test_metrics_that_fail(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    await give(http, server, kind="metrics", mode="error", count=1)
    assert await status(http, server, "/metrics") == 500
    await give(http, server, kind="metrics", mode="empty", count=1)
    assert await page(http, server) == ""
    await give(http, server, kind="metrics", mode="frozen", count=2)
    before = await page(http, server)
    assert await status(http, server) == 200
    assert await page(http, server) == before
    assert await page(http, server) != before
    fault = await give(http, server, kind="metrics", mode="hang")
    hung = asyncio.create_task(page(http, server))
    await strikes(http, server, fault, 1)
    assert not hung.done()
    await take_back(http, server)
    assert "vllm:kv_cache_usage_perc{" in await hung


async def test_metrics_that_miss_a_family(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    families = ["vllm:kv_cache_usage_perc", "vllm:time_to_first_token_seconds"]
    await give(http, server, kind="metrics", mode="missing", families=families)
    text = await page(http, server)
    assert not any(family in text for family in families)
    assert "vllm:num_requests_running{" in text


def test_a_family_goes_with_all_its_samples_and_no_other() -> None:
    first, last = (
        b"# HELP a_total A.\n# TYPE a_total counter\na_total 1\n",
        b"# TYPE bc gauge\nbc 3\n",
    )
    text = first + b"# HELP b B.\n# TYPE b histogram\nb_bucket 1\nb_sum 2\n" + last
    assert without_families(text, ["b"]) == first + last


async def test_faults_are_listed_and_taken_back_one_by_one(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    several = [{"kind": "slow", "factor": 2}, {"kind": "error", "share": 0.25}]
    async with http.post(url(server, "/sim/faults"), json=several) as response:
        ids = [each["id"] for each in (await response.json())["faults"]]
    assert list(await faults(http, server)) == ids
    await take_back(http, server, ids[0])
    assert list(await faults(http, server)) == [ids[1]]
    async with http.delete(url(server, "/sim/faults"), params={"id": ids[0]}) as response:
        assert response.status == 404
        assert repr(ids[0]) in (await response.json())["error"]["message"]
    await take_back(http, server)
    assert await faults(http, server) == {}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("{", "JSON decode error"),
        ({"kind": "melt"}, "'melt' found using 'kind' does not match any of the expected tags"),
        ({}, "fault: Unable to extract tag using discriminator 'kind'"),
        ({"kind": "slow"}, "slow.factor: Field required"),
        ({"kind": "slow", "factor": 0}, "slow.factor: Input should be greater than or equal to"),
        ({"kind": "slow", "factor": 1e300}, "slow.factor: Input should be less than or equal to"),
        ({"kind": "slow", "factor": "2"}, "slow.factor: Input should be a valid number"),
        ({"kind": "error", "status": 200}, "error.status: Value error, 200 is no error"),
        ({"kind": "error", "status": 999}, "error.status: Input should be "),
        ({"kind": "error", "share": 1.5}, "error.share: Input should be less than or equal to 1"),
        ({"kind": "crash", "count": 2}, "crash.count: Extra inputs are not permitted"),
        ({"kind": "metrics", "mode": "missing"}, "names are wanted with mode missing"),
        (
            {"kind": "metrics", "mode": "missing", "families": ["vllm:nothing"]},
            "'vllm:nothing' is no family of /metrics",
        ),
        ([{"kind": "hang"}, {"kind": "slow"}], "slow.factor: Field required"),
    ],
)
async def test_wrong_faults_are_explained_and_not_given(
    serve: Serve, http: aiohttp.ClientSession, fault: object, message: str
) -> None:
    server = await serve()
    data = fault if isinstance(fault, str) else json.dumps(fault)
    async with http.post(url(server, "/sim/faults"), data=data) as response:
        assert response.status == 400
        assert message in (await response.json())["error"]["message"]
    assert await faults(http, server) == {}


async def test_a_hung_server_can_be_stopped(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve()
    fault = await give(http, server, kind="hang")
    lost = asyncio.create_task(status(http, server))
    await strikes(http, server, fault, 1)
    await server.stop(drain_s=0.0)
    with pytest.raises(aiohttp.ClientError):
        await lost


@pytest.mark.parametrize("stream", [False, True])
async def test_an_endpoint_that_breaks_leaks_nothing(
    serve: Serve,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("a bug")

    server = await serve()
    monkeypatch.setattr(choices._ChoiceStream, "tokens", broken)
    monkeypatch.setattr(choices, "_whole", broken)
    request = http.post(url(server, PATH), json=CHAT | {"stream": stream})
    if stream:
        with pytest.raises(aiohttp.ClientError):
            async with request as response:
                await response.read()
    else:
        async with request as response:
            assert response.status == 500
            assert (await response.json())["error"]["type"] == "InternalServerError"
    assert holds_nothing(server)


async def test_a_client_that_leaves_a_hung_request_leaves_nothing(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(engine=STALLED)
    request = asyncio.create_task(http.post(url(server, PATH), json=LONG))
    response = await request
    fault = await give(http, server, kind="hang")
    response.close()
    await take_back(http, server, fault)

    async def is_free() -> bool:
        return holds_nothing(server)

    await until(is_free)


async def test_who_is_let_go_by_one_fault_does_not_meet_another_that_is_over_too(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    hang = await give(http, server, kind="hang", paths="generating")
    await give(http, server, kind="error", status=503)
    waiting = asyncio.create_task(status(http, server))
    await strikes(http, server, hang, 1)
    await take_back(http, server)
    assert await waiting == 200
