"""Prometheus across processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry import multiprocess

WORKER = """
from prometheus_client import Gauge
from gateway.telemetry.metrics import PickerMetrics
from picker.seams.observer import Rejected
from picker.request.labels import RequestLabels
metrics = PickerMetrics(lambda model: True)
labels = RequestLabels("id", "tenant", "llama", "main", "/")
for _ in range(3):
    metrics.rejected(Rejected(labels, 503, "no_endpoints", 0.001))
metrics.flush()
Gauge("penstock_test_live", "Lives with its worker.", multiprocess_mode="livesum").set(1)
import os
print(os.getpid())
"""


def _work(directory: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def _values(directory: Path) -> dict[str, float]:
    body, content_type = multiprocess.render(directory)
    assert content_type.startswith("text/plain")
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_workers_are_added_up_and_the_dead_leave_only_counters(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    first, second = _work(directory), _work(directory)
    before = _values(directory)
    assert before["penstock_requests_total"] == 6
    assert before["penstock_decision_seconds_count"] == 6
    assert before["penstock_test_live"] == 2
    multiprocess.worker_ended(first, directory)
    multiprocess.worker_ended(second, directory)
    after = _values(directory)
    assert after["penstock_requests_total"] == 6
    assert "penstock_test_live" not in after
