"""A picker worker's end: hears assignments, sends reports, attaches again when the line breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import grpc

from gateway.control.server import SERVICE
from picker.wire import control_pb2

log = logging.getLogger(__name__)

_REPORT_S: Final = 0.25
_RETRY_S: Final = 0.5


class ControlClient:
    """Calls ``apply`` with every assignment; ``report`` is asked a few times a second."""

    def __init__(
        self,
        socket: Path,
        *,
        apply: Callable[[control_pb2.Assignment], None],
        report: Callable[[], control_pb2.Report],
    ) -> None:
        self._socket = socket
        self._apply = apply
        self._report = report

    async def run(self) -> None:
        """Stay attached until cancelled; the last assignment stays in force while detached."""
        while True:
            try:
                await self._attached()
            except grpc.aio.AioRpcError as error:
                log.warning("the supervisor is not reachable (%s); trying again", error.details())
            await asyncio.sleep(_RETRY_S)

    async def _attached(self) -> None:
        async with grpc.aio.insecure_channel(f"unix:{self._socket}") as channel:
            attach: grpc.aio.StreamStreamMultiCallable[control_pb2.Report, control_pb2.Assignment]
            attach = channel.stream_stream(
                f"/{SERVICE}/Attach",
                request_serializer=control_pb2.Report.SerializeToString,
                response_deserializer=control_pb2.Assignment.FromString,
            )
            async for assignment in attach(self._reports()):
                self._apply(assignment)

    async def _reports(self) -> AsyncIterator[control_pb2.Report]:
        while True:
            yield self._report()
            await asyncio.sleep(_REPORT_S)
