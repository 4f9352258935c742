"""gRPC health: SERVING only when some replica can be used and nothing drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from picker.core import Picker

Request: TypeAlias = health_pb2.HealthCheckRequest
Response: TypeAlias = health_pb2.HealthCheckResponse
HealthContext: TypeAlias = grpc.aio.ServicerContext[Request, Response]

_LIVENESS: Final = "liveness"


class Health:
    """Check and Watch for any service name; ``liveness`` alone ignores readiness.

    Nothing is kept by name: names are the clients' to make up.
    """

    def __init__(self, picker: Picker) -> None:
        self._picker = picker
        self._seen_ready = False
        self._changed = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve health on ``server``."""
        health_pb2_grpc.add_HealthServicer_to_server(_Servicer(self), server)

    async def refresh(self) -> None:
        """Tell watchers what has changed; call often."""
        self._is_ready()

    def response(self, service: str) -> Response:
        """Status of a service now."""
        serving = self._is_ready() or service == _LIVENESS
        return Response(status=Response.SERVING if serving else Response.NOT_SERVING)

    def _is_ready(self) -> bool:
        ready = self._picker.ready
        if ready != self._seen_ready:
            self._seen_ready = ready
            self._changed.set()
            self._changed = asyncio.Event()
        return ready

    async def changes(self, service: str) -> AsyncIterator[Response]:
        """Status of a service now, and whenever it changes."""
        while True:
            changed, response = self._changed, self.response(service)
            yield response
            while self.response(service) == response:
                await changed.wait()
                changed = self._changed


class _Servicer(health_pb2_grpc.HealthServicer):
    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(self, request: Request, context: HealthContext) -> Response:  # noqa: N802 - gRPC's
        return self._health.response(request.service)

    async def Watch(  # noqa: N802 - gRPC's
        self, request: Request, context: HealthContext
    ) -> AsyncIterator[Response]:
        async for response in self._health.changes(request.service):
            yield response
