"""The supervisor's end: assigns work to attached picker workers and keeps their last report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import grpc

from picker.state.endpoints import EndpointSpec
from picker.wire import control_pb2

log = logging.getLogger(__name__)

SERVICE: Final = "penstock.control.v1.Control"


class ControlServer:
    """Holds the assignment in force; every change of it goes to all workers at once."""

    def __init__(self, socket: Path, on_report: Callable[[], None]) -> None:
        self.reports: dict[str, control_pb2.Report] = {}
        """Last report by worker, of attached workers only."""
        self._socket = socket
        self._on_report = on_report
        self._assignment = control_pb2.Assignment()
        self._changed = asyncio.Event()
        self._server = grpc.aio.server()

    @property
    def version(self) -> int:
        """Version of the assignment in force."""
        return self._assignment.version

    async def start(self) -> None:
        """Listen on the unix socket."""
        method: grpc.RpcMethodHandler[control_pb2.Report, control_pb2.Assignment]
        method = grpc.stream_stream_rpc_method_handler(
            self._attach,
            request_deserializer=control_pb2.Report.FromString,
            response_serializer=control_pb2.Assignment.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(SERVICE, {"Attach": method})
        self._server.add_generic_rpc_handlers((handler,))
        self._socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()

    async def stop(self) -> None:
        """End all streams."""
        await self._server.stop(0.2)

    def assign(
        self,
        *,
        configuration: bytes | None = None,
        pools: Mapping[str, Iterable[EndpointSpec]] | None = None,
        proxy_generation: int | None = None,
        live_pickers: Iterable[str] | None = None,
        registry_written: bool = False,
        picker_crashed: bool = False,
    ) -> int:
        """Change the assignment, and return its version; what is not given stays."""
        changed = control_pb2.Assignment()
        changed.CopyFrom(self._assignment)
        if configuration is not None:
            changed.configuration = configuration
        if pools is not None:
            changed.ClearField("pools")
            for name, specs in pools.items():
                members = [
                    control_pb2.Endpoint(address=spec.address, draining=spec.draining)
                    for spec in specs
                ]
                changed.pools.append(control_pb2.PoolEndpoints(pool=name, endpoints=members))
        if proxy_generation is not None:
            changed.proxy_generation = proxy_generation
        if live_pickers is not None:
            changed.ClearField("live_pickers")
            changed.live_pickers.extend(live_pickers)
        if registry_written:
            changed.registry_generation += 1
        if picker_crashed:
            changed.crash_generation += 1
        changed.version = self._assignment.version + 1
        self._assignment = changed
        self._changed.set()
        self._changed = asyncio.Event()
        return self.version

    async def _attach(
        self,
        reports: AsyncIterator[control_pb2.Report],
        context: grpc.aio.ServicerContext[control_pb2.Report, control_pb2.Assignment],
    ) -> None:
        seen: set[str] = set()
        reader = asyncio.create_task(self._read(reports, seen))
        try:
            sent = b""
            while True:
                changed, assignment = self._changed, self._assignment
                message = control_pb2.Assignment()
                message.CopyFrom(assignment)
                if message.configuration == sent:
                    message.ClearField("configuration")
                else:
                    sent = assignment.configuration
                await context.write(message)
                await changed.wait()
        finally:
            reader.cancel()
            for worker in seen:
                self.reports.pop(worker, None)
            self._on_report()

    async def _read(self, reports: AsyncIterator[control_pb2.Report], seen: set[str]) -> None:
        async for report in reports:
            seen.add(report.worker)
            self.reports[report.worker] = report
            self._on_report()
