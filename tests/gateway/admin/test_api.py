"""The admin API over real HTTP."""

from __future__ import annotations

import re
from pathlib import Path

from aiohttp import ClientSession

from gateway.admin.api import metrics_application
from tests.gateway.admin.source import DRAIN, OPEN, Source, get, serve


async def test_status_tells_everything(client: ClientSession) -> None:
    status, body = await get(client, "/api/status")
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
    assert (await get(client, "/healthz"))[0] == 200
    assert await get(client, "/readyz") == (200, {"ready": True, "missing": []})
    source.not_ready = ("picker-0 has no replica",)
    assert await get(client, "/readyz") == (
        503,
        {"ready": False, "missing": ["picker-0 has no replica"]},
    )
    assert (await get(client, "/healthz"))[0] == 200


async def test_config(client: ClientSession) -> None:
    assert await get(client, "/api/config") == (200, {"listen": {"port": 8080}})


async def test_metrics_alone_on_a_second_port(source: Source, tmp_path: Path) -> None:
    async for client in serve(metrics_application(source, OPEN, tmp_path)):
        async with client.get("/metrics", headers={"Host": "gateway.example"}) as answer:
            assert answer.status == 200
        assert (await get(client, "/api/status"))[0] == 404


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
        status, body = await get(client, f"/api/{path}")
        assert (status, body["error"]["code"]) == (404, "tenants_off")
        assert "identity: {api_keys: true}" in body["error"]["message"]


async def test_the_queue_by_pool_class_and_flow(client: ClientSession, source: Source) -> None:
    status, body = await get(client, "/api/queue")
    assert status == 200
    (pool,) = body["pools"]
    assert (pool["pool"], pool["saturation"]) == ("main", 0.75)
    assert (pool["requests"], pool["tokens"]) == (15, 93_020)
    high, low = pool["classes"]
    assert (high["priority"], high["requests"], high["tokens"]) == (5, 5, 3_020)
    assert (high["oldest_s"], high["service_gap_tokens"]) == (4.0, 700)
    assert low["flows"] == [
        {
            "flow": "bulk",
            "requests": 10,
            "tokens": 90_000,
            "oldest_s": 12.25,
            "predicted_wait_s": 30.0,
        }
    ]
    source.waiting = []
    assert await get(client, "/api/queue") == (200, {"pools": []})


async def test_metrics_of_queues(client: ClientSession) -> None:
    async with client.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    for line in (
        'penstock_pool_saturation{pool="main"} 0.75',
        'penstock_queue_requests{pool="main",priority="5"} 5.0',
        'penstock_queue_tokens{pool="main",priority="5"} 3020.0',
        'penstock_queue_oldest_seconds{pool="main",priority="-1"} 12.25',
        'penstock_queue_service_gap_tokens{pool="main",priority="5"} 700.0',
    ):
        assert line in lines
