"""All telemetry of one picker worker: observer, metrics, request log, process log."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.config.schema.sections import RequestLogFile, Telemetry
from gateway.telemetry import logs
from gateway.telemetry.metrics import PickerMetrics
from gateway.telemetry.observer import TelemetryObserver
from gateway.telemetry.predictions import PredictionErrors
from gateway.telemetry.request_log import RequestLog
from gateway.telemetry.tenant_metrics import TenantMetrics
from picker.signals.kv_stream import KvStats
from picker.signals.scraper import ScrapeStats
from picker.state.shadow import Shadow


class WorkerTelemetry:
    """Follows the configuration. ``observer`` stays the same object."""

    def __init__(self, role: str, known_model: Callable[[str], bool]) -> None:
        self._role = role
        self._metrics = PickerMetrics(known_model)
        self.tenants = TenantMetrics()
        self._settings: Telemetry | None = None
        self._log: RequestLog | None = None
        self.observer = TelemetryObserver(self._metrics)

    @property
    def predictions(self) -> PredictionErrors:
        """How far predictions were off of late."""
        return self._metrics.predictions

    def configure(self, settings: Telemetry) -> None:
        """Use new settings. The old request log is written out first."""
        before, self._settings = self._settings, settings
        logs.set_up(settings.log_level, role=self._role)
        if before is not None and before.request_log == settings.request_log:
            return
        self.close()
        path = _request_log_path(settings)
        self._log = RequestLog(path) if path is not None else None
        self.observer.log_to(self._log)

    def sample(self, scrapes: ScrapeStats) -> None:
        """Write out waiting counts and log lines and note running totals; call it a few times a
        second."""
        self._flush()
        self._metrics.sample_cpu(time.process_time())
        self._metrics.sample_scrapes(scrapes)
        if self._log is not None:
            self._log.flush()
            self._metrics.sample_request_log(self._log.dropped_lines)

    def sample_kv_events(self, stats: KvStats, tokenized: Mapping[str, int]) -> None:
        """Note the counts of KV events, and of prompts by who has made their tokens, so far."""
        self._metrics.sample_kv_events(stats, tokenized)

    def sample_breakers(self, opened: Mapping[tuple[str, str, str], int]) -> None:
        """Note circuit breakers that were opened since the last call, by pool, endpoint and
        model."""
        self._metrics.breakers_opened(opened)

    def sample_shadow(self, pool: str, shadow: Shadow) -> None:
        """Note what has come of a pool's shadow so far."""
        self._metrics.sample_shadow(pool, shadow)

    def sample_lost(self, **counts: int) -> None:
        """Note how many reports on requests were lost so far, by kind."""
        self._metrics.sample_lost(**counts)

    def reopen_log(self) -> None:
        """The request log's file was rotated."""
        if self._log is not None:
            self._log.reopen()

    def close(self) -> None:
        """Write out the counts and the request log."""
        self._flush()
        self.observer.log_to(None)
        if self._log is not None:
            self._log.close()
            self._log = None

    def _flush(self) -> None:
        self._metrics.flush()
        self.tenants.flush()


def _request_log_path(settings: Telemetry) -> Path | None:
    if isinstance(settings.request_log, RequestLogFile):
        return settings.request_log.file
    if settings.request_log == "none":
        return None
    # A worker's own output goes to its log file; the user's stdout is the supervisor's.
    return Path(f"/proc/{os.getppid()}/fd/1")
