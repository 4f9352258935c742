"""gRPC health: SERVING only when the pool is known, signals are fresh and nothing drains."""

from __future__ import annotations

from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from picker.core import Picker
from picker.server.ext_proc import SERVICE as EXT_PROC

_SERVICES: Final = ("", "liveness", "readiness", EXT_PROC)


class Health:
    """Check and Watch for any service name; ``liveness`` alone ignores readiness."""

    def __init__(self, picker: Picker) -> None:
        self._picker = picker
        self._servicer = health.aio.HealthServicer()
        self._known: dict[str, int] = {}

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve health on ``server``."""
        health_pb2_grpc.add_HealthServicer_to_server(_AnyName(self), server)

    @property
    def servicer(self) -> health.aio.HealthServicer:
        return self._servicer

    async def refresh(self) -> None:
        """Tell watchers what has changed; call often."""
        for service in {*_SERVICES, *self._known}:
            await self.set(service)

    async def set(self, service: str) -> None:
        """Bring one service's status up to date."""
        serving = service == "liveness" or self._picker.ready
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if serving else response.NOT_SERVING
        if self._known.get(service) != status:
            self._known[service] = status
            await self._servicer.set(service, status)


class _AnyName(health_pb2_grpc.HealthServicer):
    def __init__(self, owner: Health) -> None:
        self._owner = owner

    async def Check(  # noqa: N802 - gRPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ],
    ) -> health_pb2.HealthCheckResponse:
        await self._owner.set(request.service)
        return await self._owner.servicer.Check(request, context)

    async def Watch(  # noqa: N802 - gRPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ],
    ) -> None:
        await self._owner.set(request.service)
        await self._owner.servicer.Watch(request, context)
