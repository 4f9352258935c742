"""What an attached picker worker has reported, all its reports as one."""

from __future__ import annotations

from dataclasses import dataclass, field

from picker.state.endpoints import EndpointKey
from picker.wire import control_pb2


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

    def merge(self, report: control_pb2.Report) -> None:
        """Take over what has changed since the worker's last report."""
        self.pid, self.picker_id = report.pid, report.picker_id
        self.applied_version, self.ready = report.applied_version, report.ready
        for gone in report.gone:
            self.endpoints.pop((gone.pool, gone.address), None)
        for endpoint in report.endpoints:
            self.endpoints[endpoint.pool, endpoint.address] = endpoint

    def in_flight(self, endpoint: EndpointKey) -> int:
        """Requests under way there, as far as the worker knows."""
        known = self.endpoints.get(endpoint)
        return 0 if known is None else known.in_flight_requests

    def is_healthy(self, endpoint: EndpointKey) -> bool:
        """The worker may send requests there."""
        known = self.endpoints.get(endpoint)
        return known is not None and known.healthy
