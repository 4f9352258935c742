"""What comes to the clients' port and is no ordinary request: browsers, old HTTP, upgrades,
probes, broken requests. Keys are asked for."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.replicas import Recorder

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

KEY = "psk_front_door_0123456789abcdef"
AUTHORIZED = f"authorization: Bearer {KEY}\r\n"
PAGE = "https://app.example"
BODY = json.dumps({"model": "recorded", "prompt": "x"})
LENGTH = f"content-length: {len(BODY)}\r\n"
SHOWN = "access-control-allow-origin"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with Recorder() as recorder:
        config: Json = {
            "listen": {"upload_idle_timeout_s": 1},
            "picker": {"decision_timeout_s": 0.5},
            "pools": [{"name": "p", "type": "static", "endpoints": [recorder.address]}],
            "cors": {"origins": [PAGE, "https://*.pages.example"], "max_age_s": 5},
            "identity": {},
            "tenants": [
                {
                    "name": "acme",
                    "keys": [{"id": "k", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}],
                    "limits": [{"count": "requests", "limit": 1000, "period": "minute"}],
                }
            ],
        }
        async with Gateway(tmp_path_factory.mktemp("front-door"), config) as running:
            yield running


async def raw(gateway: Gateway, request: str, body: str = "") -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the first answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write((request.replace("HOST", "host: x\r\n") + "\r\n" + body).encode("latin-1"))
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode()
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        length = int(headers.get("content-length", 0))
        return int(status.split()[1]), headers, (await reader.readexactly(length)).decode()
    finally:
        writer.close()


async def logged(gateway: Gateway, before: int, path: str, status: int) -> Json:
    """The line of the request log that came for it."""
    found: list[Json] = []

    async def there() -> bool:
        lines = gateway.request_log()[before:]
        found[:] = [x for x in lines if (x["path"], x["status"]) == (path, status)]
        return bool(found)

    await eventually(there, f"a line for {path}, {status}")
    return found[0]


# -- browsers


@pytest.mark.parametrize("origin", [PAGE, "https://a.pages.example"])
async def test_a_preflight_needs_no_key(gateway: Gateway, origin: str) -> None:
    status, headers, _ = await raw(
        gateway,
        f"OPTIONS /v1/chat/completions HTTP/1.1\r\nHOSTorigin: {origin}\r\n"
        "access-control-request-method: POST\r\n"
        "access-control-request-headers: authorization,content-type,x-stainless-lang\r\n",
    )
    assert (status, headers[SHOWN]) == (200, origin)
    assert "POST" in headers["access-control-allow-methods"]
    allowed = headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "content-type", "x-stainless-lang"} <= set(allowed)
    assert headers["access-control-max-age"] == "5"


@pytest.mark.parametrize(
    ("request_line", "more", "status"),
    [
        ("GET /v1/models", AUTHORIZED, 200),
        ("GET /v1/models", "", 401),
        ("GET /v1/models/none", AUTHORIZED, 404),
        ("GET /nothing", AUTHORIZED, 404),
        ("GET /health", "", 200),
        ("POST /v1/completions", AUTHORIZED + LENGTH, 200),
        ("POST /v1/completions", AUTHORIZED, 400),
        ("POST /v1/completions", AUTHORIZED + "content-length: 9\r\n", 408),
    ],
)
async def test_a_page_can_read_every_answer(
    gateway: Gateway, request_line: str, more: str, status: int
) -> None:
    request = f"{request_line} HTTP/1.1\r\nHOSTorigin: {PAGE}\r\n{more}"
    got, headers, _ = await raw(gateway, request, BODY if LENGTH in more else "")
    assert (got, headers.get(SHOWN)) == (status, PAGE)
    assert "x-ratelimit-remaining-requests" in headers["access-control-expose-headers"]


async def test_other_pages_cannot_read_anything(gateway: Gateway) -> None:
    for line in ("origin: https://evil.example\r\n", ""):
        for request in ("OPTIONS /v1/completions", "GET /v1/models"):
            asked = line and "access-control-request-method: POST\r\n"
            _, headers, _ = await raw(
                gateway, f"{request} HTTP/1.1\r\nHOST{AUTHORIZED}{line}{asked}"
            )
            assert SHOWN not in headers


# -- probes


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("OPTIONS * HTTP/1.1", 204),
        ("OPTIONS /v1/completions HTTP/1.1", 204),
        ("GET /health HTTP/1.1", 200),
        ("HEAD /health HTTP/1.1", 200),
        ("POST /ping HTTP/1.1", 200),
        ("GET /health HTTP/1.0", 200),
    ],
)
async def test_probes_need_no_key(gateway: Gateway, request_line: str, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"{request_line}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert int(answer.split()[1]) == status
    assert (b"allow: " in answer) == (status == 204)


# -- HTTP that is old, new or broken


async def test_http_1_0_is_served(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"POST /v1/completions HTTP/1.0\r\n{AUTHORIZED}{LENGTH}\r\n{BODY}".encode())
    answer = await asyncio.wait_for(reader.read(), 20)  # to the end of the connection
    writer.close()
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert answer.endswith(b"\r\n\r\n{}")


UPGRADE = "connection: upgrade\r\nupgrade: "
BROKEN = [
    ("GET /v1/realtime?model=m HTTP/1.1\r\nHOST" + UPGRADE + "websocket\r\n", 403, "websocket"),
    ("GET /v1/models HTTP/1.1\r\nHOST" + UPGRADE + "foo/2\r\n", 403, "foo/2"),
    ("GET /v1/models HTTP/1.1\r\n", 400, "Host"),
    ("GET /v1/models%00 HTTP/1.1\r\nHOST", 400, "NUL"),
    ("GET /v1/models HTTP/1.1\r\nHOSTx: " + 70_000 * "a" + "\r\n", 431, "60 KiB"),
    ("GET /v1/models HTTP/1.1\r\nHOST" + 220 * "x: a\r\n", 431, "150"),
    ("POST /v1/x HTTP/1.1\r\nHOSTtransfer-encoding: gzip\r\n", 400, "Transfer-Encoding"),
    (
        "POST /v1/x HTTP/1.1\r\nHOSTtransfer-encoding: chunked\r\ncontent-length: 1\r\n",
        400,
        "eithe",
    ),
    ("POST /v1/x HTTP/1.1\r\nHOSTcontent-length: x\r\n", 400, "not valid HTTP"),
    ("\x16\x03\x01\x02\x00\x01\r\n", 400, "not valid HTTP"),
    (f"POST /v1/messages HTTP/1.1\r\nHOST{AUTHORIZED}content-length: 9\r\n", 408, "stalled"),
]


@pytest.mark.parametrize(("request_", "status", "says"), BROKEN)
async def test_what_envoy_refuses_says_what_was_wrong_and_is_logged(
    gateway: Gateway, request_: str, status: int, says: str
) -> None:
    before = len(gateway.request_log())
    got, headers, body = await raw(gateway, request_)
    error = json.loads(body)["error"]
    assert (got, headers["content-type"]) == (status, "application/json")
    assert says in error["message"]
    first = request_.split()[1] if "HOST" in request_ else ""
    path = first.partition("?")[0] if status in (403, 408) or "%00" in first else None
    if path is None:  # Envoy has not read it
        path = "/v1/models" if says == "Host" else ""
    line = await logged(gateway, before, path, status)
    if path == "/v1/messages":
        assert (json.loads(body)["type"], error["type"]) == ("error", "timeout_error")
        assert line["reason"] == "request_timeout"
    else:
        assert line["reason"] == error["code"]


async def test_an_offer_of_http_2_is_not_taken_up(gateway: Gateway) -> None:
    request = f"POST /v1/completions HTTP/1.1\r\nHOST{AUTHORIZED}{LENGTH}{UPGRADE}h2c\r\n"
    status, _, body = await raw(gateway, request, BODY)
    assert (status, body) == (200, "{}")


async def test_a_slow_upload_that_goes_on_is_served(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"POST /v1/completions HTTP/1.1\r\nhost: x\r\n{AUTHORIZED}{LENGTH}\r\n".encode())
    for part in (BODY[:5], BODY[5:10], BODY[10:15], BODY[15:]):
        await asyncio.sleep(0.6)  # within upload_idle_timeout_s each, over it together
        writer.write(part.encode())
    status = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    assert b" 200 " in status
