"""Who may use the admin API."""

from __future__ import annotations

import base64
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web

from gateway.admin.access import Access
from gateway.admin.api import metrics_application
from tests.gateway.admin.place import Place, Status, place

TOKEN = "correct horse battery staple ü"


@pytest.fixture
async def running() -> AsyncIterator[tuple[Place, ClientSession]]:
    async with place() as (made, url), ClientSession(url) as client:
        made.token = TOKEN
        yield made, client


Running = tuple[Place, ClientSession]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


async def status(client: ClientSession, path: str, **headers: str) -> int:
    async with client.get(path, headers=headers) as answer:
        return answer.status


async def test_everything_but_health_needs_the_token(running: Running) -> None:
    _, client = running
    for path in ("/", "/metrics", "/api/status", "/api/config", "/api/tenants", "/nothing"):
        async with client.get(path) as answer:
            assert answer.status == 401
            assert [one.split()[0] for one in answer.headers.getall("WWW-Authenticate")] == [
                "Bearer",
                "Basic",
            ]
            assert (await answer.json())["error"]["code"] == "unauthorized"
    assert await status(client, "/healthz") == 200
    assert await status(client, "/readyz") == 200


async def test_the_token_as_bearer_or_as_password(running: Running) -> None:
    made, client = running
    made.token = "abc:def"
    assert await status(client, "/api/status", Authorization="Bearer abc:def") == 200
    assert await status(client, "/api/status", Authorization="bearer abc:def") == 200
    assert await status(client, "/", **basic("anybody", "abc:def")) == 200
    assert await status(client, "/", **basic("", "abc:def")) == 200
    made.token = TOKEN
    assert await status(client, "/", **basic("anybody", TOKEN)) == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer correct horse battery",
        f"Token {TOKEN}",
        TOKEN,
        "Basic ???",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"user:\xff").decode(),
        "Bearer \x80\xff",
    ],
)
async def test_anything_else_is_refused_and_counted(running: Running, authorization: str) -> None:
    made, client = running
    assert await status(client, "/api/status", Authorization=authorization) == 401
    assert made.access.refused == 1


async def test_a_new_token_applies_at_once(running: Running) -> None:
    made, client = running
    made.token = "old"
    assert await status(client, "/api/status", Authorization="Bearer old") == 200
    made.token = "new"
    assert await status(client, "/api/status", Authorization="Bearer old") == 401
    assert await status(client, "/api/status", Authorization="Bearer new") == 200


async def test_refusals_are_a_metric_and_metrics_have_an_open_port(running: Running) -> None:
    made, client = running
    await status(client, "/api/status")
    runner = web.AppRunner(metrics_application(Status(), made.access, made.socket.parent))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with client.get(f"http://127.0.0.1:{runner.addresses[0][1]}/metrics") as answer:
            assert "penstock_admin_refused_total 1.0" in await answer.text()
    finally:
        await runner.cleanup()


async def test_without_a_token_nobody_else_gets_in() -> None:
    """The configuration is refused for that; this is for an address that was changed since."""
    access = Access(lambda: None)

    async def hello(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[access.middleware])
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    port = runner.addresses[0][1]
    own = _own_address()
    try:
        async with ClientSession() as client:
            assert await status(client, f"http://127.0.0.1:{port}/") == 200
            if own is not None:
                assert await status(client, f"http://{own}:{port}/") == 403
    finally:
        await runner.cleanup()


def _own_address() -> str | None:
    """An address of this machine that is not loopback. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])
