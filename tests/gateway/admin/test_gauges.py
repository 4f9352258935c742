"""Gauges of the status."""

from __future__ import annotations

from aiohttp import ClientSession

from tests.gateway.admin.source import Source


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
