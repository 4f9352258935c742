"""A supervisor without tenants, for tests of the admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientSession, web

from gateway.admin.access import Access
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
from gateway.control.decisions import DecisionsClient
from picker.admission.sight import ClassSight, FlowSight, PoolSight

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)
OPEN = Access(lambda: None)
DRAIN = {"pool": "main", "endpoint": "10.0.0.1:8000"}


QUEUE = PoolSight(
    "main",
    0.75,
    (
        ClassSight(
            5,
            (FlowSight("acme", 3, 3000.0, 4.0, 2.5), FlowSight("", 2, 20.0, 1.0, 0.5)),
            gap=700.0,
        ),
        ClassSight(-1, (FlowSight("bulk", 10, 90_000.4, 12.25, 30.0),), gap=0.0),
    ),
)


class Source:
    """A supervisor."""

    def __init__(self) -> None:
        self.not_ready: tuple[str, ...] = ()
        self.endpoints: tuple[EndpointStatus, ...] = (
            EndpointStatus("10.0.0.1:8000", healthy=True, in_flight_requests=3, kv_usage=0.5),
            EndpointStatus("10.0.0.2:8000", healthy=False, reason="<b>refused</b>"),
        )
        self.decisions = DecisionsClient(list)
        self.drained: list[tuple[str, str, bool]] = []
        self.waiting: list[PoolSight] = [QUEUE]

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

    def queues(self) -> list[PoolSight]:
        return self.waiting

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


async def serve(app: web.Application) -> AsyncIterator[ClientSession]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        yield client
    await runner.cleanup()


async def get(client: ClientSession, path: str, **options: Any) -> tuple[int, Any]:
    async with client.get(path, **options) as answer:
        return answer.status, await answer.json()
