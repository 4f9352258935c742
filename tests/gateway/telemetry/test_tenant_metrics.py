"""Metrics of tenants and limits."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from gateway.limits.outage_counters import OutageCounters
from gateway.telemetry.tenant_metrics import TenantMetrics
from policies.limits.plan import Subject
from policies.limits.prices import Usage
from policies.limits.types import Bucket, CalendarWindow, Dimension, Period

BUCKET = Bucket(
    "tokens-per-day|user=ann", Dimension.TOTAL_TOKENS, CalendarWindow(10, Period.DAY), "tokens"
)


def made() -> tuple[TenantMetrics, CollectorRegistry]:
    registry = CollectorRegistry()
    return TenantMetrics(registry), registry


def test_what_a_tenant_was_charged() -> None:
    metrics, registry = made()
    for _ in range(2):
        metrics.charged(Subject("acme"), Usage(10, 5, 4), 2_500_000)
    metrics.flush()
    of = {"tenant": "acme"}
    assert registry.get_sample_value("penstock_tenant_requests_total", of) == 2
    assert registry.get_sample_value("penstock_tenant_input_tokens_total", of) == 20
    assert registry.get_sample_value("penstock_tenant_cached_tokens_total", of) == 8
    assert registry.get_sample_value("penstock_tenant_output_tokens_total", of) == 10
    assert registry.get_sample_value("penstock_tenant_cost_total", of) == 5.0


def test_a_limit_is_named_by_its_rule_not_by_each_user() -> None:
    metrics, registry = made()
    metrics.refused("acme", BUCKET)
    metrics.would_refuse("acme", BUCKET)
    metrics.flush()
    of = {"tenant": "acme", "limit": "tokens-per-day"}
    assert registry.get_sample_value("penstock_limit_rejections_total", of) == 1
    assert registry.get_sample_value("penstock_limit_shadow_rejections_total", of) == 1


def test_labels_stay_bounded() -> None:
    metrics, registry = made()
    for number in range(1_200):
        metrics.charged(Subject(f"t{number}"), Usage(1, 1), 0)
    metrics.flush()
    other = registry.get_sample_value("penstock_tenant_requests_total", {"tenant": "other"})
    assert other == 200


def test_counts_that_only_grow_are_added_once() -> None:
    metrics, registry = made()
    counters = OutageCounters(outages=1, queued=7)
    metrics.sample_outage(counters)
    counters.queued += 2
    metrics.sample_outage(counters)
    for event, count in (("outages", 1), ("queued", 9)):
        sample = registry.get_sample_value(
            "penstock_limit_store_outage_events_total", {"event": event}
        )
        assert sample == count
    metrics.sample_expressions(3)
    metrics.sample_expressions(1)  # a new configuration
    assert registry.get_sample_value("penstock_limit_expression_failures_total") == 4
