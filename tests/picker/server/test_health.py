"""gRPC health: any service name, Check and Watch, on every port."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from picker.server.health import Health
from tests.picker.fleet import POOL, address, fleet
from tests.picker.server.conftest import Served

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
READY = ("", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "anything")


async def check(channel: grpc.aio.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    status: int = (await health_pb2_grpc.HealthStub(channel).Check(request)).status
    return status


@pytest.mark.parametrize("service", [*READY, "liveness"])
async def test_check(served: Served, service: str) -> None:
    picker, clock = served.fleet.picker, served.fleet.clock
    down = SERVING if service == "liveness" else NOT_SERVING
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.health_port}") as channel:
        assert await check(channel, service) == SERVING
        clock.now_s += 60  # signals are stale
        assert await check(channel, service) == down
        served.fleet.report(1)
        assert await check(channel, service) == SERVING
        picker.mark_failed(POOL, address(1), now_s=clock.now_s, reason="refused")
        assert await check(channel, service) == down
        served.fleet.report(1)
        picker.draining = True
        assert await check(channel, service) == down


async def test_check_on_the_other_ports(served: Served) -> None:
    for unix in (True, False):
        async with served.channel(unix=unix) as channel:
            assert await check(channel, "readiness") == SERVING


@pytest.mark.parametrize("service", READY)
async def test_watch_tells_every_change_once(served: Served, service: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.health_port}") as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=service)
        )
        assert (await call.read()).status == SERVING
        await served.health.refresh()
        served.fleet.picker.draining = True
        await served.health.refresh()
        assert (await call.read()).status == NOT_SERVING
        served.fleet.picker.draining = False
        await served.health.refresh()
        await served.health.refresh()
        assert (await call.read()).status == SERVING
        call.cancel()


async def test_a_change_that_a_check_saw_first_is_told_to_watchers() -> None:
    made = fleet()
    health = Health(made.picker)
    changes = health.changes("readiness")
    assert (await anext(changes)).status == SERVING
    made.picker.draining = True
    assert health.response("readiness").status == NOT_SERVING
    await health.refresh()
    assert (await anext(changes)).status == NOT_SERVING


async def test_made_up_names_leave_nothing_behind(served: Served) -> None:
    def sizes() -> dict[str, int]:
        return {k: len(v) for k, v in vars(served.health).items() if hasattr(v, "__len__")}

    before = sizes()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.health_port}") as channel:
        for number in range(50):
            await check(channel, f"made-up-{number}" * 10)
    assert sizes() == before
