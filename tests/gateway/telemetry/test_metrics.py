"""The metrics that an operator sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from gateway.telemetry.metrics import PickerMetrics
from picker.seams.observer import Answered, Completed, Rejected
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
    metrics.flush()

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
    metrics.flush()
    labels = MODEL | {"status": "0", "reason": "client_aborted"}
    assert registry.get_sample_value("penstock_requests_total", labels) == 1
    assert registry.get_sample_value("penstock_ttft_seconds_count", MODEL) == 0
    assert registry.get_sample_value("penstock_estimated_usage_total", MODEL) == 1
    assert registry.get_sample_value("penstock_endpoint_prompt_tokens_total", ENDPOINT) is None


def test_counts_are_passed_on_once_and_into_the_right_buckets(
    metrics: PickerMetrics, registry: CollectorRegistry, completed: Callable[..., Completed]
) -> None:
    for ttft_s in (0.0, 0.01, 0.011, 1e9):  # a bucket holds its bound
        metrics.completed(completed(ttft_s=ttft_s))
    for _ in range(2):
        metrics.flush()
    metrics.completed(completed(ttft_s=0.02))
    metrics.flush()
    name = "penstock_ttft_seconds"
    below = {
        bound: registry.get_sample_value(f"{name}_bucket", {**MODEL, "le": bound})
        for bound in ("0.01", "0.025", "160.0", "+Inf")
    }
    assert below == {"0.01": 2, "0.025": 4, "160.0": 4, "+Inf": 5}
    assert registry.get_sample_value(f"{name}_sum", MODEL) == pytest.approx(1e9 + 0.041)
    of = MODEL | {"status": "200", "reason": "ok"}
    assert registry.get_sample_value("penstock_requests_total", of) == 5


def test_a_rejected_request(
    metrics: PickerMetrics, registry: CollectorRegistry, rejected: Callable[..., Rejected]
) -> None:
    metrics.rejected(rejected())
    metrics.flush()
    labels = {"model": "llama", "pool": "", "status": "404", "reason": "model_not_found"}
    assert registry.get_sample_value("penstock_requests_total", labels) == 1
    rejection = {"pool": "", "reason": "model_not_found"}
    assert registry.get_sample_value("penstock_rejections_total", rejection) == 1


def test_a_request_that_the_picker_answers(
    metrics: PickerMetrics, registry: CollectorRegistry, rejected: Callable[..., Rejected]
) -> None:
    metrics.answered(Answered(rejected().labels, 200, 0.001))
    metrics.flush()
    labels = {"model": "llama", "pool": "", "status": "200", "reason": "ok"}
    assert registry.get_sample_value("penstock_requests_total", labels) == 1
    rejection = {"pool": "", "reason": "ok"}
    assert registry.get_sample_value("penstock_rejections_total", rejection) is None


def test_clients_cannot_make_series(
    metrics: PickerMetrics, registry: CollectorRegistry, rejected: Callable[..., Rejected]
) -> None:
    for i in range(1000):
        metrics.rejected(rejected(model=f"made-up-{i}"))
    metrics.flush()
    labels = {"model": "unknown", "pool": "", "status": "404", "reason": "model_not_found"}
    assert registry.get_sample_value("penstock_requests_total", labels) == 1000


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
