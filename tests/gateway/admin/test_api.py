"""The admin API over real HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest_asyncio
from aiohttp import ClientSession, web

from gateway.admin.access import Access
from gateway.admin.api import application, metrics_application
from gateway.admin.status import (
    ConfigStatus,
    EndpointStatus,
    EnvoyStatus,
    GatewayStatus,
    PickerStatus,
    PoolStatus,
    RefusedConfig,
    ReplicaStatus,
    UnknownEndpointError,
)
from gateway.control.accounts import AccountsClient

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)


class Source:
    """A supervisor."""

    def __init__(self) -> None:
        self.not_ready: tuple[str, ...] = ()
        self.endpoints: tuple[EndpointStatus, ...] = (
            EndpointStatus("10.0.0.1:8000", healthy=True, in_flight_requests=3, kv_usage=0.5),
            EndpointStatus("10.0.0.2:8000", healthy=False, reason="<b>refused</b>"),
        )
        self.drained: list[tuple[str, str, bool]] = []

    def status(self) -> GatewayStatus:
        return GatewayStatus(
            version="0.1.0",
            started_at=NOON,
            uptime_s=60.0,
            not_ready=self.not_ready,
            config=ConfigStatus(
                4, NOON, "penstock.yaml", RefusedConfig(NOON, ("line 3: no such key",))
            ),
            envoy=EnvoyStatus("running", 12, "127.0.0.1:8080"),
            pickers=(PickerStatus("picker-0", 13, "ready", 4, 3),),
            pools=(
                PoolStatus(
                    "main",
                    "process",
                    ("llama",),
                    (ReplicaStatus("main-0", "ready", "10.0.0.1:8000", 99, restarts=2),),
                    self.endpoints,
                ),
            ),
        )

    def config_document(self) -> Mapping[str, object]:
        return {"listen": {"port": 8080}}

    async def set_draining(self, pool: str, address: str, *, draining: bool) -> None:
        if address not in {endpoint.address for endpoint in self.endpoints}:
            raise UnknownEndpointError(f"pool {pool} has no endpoint {address}")
        self.drained.append((pool, address, draining))


class NoTenants:
    """A configuration without tenants."""

    tenants = None
    accounts = AccountsClient(list)
    currency = "USD"


OPEN = Access(lambda: None)


@pytest_asyncio.fixture
async def source() -> Source:
    return Source()


async def _serve(app: web.Application) -> AsyncIterator[ClientSession]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        yield client
    await runner.cleanup()


@pytest_asyncio.fixture
async def client(source: Source, tmp_path: Path) -> AsyncIterator[ClientSession]:
    async for each in _serve(application(source, NoTenants(), OPEN, tmp_path)):
        yield each


async def _get(client: ClientSession, path: str, **options: Any) -> tuple[int, Any]:
    async with client.get(path, **options) as answer:
        return answer.status, await answer.json()


DRAIN = {"pool": "main", "endpoint": "10.0.0.1:8000"}


async def test_status_tells_everything(client: ClientSession) -> None:
    status, body = await _get(client, "/api/status")
    assert status == 200
    assert body["version"] == "0.1.0"
    assert body["config"]["refused"]["problems"] == ["line 3: no such key"]
    assert body["config"]["accepted_at"] == "2027-01-15T12:00:00Z"
    assert body["envoy"]["state"] == "running"
    assert body["pickers"][0]["in_flight_requests"] == 3
    endpoint = body["pools"][0]["endpoints"][0]
    assert (endpoint["address"], endpoint["in_flight_requests"]) == ("10.0.0.1:8000", 3)
    assert body["pools"][0]["replicas"][0]["restarts"] == 2


async def test_health_and_readiness(client: ClientSession, source: Source) -> None:
    assert (await _get(client, "/healthz"))[0] == 200
    assert await _get(client, "/readyz") == (200, {"ready": True, "missing": []})
    source.not_ready = ("picker-0 has no replica",)
    assert await _get(client, "/readyz") == (
        503,
        {"ready": False, "missing": ["picker-0 has no replica"]},
    )
    assert (await _get(client, "/healthz"))[0] == 200


async def test_config(client: ClientSession) -> None:
    assert await _get(client, "/api/config") == (200, {"listen": {"port": 8080}})


async def test_gauges_vanish_with_their_endpoint(client: ClientSession, source: Source) -> None:
    async def metrics() -> str:
        async with client.get("/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            return await answer.text()

    text = await metrics()
    assert 'penstock_endpoint_up{endpoint="10.0.0.1:8000",pool="main"} 1.0' in text
    assert 'penstock_endpoint_up{endpoint="10.0.0.2:8000",pool="main"} 0.0' in text
    assert 'penstock_in_flight_requests{endpoint="10.0.0.1:8000",pool="main"} 3.0' in text
    assert "penstock_config_refused 1.0" in text
    source.endpoints = source.endpoints[:1]
    assert "10.0.0.2" not in await metrics()


async def test_metrics_alone_on_a_second_port(source: Source, tmp_path: Path) -> None:
    async for client in _serve(metrics_application(source, OPEN, tmp_path)):
        async with client.get("/metrics", headers={"Host": "gateway.example"}) as answer:
            assert answer.status == 200
        assert (await _get(client, "/api/status"))[0] == 404


async def test_drain(client: ClientSession, source: Source) -> None:
    async with client.post("/api/drain", json=DRAIN) as answer:
        assert answer.status == 200
    async with client.post("/api/drain", json=DRAIN | {"draining": False}) as answer:
        assert answer.status == 200
    assert source.drained == [("main", "10.0.0.1:8000", True), ("main", "10.0.0.1:8000", False)]


async def test_drain_of_what_is_not_there(client: ClientSession) -> None:
    async with client.post("/api/drain", json={"pool": "main", "endpoint": "x:1"}) as answer:
        body = await answer.json()
    assert answer.status == 404
    assert body["error"] == {
        "code": "unknown_endpoint",
        "message": "pool main has no endpoint x:1",
    }


async def test_drain_with_a_wrong_body(client: ClientSession, source: Source) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (b"", b"{", b"[]", b'{"pool": 1}', b'{"pool":"a","endpoint":"b","draining":1}'):
        async with client.post("/api/drain", data=body, headers=headers) as answer:
            assert answer.status == 400
            assert "expected" in (await answer.json())["error"]["message"]
    assert not source.drained


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
    status, body = await _get(client, "/api/config", headers={"Host": "rebound.example"})
    assert (status, body["error"]["code"]) == (421, "foreign_host")
    for host in ("localhost:8090", "127.0.0.1", "[::1]:8090"):
        assert (await _get(client, "/api/status", headers={"Host": host}))[0] == 200


async def test_errors_are_json(client: ClientSession) -> None:
    assert await _get(client, "/nothing") == (
        404,
        {"error": {"code": "not_found", "message": "Not Found"}},
    )
    async with client.get("/api/drain") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "POST"
        assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_the_page_needs_nothing_from_elsewhere_and_writes_only_text(
    client: ClientSession,
) -> None:
    async with client.get("/") as answer:
        html = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    nonces = set(re.findall(r'nonce="([^"]+)"', html))
    assert len(nonces) == 1
    assert f"script-src 'nonce-{nonces.pop()}'" in policy
    assert not re.search(r"(src|href)=\"?(https?:)?//", html)
    assert "innerHTML" not in html
    assert "{{" not in html


async def test_without_tenants_it_says_what_to_configure(client: ClientSession) -> None:
    for path in ("tenants", "tenants/acme", "keys", "limits?tenant=acme", "usage"):
        status, body = await _get(client, f"/api/{path}")
        assert (status, body["error"]["code"]) == (404, "tenants_off")
        assert "identity: {api_keys: true}" in body["error"]["message"]
