"""docs/telemetry.md names every metric and every field of the request log."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import orjson
from prometheus_client import CollectorRegistry

from gateway.admin.batches import BatchCollector
from gateway.admin.gauges import StatusCollector
from gateway.admin.status import ConfigStatus, EnvoyStatus, GatewayStatus
from gateway.batches.store import Totals
from gateway.limits.outage_counters import OutageCounters
from gateway.telemetry.metrics import PickerMetrics
from gateway.telemetry.request_log import RequestLog
from gateway.telemetry.tenant_metrics import TenantMetrics
from picker.seams.observer import Completed

DOCS = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text()


def test_every_metric_is_documented_and_the_other_way_round() -> None:
    registry = CollectorRegistry()
    PickerMetrics(lambda _: True, registry)
    TenantMetrics(registry)
    now = datetime.now(UTC)
    config, envoy = ConfigStatus(1, now, ""), EnvoyStatus("running")
    registry.register(StatusCollector(GatewayStatus("0", now, 0.0, (), config, envoy)))
    registry.register(BatchCollector(Totals({}, {}, None, 0), 0.0))
    exported = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }
    assert set(re.findall(r"^\| `(penstock_\w+)`", DOCS, re.MULTILINE)) == exported


def test_every_event_of_an_outage_is_documented() -> None:
    section = DOCS.partition("Events of `penstock_limit_store_outage_events_total`")[2]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.MULTILINE)
    events = {event.strip("`") for row in rows for event in row.split(", ")}
    assert {field.name for field in fields(OutageCounters)} <= events


def test_every_field_of_the_request_log_is_documented(
    tmp_path: Path, completed: Callable[..., Completed]
) -> None:
    log = RequestLog(tmp_path / "log")
    log.completed(completed())
    log.close()
    told = orjson.loads((tmp_path / "log").read_bytes())
    section = DOCS.partition("## Request log")[2].partition("```json")[0]
    assert set(told) <= set(re.findall(r"`(\w+)`", section))
