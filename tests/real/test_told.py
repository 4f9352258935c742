"""What the picker tells clients through Envoy: headers of its decisions, and refusals."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import h2.config
import h2.connection
import h2.events
import pytest
import pytest_asyncio

from picker.request.caller import Caller
from picker.request.head import RequestHead
from picker.request.rejection import Reason, Rejection
from picker.server.access_log import FLUSH_S
from policies.limits.plan import TenantPolicy
from policies.limits.types import Bucket, Dimension, Period, Standing, TokenBucket
from policies.limits.verdict import Denied, Refusal
from tests.picker.fleet import MODEL
from tests.picker.server.streams import chat
from tests.real.edge import Edge
from tests.real.ports import free_port
from tests.real.scripted import Engine, Script

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

PATH: Final = "/v1/chat/completions"
CHAT: Final = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
JSON: Final = {"content-type": "application/json"}
BUCKET: Final = Bucket("k", Dimension.REQUESTS, TokenBucket.per(Period.MINUTE, 60), "per minute")
STANDINGS: Final = (Standing(BUCKET, 60, 41, 19_000),)
TOLD: Final = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "41",
    "x-ratelimit-reset-requests": "19s",
}
LARGE: Final = json.dumps(
    {**CHAT, "messages": [{"role": "user", "content": "x" * 5_000_000}]}
).encode()


class Door:
    """A gate that asks for a word, at the request's headers."""

    def identify(self, head: RequestHead) -> Caller:
        """See `picker.request.caller.Gate`."""
        if "x-stranger" in head.headers:
            headers = (("www-authenticate", "Bearer"),)
            raise Rejection(Reason.INVALID_API_KEY, "Who are you?", headers=headers)
        if "x-suspended" in head.headers:
            raise Rejection(Reason.TENANT_DISABLED, "Not you.")
        return Caller(TenantPolicy("acme"))


@dataclass
class Setting:
    """A gateway, and the replica behind it."""

    edge: Edge
    engine: Engine
    http: aiohttp.ClientSession


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Setting]:
    async with (
        Engine() as engine,
        Edge([engine.address], gate=Door()) as edge,
        aiohttp.ClientSession(edge.url) as http,
    ):
        yield Setting(edge, engine, http)


@pytest.fixture
def setting(running: Setting) -> Setting:
    """Nothing is known of earlier tests."""
    running.engine.script = Script([b"{}"], headers=JSON)
    running.engine.headers.clear()
    running.edge.accounts.clear()
    running.edge.accounts.standings, running.edge.accounts.denied = STANDINGS, None
    running.edge.seen.rejections.clear()
    running.edge.seen.completions.clear()
    return running


def told(answer: aiohttp.ClientResponse) -> list[tuple[str, str]]:
    """What is left of limits, as often as it is said."""
    return sorted((name, text) for name, text in answer.headers.items() if "ratelimit" in name)


async def logged() -> None:
    """Every access log of what has ended is with the picker."""
    await asyncio.sleep(4 * FLUSH_S)


# -- headers of a decision


async def test_on_an_answer(setting: Setting) -> None:
    async with setting.http.post(PATH, json=CHAT) as answer:
        assert (answer.status, told(answer)) == (200, sorted(TOLD.items()))


async def test_on_a_stream(setting: Setting) -> None:
    setting.engine.script = Script([chat({"content": "a"})])
    async with setting.http.post(PATH, json={**CHAT, "stream": True}) as answer:
        assert told(answer) == sorted(TOLD.items())
        assert await answer.read() == chat({"content": "a"})


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_on_the_replicas_errors(setting: Setting, status: int) -> None:
    setting.engine.script = Script([b"{}"], status=status, headers=JSON)
    async with setting.http.post(PATH, json=CHAT) as answer:
        assert (answer.status, told(answer)) == (status, sorted(TOLD.items()))


async def test_they_take_the_place_of_the_replicas(setting: Setting) -> None:
    given = {**JSON, "X-RateLimit-Limit-Requests": "7", "x-other": "kept"}
    setting.engine.script = Script([b"{}"], headers=given)
    async with setting.http.post(PATH, json=CHAT) as answer:
        assert told(answer) == sorted(TOLD.items())
        assert answer.headers["x-other"] == "kept"


async def test_none_without_limits(setting: Setting) -> None:
    setting.edge.accounts.standings = ()
    async with setting.http.post(PATH, json=CHAT) as answer:
        assert told(answer) == []


@pytest.mark.parametrize("path", [PATH, "/v1/messages"])
async def test_on_envoys_own_answer_after_the_decision(path: str) -> None:
    nobody = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    async with Edge(nobody) as edge, aiohttp.ClientSession(edge.url) as session:
        edge.accounts.standings = STANDINGS
        async with session.post(path, json={**CHAT, "max_tokens": 5}) as answer:
            assert answer.status == 503
            assert dict(told(answer)).items() >= TOLD.items()
            assert len(told(answer)) == len(dict(told(answer)))
            said = await answer.json()
            kind = "overloaded_error" if path == "/v1/messages" else "server_error"
            assert said["error"]["type"] == kind
        assert await edge.settled() == []  # given back


# -- refusals


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [("x-stranger", 401, "invalid_api_key"), ("x-suspended", 403, "tenant_disabled")],
)
async def test_at_the_headers(setting: Setting, header: str, status: int, code: str) -> None:
    async with setting.http.post(PATH, json=CHAT, headers={header: "1"}) as answer:
        said = await answer.json()
    assert (answer.status, said["error"]["code"]) == (status, code)
    assert said["error"]["type"] == "invalid_request_error"
    assert ("www-authenticate" in answer.headers) == (status == 401)
    async with setting.http.post("/v1/messages", json=CHAT, headers={header: "1"}) as answer:
        said = await answer.json()
    assert (answer.status, said["type"]) == (status, "error")
    await logged()
    assert [event.reason for event in setting.edge.seen.rejections] == [code, code]
    assert (setting.engine.headers, setting.edge.seen.completions) == ([], [])
    assert setting.edge.accounts == type(setting.edge.accounts)(STANDINGS)


async def test_over_a_limit(setting: Setting) -> None:
    setting.edge.accounts.denied = Denied(BUCKET, Refusal.EMPTY, 1_500, STANDINGS)
    async with setting.http.post(PATH, json=CHAT) as answer:
        said = await answer.json()
        assert (answer.status, told(answer)) == (429, sorted(TOLD.items()))
        assert answer.headers["retry-after"] == "2"
    assert (said["error"]["code"], said["error"]["type"]) == ("rate_limit_exceeded", "requests")
    await logged()
    assert [event.status for event in setting.edge.seen.rejections] == [429]
    assert (setting.engine.headers, setting.edge.seen.completions) == ([], [])
    assert (setting.edge.accounts.settled, setting.edge.accounts.released) == ([], 0)


class AtOnce(http.client.HTTPConnection):
    """Sends head and body in one piece: Envoy closes a connection whose request it refuses before
    it has all of it."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=10)

    def ask(self, body: bytes, headers: dict[str, str]) -> None:
        head = [f"POST {PATH} HTTP/1.1", f"host: 127.0.0.1:{self.port}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        head.append(f"content-length: {len(body)}")
        self.send("\r\n".join(head).encode() + b"\r\n\r\n" + body)


def one_after_another(port: int, bodies: Sequence[tuple[bytes, dict[str, str]]]) -> list[int]:
    """The answers' statuses; AssertionError unless they come over one connection."""
    client = AtOnce(port)
    statuses, links = [], set()
    for body, headers in bodies:
        client.ask(body, {**JSON, **headers})
        links.add(client.sock)
        answer = http.client.HTTPResponse(client.sock, method="POST")
        answer.begin()
        answer.read()
        answer.close()
        statuses.append(answer.status)
        assert not answer.will_close
    assert len(links) == 1
    client.close()
    return statuses


async def test_a_connection_is_used_again_after_a_refusal(setting: Setting) -> None:
    body = json.dumps(CHAT).encode()
    asked = [(body, {"x-stranger": "1"}), (body, {"x-suspended": "1"}), (body, {})]
    statuses = await asyncio.to_thread(one_after_another, setting.edge.port, asked)
    assert statuses == [401, 403, 200]


async def test_before_the_body_has_come(setting: Setting) -> None:
    """HTTP/1.1: what is left of the body would stand in the way of the next request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", setting.edge.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"x-stranger: 1\r\ncontent-length: %d\r\n\r\n" % len(LARGE)
    )
    writer.write(LARGE[:1_000_000])
    text = await reader.readuntil(b"\r\n\r\n")
    assert text.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in text
    size = int(text.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    said = json.loads(await reader.readexactly(size))
    assert said["error"]["code"] == "invalid_api_key"
    assert await reader.read() == b""
    writer.close()
    await logged()
    assert [event.reason for event in setting.edge.seen.rejections] == ["invalid_api_key"]


async def test_clients_that_send_it_all_first(setting: Setting) -> None:
    refused = {**JSON, "x-stranger": "1"}
    for _ in range(5):
        async with setting.http.post(PATH, data=LARGE, headers=refused) as answer:
            said = await answer.json()
            assert (answer.status, said["error"]["code"]) == (401, "invalid_api_key")
    async with setting.http.post(PATH, data=LARGE, headers=JSON) as answer:
        assert answer.status == 200


def over_http2(port: int, requests: Sequence[dict[str, str]]) -> list[tuple[int, bytes, int]]:
    """Status, body and bytes sent of each request, one after another on a connection; each stops
    sending when it has its answer."""
    results = []
    client = h2.connection.H2Connection(h2.config.H2Configuration())
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        client.initiate_connection()
        for headers in requests:
            stream = client.get_next_available_stream_id()
            whole = {":method": "POST", ":path": PATH, ":scheme": "http", ":authority": "a"}
            size = str(len(LARGE))
            client.send_headers(stream, [*{**whole, **headers, "content-length": size}.items()])
            status, body, sent, ended = 0, b"", 0, False
            while not ended:
                window = client.local_flow_control_window(stream)
                room = min(window, client.max_outbound_frame_size, len(LARGE) - sent)
                if room > 0:
                    last = sent + room == len(LARGE)
                    client.send_data(stream, LARGE[sent : sent + room], end_stream=last)
                    sent += room
                link.sendall(client.data_to_send())
                link.settimeout(0.005 if room > 0 else 10)
                try:
                    events = client.receive_data(link.recv(1 << 20))
                except TimeoutError:
                    continue
                for event in events:
                    if isinstance(event, h2.events.ResponseReceived):
                        status = int(dict(event.headers)[b":status"])
                    elif isinstance(event, h2.events.DataReceived):
                        body += event.data
                    elif isinstance(event, h2.events.StreamEnded):
                        ended = True
                    elif isinstance(event, h2.events.StreamReset):
                        assert event.error_code == 0  # after the answer's end: stop sending
            results.append((status, body, sent))
    return results


async def test_before_the_body_has_come_on_http2(setting: Setting) -> None:
    asked = [{"x-stranger": "1"}, {"x-suspended": "1"}, {}]
    refused, also, taken = await asyncio.to_thread(over_http2, setting.edge.port, asked)
    assert (refused[0], json.loads(refused[1])["error"]["code"]) == (401, "invalid_api_key")
    assert (also[0], json.loads(also[1])["error"]["code"]) == (403, "tenant_disabled")
    assert max(refused[2], also[2]) < len(LARGE)
    assert taken == (200, b"{}", len(LARGE))
    await logged()
    assert len(setting.edge.seen.rejections) == 2
