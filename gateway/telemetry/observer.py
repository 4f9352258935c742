"""Sends the end of every request to the metrics and to the request log."""

from __future__ import annotations

from gateway.telemetry.metrics import PickerMetrics
from gateway.telemetry.request_log import RequestLog
from picker.seams.observer import Completed, Rejected


class TelemetryObserver:
    """A picker.seams.observer.Observer."""

    def __init__(self, metrics: PickerMetrics) -> None:
        self._metrics = metrics
        self._log: RequestLog | None = None

    def log_to(self, log: RequestLog | None) -> None:
        """Log to this one from now on. None: there is no request log."""
        self._log = log

    def rejected(self, event: Rejected) -> None:
        """The picker answered the request itself."""
        self._metrics.rejected(event)
        if self._log is not None:
            self._log.rejected(event)

    def completed(self, event: Completed) -> None:
        """A dispatched request has ended."""
        self._metrics.completed(event)
        if self._log is not None:
            self._log.completed(event)
