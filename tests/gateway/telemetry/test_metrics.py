"""The metrics that an operator sees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry import multiprocess
from gateway.telemetry.labels import LabelLimiter
from gateway.telemetry.metrics import PickerMetrics
from picker.seams.observer import Completed, Rejected
from picker.signals.scraper import ScrapeStats

MODEL = {"model": "llama", "pool": "main"}
ENDPOINT = {"pool": "main", "endpoint": "10.0.0.1:8000"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> PickerMetrics:
    return PickerMetrics(lambda model: model.startswith("llama"), registry)


def test_a_completed_request(
    metrics: PickerMetrics, registry: CollectorRegistry, completed: Callable[..., Completed]
) -> None:
    metrics.completed(completed())

    def value(name: str, labels: dict[str, str]) -> float | None:
        return registry.get_sample_value(f"penstock_{name}", labels)

    assert value("requests_total", MODEL | {"status": "200", "reason": "ok"}) == 1
    assert value("input_tokens_total", MODEL) == 100
    assert value("output_tokens_total", MODEL) == 11
    assert value("cached_tokens_total", MODEL) == 64
    assert value("ttft_seconds_sum", MODEL) == 0.25
    assert value("tpot_seconds_sum", MODEL) == pytest.approx(0.1)
    assert value("request_duration_seconds_sum", MODEL) == 1.25
    assert value("decision_seconds_count", MODEL) == 1
    assert value("endpoint_prompt_tokens_total", ENDPOINT) == 100
    assert value("endpoint_matched_tokens_total", ENDPOINT) == 80
    assert value("endpoint_cached_tokens_total", ENDPOINT) == 64
    assert value("estimated_usage_total", MODEL) == 0


def test_an_aborted_request_has_no_first_token_and_no_endpoint(
    metrics: PickerMetrics, registry: CollectorRegistry, completed: Callable[..., Completed]
) -> None:
    metrics.completed(
        completed(endpoint="", status=0, reason="client_aborted", ttft_s=None, usage_reported=False)
    )
    labels = MODEL | {"status": "0", "reason": "client_aborted"}
    assert registry.get_sample_value("penstock_requests_total", labels) == 1
    assert registry.get_sample_value("penstock_ttft_seconds_count", MODEL) == 0
    assert registry.get_sample_value("penstock_estimated_usage_total", MODEL) == 1
    assert registry.get_sample_value("penstock_endpoint_prompt_tokens_total", ENDPOINT) is None


def test_a_rejected_request(
    metrics: PickerMetrics, registry: CollectorRegistry, rejected: Callable[..., Rejected]
) -> None:
    metrics.rejected(rejected())
    labels = {"model": "llama", "pool": "", "status": "404", "reason": "model_not_found"}
    assert registry.get_sample_value("penstock_requests_total", labels) == 1
    rejection = {"pool": "", "reason": "model_not_found"}
    assert registry.get_sample_value("penstock_rejections_total", rejection) == 1


def test_clients_cannot_make_series(
    metrics: PickerMetrics, registry: CollectorRegistry, rejected: Callable[..., Rejected]
) -> None:
    for i in range(1000):
        metrics.rejected(rejected(model=f"made-up-{i}"))
    labels = {"model": "unknown", "pool": "", "status": "404", "reason": "model_not_found"}
    assert registry.get_sample_value("penstock_requests_total", labels) == 1000


def test_known_names_over_the_cap_become_other() -> None:
    limit = LabelLimiter(2, lambda name: name != "stranger")
    assert [limit(n) for n in ("a", "b", "c", "a", "stranger", "")] == [
        "a", "b", "other", "a", "unknown", "unknown",
    ]  # fmt: skip


def test_running_totals_become_counters(
    metrics: PickerMetrics, registry: CollectorRegistry
) -> None:
    stats = ScrapeStats()
    for scrapes, refused, cpu_s in ((5, 1, 0.5), (9, 3, 2.0)):
        stats.scrapes = scrapes
        stats.failures["refused"] = refused
        metrics.sample_scrapes(stats)
        metrics.sample_cpu(cpu_s)
    assert registry.get_sample_value("penstock_scrapes_total") == 9
    assert registry.get_sample_value("penstock_scrape_failures_total", {"reason": "refused"}) == 3
    assert registry.get_sample_value("penstock_picker_cpu_seconds_total") == 2.0


def test_a_new_request_log_counts_from_zero(
    metrics: PickerMetrics, registry: CollectorRegistry
) -> None:
    for dropped_lines in (5, 7, 0, 2):
        metrics.sample_request_log(dropped_lines)
    assert registry.get_sample_value("penstock_request_log_dropped_lines_total") == 9


WORKER = """
from prometheus_client import Gauge
from gateway.telemetry.metrics import PickerMetrics
from picker.seams.observer import Rejected
from picker.request.labels import RequestLabels
metrics = PickerMetrics(lambda model: True)
labels = RequestLabels("id", "tenant", "llama", "main", "/")
for _ in range(3):
    metrics.rejected(Rejected(labels, 503, "no_endpoints", 0.001))
Gauge("penstock_test_live", "Lives with its worker.", multiprocess_mode="livesum").set(1)
import os
print(os.getpid())
"""


def _work(directory: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        env=os.environ | {multiprocess.ENVIRONMENT_VARIABLE: str(directory)},
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
    multiprocess.prepare(directory)
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
    multiprocess.prepare(directory)
    assert _values(directory) == {}
