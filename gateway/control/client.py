"""A picker worker's end: follows the assignment, sends reports, attaches again when the line
breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

import grpc

from gateway.control.assignment import Assignment, Board
from gateway.control.assignment_wire import to_assignment
from gateway.control.server import ANY_SIZE, CONTROL_SERVICE
from picker.state.spec import EndpointSpec
from picker.wire import control_pb2

log = logging.getLogger(__name__)

_REPORT_S: Final = 0.25
_RETRY_S: Final = 0.5


MakeReport = Callable[[bool], control_pb2.Report]
"""What has changed since the last report; with True everything, after attaching."""


class ControlClient:
    """Holds the assignment as the supervisor last sent it; ``report`` is called a few times a
    second while attached, and at `report_now`."""

    def __init__(self, socket: Path, *, report: MakeReport) -> None:
        self._socket = socket
        self._report = report
        self._board = Board()
        self._due = asyncio.Event()

    def report_now(self) -> None:
        """Somebody waits for what the next report says."""
        self._due.set()

    @property
    def endpoints(self) -> Mapping[str, Mapping[str, EndpointSpec]]:
        """All endpoints that are assigned now, by pool and address; `changes` may not have given
        them all yet."""
        return self._board.endpoints

    async def changes(self) -> AsyncIterator[Assignment]:
        """The assignment, then every change of it, for ever. Changes that come faster than they
        are taken come as one."""
        with self._board.reading() as reader:
            while True:
                await reader.news()
                yield reader.read()

    async def run(self) -> None:
        """Stay attached until cancelled; the assignment stays in force while detached."""
        while True:
            try:
                await self._attached()
            except grpc.aio.AioRpcError as error:
                log.warning("the supervisor is not reachable (%s); trying again", error.details())
            await asyncio.sleep(_RETRY_S)

    async def _attached(self) -> None:
        socket = f"unix:{self._socket}"
        async with grpc.aio.insecure_channel(socket, options=ANY_SIZE) as channel:
            attach: grpc.aio.StreamStreamMultiCallable[control_pb2.Report, control_pb2.Assignment]
            attach = channel.stream_stream(
                f"/{CONTROL_SERVICE}/Attach",
                request_serializer=control_pb2.Report.SerializeToString,
                response_deserializer=control_pb2.Assignment.FromString,
            )
            async for message in attach(self._reports()):
                self._board.put(to_assignment(message))

    async def _reports(self) -> AsyncIterator[control_pb2.Report]:
        yield self._report(True)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_S):
                    await self._due.wait()
            self._due.clear()
            yield self._report(False)
