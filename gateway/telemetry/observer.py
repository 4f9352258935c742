"""Every end of a request goes to the metrics and to the request log."""

from __future__ import annotations

from gateway.telemetry.metrics import PickerMetrics
from gateway.telemetry.request_log import RequestLog
from picker.seams.observer import Completed, Rejected


class TelemetryObserver:
    """A picker.seams.observer.Observer. ``log`` None: no request log."""

    def __init__(self, metrics: PickerMetrics, log: RequestLog | None = None) -> None:
        self._metrics = metrics
        self.log = log

    def rejected(self, event: Rejected) -> None:
        """The picker answered the request itself."""
        self._metrics.rejected(event)
        if self.log is not None:
            self.log.rejected(event)

    def completed(self, event: Completed) -> None:
        """A dispatched request has ended."""
        self._metrics.completed(event)
        if self.log is not None:
            self.log.completed(event)
