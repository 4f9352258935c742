"""Sends the end of every request to the metrics and to the request log."""

from __future__ import annotations

from gateway.telemetry.metrics import PickerMetrics
from gateway.telemetry.request_log import RequestLog
from picker.seams.observer import Answered, Completed, Rejected


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

    def answered(self, event: Answered) -> None:
        """The picker answered the request itself, without a replica."""
        self._metrics.answered(event)
        if self._log is not None:
            self._log.answered(event)

    def completed(self, event: Completed) -> None:
        """A dispatched request has ended."""
        self._metrics.completed(event)
        if self._log is not None:
            self._log.completed(event)
