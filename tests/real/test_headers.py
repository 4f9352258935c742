"""Headers: what a client may not set, request ids, and what is our own business."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest
import pytest_asyncio
from multidict import CIMultiDict

from picker import names
from picker.pipeline.doors import MAX_HEADERS
from tests.real.gateway import Gateway, Json
from tests.real.replicas import Recorder, Seen

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

CHAT: Json = {"model": "recorded", "messages": [{"role": "user", "content": "hello"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorders() -> AsyncIterator[list[Recorder]]:
    """One in the pool, one outside."""
    async with Recorder() as inside, Recorder(model="outside") as outside:
        yield [inside, outside]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(
    recorders: list[Recorder], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[aiohttp.ClientSession]:
    inside, outside = (recorder.address for recorder in recorders)
    config: Json = {
        "pools": [
            {"name": "inside", "type": "static", "endpoints": [inside], "default": True},
            {"name": "outside", "type": "static", "endpoints": [outside]},
        ],
        "passthrough": ["/v1/files/*"],
        "scheduling": {"default_profile": "auto", "decision_headers": True},
    }
    async with (
        Gateway(tmp_path_factory.mktemp("headers"), config) as gateway,
        aiohttp.ClientSession(gateway.url) as made,
    ):
        yield made


async def sent_upstream(
    http: aiohttp.ClientSession, recorders: list[Recorder], headers: dict[str, str]
) -> Seen:
    """The request as the replica of the pool got it, and no other."""
    for recorder in recorders:
        recorder.seen.clear()
    answer = await http.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status == 200
    assert not recorders[1].seen
    (seen,) = recorders[0].seen
    return seen


@pytest.mark.parametrize("name", names.CLIENT_MAY_NOT_SET)
async def test_a_client_cannot_steer(
    http: aiohttp.ClientSession, recorders: list[Recorder], name: str
) -> None:
    values = {names.POOL_HEADER: "pool_outside", "x-envoy-upstream-rq-timeout-ms": "1"}
    value = values.get(name, recorders[1].address)
    seen = await sent_upstream(http, recorders, {name: value, name.title(): value})
    assert value not in seen.headers.get(name, "")


async def test_what_is_between_us_and_envoy_stays_there(
    http: aiohttp.ClientSession, recorders: list[Recorder]
) -> None:
    seen = await sent_upstream(http, recorders, {})
    ours = {names.POOL_HEADER, names.DESTINATION, names.MAX_RETRIES}
    assert not ours & seen.headers.keys()
    assert not [name for name in seen.headers if name.startswith("x-penstock")]
    answer = await http.post("/v1/chat/completions", json=CHAT)
    told = {name.lower() for name in answer.headers if name.lower().startswith("x-penstock")}
    assert told == {names.SERVED_BY, names.PREDICTED_TTFT_MS}, "as the operator allows"


async def test_the_decision_is_shown_where_the_operator_allows_it(
    http: aiohttp.ClientSession, recorders: list[Recorder]
) -> None:
    for stream in (False, True):
        async with http.post("/v1/chat/completions", json={**CHAT, "stream": stream}) as answer:
            assert answer.headers[names.SERVED_BY] == recorders[0].address
            assert float(answer.headers[names.PREDICTED_TTFT_MS]) > 0


async def test_other_headers_reach_the_replica(
    http: aiohttp.ClientSession, recorders: list[Recorder]
) -> None:
    given = {"authorization": "Bearer secret", "x-something": "a, b", "traceparent": "00-1-2-01"}
    seen = await sent_upstream(http, recorders, given)
    assert given.items() <= seen.headers.items()


@pytest.mark.parametrize("mine", ["mine-1", "018f8a2e-1c3d-7a4b-8c5d-6e7f8a9b0c1d"])
async def test_a_request_id_is_kept_or_made(
    http: aiohttp.ClientSession, recorders: list[Recorder], mine: str
) -> None:
    for recorder in recorders:
        recorder.seen.clear()
    given = await http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": mine})
    made = await http.post("/v1/chat/completions", json=CHAT)
    again = await http.post("/v1/chat/completions", json=CHAT)
    upstream = [seen.headers["x-request-id"] for seen in recorders[0].seen]
    assert upstream == [one.headers["x-request-id"] for one in (given, made, again)]
    assert upstream[0] == mine
    assert len(upstream[1]) == 36
    assert upstream[1] != upstream[2]


@pytest.mark.parametrize(
    ("more", "status"), [(105, 200), (MAX_HEADERS, 431), (185, 431), (400, 431)]
)
@pytest.mark.parametrize("repeated", [False, True])
async def test_many_headers_pass_and_too_many_are_the_clients_fault(
    http: aiohttp.ClientSession, more: int, status: int, repeated: bool
) -> None:
    headers = [("x-many" if repeated else f"x-many-{n}", str(n)) for n in range(more)]
    answer = await http.post("/v1/chat/completions", json=CHAT, headers=CIMultiDict(headers))
    assert answer.status == status
    if status == 431:
        assert (await answer.json())["error"]["code"] == "request_headers_too_large"


async def test_errors_carry_the_request_id_too(http: aiohttp.ClientSession) -> None:
    refused = await http.post(
        "/v1/chat/completions", json={"model": "nothing"}, headers={"x-request-id": "mine-2"}
    )
    assert (refused.status, refused.headers["x-request-id"]) == (400, "mine-2")


async def test_answers_come_uncompressed(
    http: aiohttp.ClientSession, recorders: list[Recorder]
) -> None:
    seen = await sent_upstream(http, recorders, {"accept-encoding": "gzip, br"})
    assert "accept-encoding" not in seen.headers
    answer = await http.post("/v1/chat/completions", json=CHAT, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert await answer.json() == {}


async def test_the_query_string_reaches_the_replica(
    http: aiohttp.ClientSession, recorders: list[Recorder]
) -> None:
    recorders[0].seen.clear()
    await http.post("/v1/chat/completions?api-version=1&x=%26y", json=CHAT)
    assert recorders[0].seen[0].path == "/v1/chat/completions?api-version=1&x=%26y"


async def test_curl_waiting_for_100_continue_is_served(http: aiohttp.ClientSession) -> None:
    answer = await http.post("/v1/chat/completions", json=CHAT, expect100=True)
    assert answer.status == 200


async def test_many_methods_pass(http: aiohttp.ClientSession, recorders: list[Recorder]) -> None:
    recorders[0].seen.clear()
    methods = ["GET", "DELETE", "PUT", "PATCH", "OPTIONS"]
    await asyncio.gather(*(http.request(one, "/v1/files/1") for one in methods))
    assert sorted(seen.method for seen in recorders[0].seen) == sorted(methods)


ODD_HEADERS = (
    *(names.SESSION_ID, names.SESSION_TOKEN, names.REQUEST_ID, names.CONDITIONAL_DECODE),
    *names.OBJECTIVE,
    *names.FAIRNESS_ID,
    *names.CLIENT_MAY_NOT_SET,
    *("authorization", "api-key", "content-type", "content-encoding", "accept-encoding", "te"),
    *("traceparent", "x-llm-d-slo-ttft-ms", "x-forwarded-for", "cookie", "expect", "via"),
)
ODD_VALUES = (
    *(
        b"\xe9",
        "é😀".encode(),
        b"\xff\xfe",
        b"!!!!",
        b"9" * 400,
        b"-1",
        b"1e400",
        b"NaN",
        b"x" * 9_000,
    ),
    *(
        b"gzip, br",
        b"multipart/form-data",
        b"Bearer",
        b"eyJ.a.b",
        b"%00",
        b"\t",
        b", ,",
        b"{}",
        b"",
    ),
)
QUERIES = (b"", b"", b"?%00", b"?x=%ff", b"?" + b"q" * 2_000, b"?a=\xe9")


async def test_no_header_and_no_query_makes_a_5xx(http: aiohttp.ClientSession) -> None:
    chosen = random.Random(9)
    body = orjson.dumps(CHAT)
    requests = [{names.SESSION_TOKEN: value} for value in ODD_VALUES]
    for _ in range(60):
        few = chosen.sample(ODD_HEADERS, chosen.randint(1, 3))
        requests.append({name: chosen.choice(ODD_VALUES) for name in few})
    for headers in requests:
        status, answer = await _raw(http, chosen.choice(QUERIES), headers, body)
        assert 200 <= status < 500, (headers, answer)


async def _raw(
    http: aiohttp.ClientSession, query: bytes, headers: dict[str, bytes], body: bytes
) -> tuple[int, bytes]:
    """A request that no client would write, and the beginning of its answer."""
    given = {"host": b"x", "content-type": b"application/json", "connection": b"close", **headers}
    given["content-length"] = str(len(body)).encode()
    lines = b"".join(b"%s: %s\r\n" % (name.encode(), value) for name, value in given.items())
    url = http._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(b"POST /v1/chat/completions%s HTTP/1.1\r\n" % query + lines + b"\r\n" + body)
        async with asyncio.timeout(20):
            answer = await reader.read(2_000)
    finally:
        writer.close()
    return int(answer.split()[1]), answer
