"""gRPC health: any service name, Check and Watch, on every port."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest as Request
from grpc_health.v1.health_pb2 import HealthCheckResponse as Response

from picker.server.health import Health
from tests.picker.fleet import POOL, address, fleet
from tests.picker.server.conftest import Served

SERVING = Response.SERVING
NOT_SERVING = Response.NOT_SERVING
READY = ("", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "anything")


async def check(channel: grpc.aio.Channel, service: str) -> int:
    request = Request(service=service)
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response] = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=Request.SerializeToString,
        response_deserializer=Response.FromString,
    )
    return (await method(request)).status


async def following(call: grpc.aio.UnaryStreamCall[Request, Response]) -> int:
    """The next status that a watcher is told."""
    response = await call.read()
    assert isinstance(response, Response)
    return response.status


@pytest.mark.parametrize("service", [*READY, "liveness"])
async def test_check(served: Served, service: str) -> None:
    picker, clock = served.fleet.picker, served.fleet.clock
    down = SERVING if service == "liveness" else NOT_SERVING
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.health_port}") as channel:
        assert await check(channel, service) == SERVING
        clock.now_s += 60  # no replica has answered lately: what comes is still served
        assert await check(channel, service) == SERVING
        for number in (1, 2, 3):
            picker.mark_failed(POOL, address(number), "refused", clock.now_s)
        assert await check(channel, service) == down
        served.fleet.report(1)
        assert await check(channel, service) == SERVING
        picker.mark_failed(POOL, address(1), "refused", clock.now_s)
        assert await check(channel, service) == down
        served.fleet.report(1)
        picker.drain()
        assert await check(channel, service) == down


async def test_check_on_the_other_ports(served: Served) -> None:
    for other in (served.unix_channel(served.logs), served.channel()):
        async with other as channel:
            assert await check(channel, "readiness") == SERVING


@pytest.mark.parametrize("service", READY)
async def test_watch_tells_every_change_once(served: Served, service: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.health_port}") as channel:
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response] = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=Request.SerializeToString,
            response_deserializer=Response.FromString,
        )
        call = method(Request(service=service))
        assert await following(call) == SERVING
        await served.health.refresh()
        served.fleet.picker.drain()
        await served.health.refresh()
        assert await following(call) == NOT_SERVING
        served.fleet.picker.draining = False
        await served.health.refresh()
        await served.health.refresh()
        assert await following(call) == SERVING
        call.cancel()


async def test_a_change_that_a_check_saw_first_is_told_to_watchers() -> None:
    made = fleet()
    health = Health(made.picker)
    changes = health.changes("readiness")
    assert (await anext(changes)).status == SERVING
    made.picker.drain()
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
