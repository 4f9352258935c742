"""The supervisor's end: assigns work to attached picker workers and keeps what they report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import grpc

from gateway.control.assignment import Assignment, Board, Reader
from gateway.control.assignment_wire import from_assignment
from picker.state.spec import EndpointChanges, EndpointKey
from picker.wire import control_pb2

CONTROL_SERVICE: Final = "penstock.control.v1.Control"
ANY_SIZE: Final = (("grpc.max_receive_message_length", -1),)
"""Of messages on this line: a configuration with 20,000 tenants is above gRPC's 4 MB."""


@dataclass(slots=True)
class WorkerReport:
    """One worker, from its attaching on."""

    pid: int = 0
    picker_id: str = ""
    """The picker's own id, new at each start."""
    applied_version: int = 0
    """Of the last assignment in force there; 0: none yet."""
    ready: bool = False
    endpoints: dict[EndpointKey, control_pb2.EndpointReport] = field(default_factory=dict)
    queues: Sequence[control_pb2.PoolQueue] = ()
    predictions: dict[tuple[str, str], control_pb2.PredictionErrors] = field(default_factory=dict)
    """By pool and model."""
    shadows: Sequence[control_pb2.ShadowReport] = ()

    def merge(self, report: control_pb2.Report) -> None:
        """Take over what has changed since the worker's last report."""
        self.pid, self.picker_id = report.pid, report.picker_id
        self.applied_version, self.ready = report.applied_version, report.ready
        self.queues = report.queues
        for gone in report.gone:
            self.endpoints.pop((gone.pool, gone.address), None)
        for endpoint in report.endpoints:
            self.endpoints[endpoint.pool, endpoint.address] = endpoint
        self.shadows = report.shadows
        for errors in report.predictions:
            self.predictions[errors.pool, errors.model] = errors

    def in_flight(self, endpoint: EndpointKey) -> int:
        """Requests under way there, as far as the worker knows."""
        known = self.endpoints.get(endpoint)
        return 0 if known is None else known.in_flight_requests

    def is_healthy(self, endpoint: EndpointKey) -> bool:
        """The worker may send requests there."""
        known = self.endpoints.get(endpoint)
        return known is not None and known.healthy


class ControlServer:
    """Holds the assignment in force. A worker that attaches gets it whole, then every change of
    it; the changes of one turn of the event loop are one message."""

    def __init__(self, socket: Path, on_report: Callable[[], None]) -> None:
        """``on_report``: called after each report and when a worker has gone."""
        self._socket = socket
        self._on_report = on_report
        self._board = Board()
        self._reports: dict[str, WorkerReport] = {}
        self._server = grpc.aio.server(options=ANY_SIZE)

    async def start(self) -> None:
        """Listen on the unix socket."""
        method: grpc.RpcMethodHandler[control_pb2.Report, control_pb2.Assignment]
        method = grpc.stream_stream_rpc_method_handler(
            self._attach,
            request_deserializer=control_pb2.Report.FromString,
            response_serializer=control_pb2.Assignment.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(CONTROL_SERVICE, {"Attach": method})
        self._server.add_generic_rpc_handlers((handler,))
        self._socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()

    async def stop(self) -> None:
        """End all streams."""
        await self._server.stop(0.2)

    # -- what workers are to work by; each returns the version of the changed assignment

    def configure(self, configuration: bytes) -> int:
        """Bring a configuration (JSON, secrets resolved) into force."""
        return self._put(replace(self._board.latest, configuration=configuration))

    def change_endpoints(self, changes: Iterable[EndpointChanges]) -> int:
        """Endpoints come, change and go; at most one entry for a pool."""
        return self._put(replace(self._board.latest, endpoints=tuple(changes)))

    def proxy_ended(self, times: int) -> int:
        """Our Envoy has ended, so many times by now: what was in flight has ended unreported."""
        return self._put(replace(self._board.latest, proxy_generation=times))

    def registry_written(self) -> int:
        """A tenant or key was written."""
        latest = self._board.latest
        return self._put(replace(latest, registry_generation=latest.registry_generation + 1))

    def picker_crashed(self) -> int:
        """A picker has died: ends that were on their way to it are lost."""
        latest = self._board.latest
        return self._put(replace(latest, crash_generation=latest.crash_generation + 1))

    def _put(self, assignment: Assignment) -> int:
        self._board.put(replace(assignment, version=self._board.latest.version + 1))
        return self._board.latest.version

    # -- what workers report

    @property
    def reports(self) -> Mapping[str, WorkerReport]:
        """By worker, of attached workers only."""
        return self._reports

    def all_have_applied(self, version: int | None = None) -> bool:
        """Every attached worker works by this version of the assignment, or by the latest."""
        wanted = self._board.latest.version if version is None else version
        return all(report.applied_version >= wanted for report in self._reports.values())

    def in_flight(self, endpoint: EndpointKey) -> int:
        """Requests under way there, as the workers report; 0: it is idle."""
        return sum(report.in_flight(endpoint) for report in self._reports.values())

    def is_healthy(self, endpoint: EndpointKey) -> bool:
        """Some worker may send requests there."""
        return any(report.is_healthy(endpoint) for report in self._reports.values())

    async def _attach(
        self,
        reports: AsyncIterator[control_pb2.Report],
        context: grpc.aio.ServicerContext[control_pb2.Report, control_pb2.Assignment],
    ) -> None:
        with self._board.reading() as reader:
            async with asyncio.TaskGroup() as line:
                line.create_task(self._read(reports))
                await self._write(reader, context)

    async def _write(
        self,
        reader: Reader,
        context: grpc.aio.ServicerContext[control_pb2.Report, control_pb2.Assignment],
    ) -> None:
        while True:
            await context.write(from_assignment(reader.read()))
            await reader.news()

    async def _read(self, reports: AsyncIterator[control_pb2.Report]) -> None:
        merged, worker = WorkerReport(), ""
        try:
            async for report in reports:
                worker = report.worker
                merged.merge(report)
                self._reports[worker] = merged
                self._reported()
        finally:
            if self._reports.get(worker) is merged:  # it has not attached anew meanwhile
                del self._reports[worker]
            self._reported()

    def _reported(self) -> None:
        live = frozenset(report.picker_id for report in self._reports.values())
        if live != self._board.latest.live_pickers:
            self._put(replace(self._board.latest, live_pickers=live))
        self._on_report()
