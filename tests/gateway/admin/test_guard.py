"""What web pages of other sites may not do, and errors."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession

from tests.gateway.admin.source import DRAIN, Source, get


async def test_other_sites_may_change_nothing(client: ClientSession, source: Source) -> None:
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        async with client.post("/api/drain", json=DRAIN, headers=headers) as answer:
            assert answer.status == 403
            assert (await answer.json())["error"]["code"] == "cross_origin"
    async with client.post("/api/drain", data='{"pool":"main"}') as answer:
        assert answer.status == 415  # what an HTML form can send without asking first
    assert not source.drained


async def test_the_page_itself_may(client: ClientSession, source: Source) -> None:
    async with client.get("/") as answer:
        own = f"http://127.0.0.1:{answer.url.port}"
    headers = {"Origin": own, "Sec-Fetch-Site": "same-origin"}
    async with client.post("/api/drain", json=DRAIN, headers=headers) as answer:
        assert answer.status == 200
    assert source.drained


async def test_a_foreign_host_name_on_loopback_is_refused(client: ClientSession) -> None:
    status, body = await get(client, "/api/config", headers={"Host": "rebound.example"})
    assert (status, body["error"]["code"]) == (421, "foreign_host")
    for host in ("localhost:8090", "127.0.0.1", "[::1]:8090"):
        assert (await get(client, "/api/status", headers={"Host": host}))[0] == 200


async def test_errors_are_json(client: ClientSession) -> None:
    assert await get(client, "/nothing") == (
        404,
        {"error": {"code": "not_found", "message": "Not Found"}},
    )
    async with client.get("/api/drain") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "POST"
        assert (await answer.json())["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("origin", ["http://[", "[", "null", "", "http://\u00e9"])
async def test_an_origin_that_is_none_is_a_foreign_one(client: ClientSession, origin: str) -> None:
    async with client.post("/api/drain", headers={"Origin": origin}, json={}) as answer:
        assert answer.status == 403
        assert (await answer.json())["error"]["code"] == "cross_origin"
