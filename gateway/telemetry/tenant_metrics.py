"""The ``penstock_*`` metrics of a picker process about tenants and limits."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from gateway.telemetry.growing import GrowingCount
from gateway.telemetry.labels import LabelLimiter
from policies.limits.plan import Subject
from policies.limits.prices import MICROS, Usage
from policies.limits.types import Bucket

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_TENANT_CAP: Final = 1_000
_LIMIT_CAP: Final = 1_000


class _TenantSeries:
    """All children of one tenant."""

    __slots__ = ("cached", "cost", "input", "output", "requests")

    def __init__(self, metrics: TenantMetrics, tenant: str) -> None:
        self.requests = metrics.requests.labels(tenant)
        self.input = metrics.input_tokens.labels(tenant)
        self.cached = metrics.cached_tokens.labels(tenant)
        self.output = metrics.output_tokens.labels(tenant)
        self.cost = metrics.cost.labels(tenant)


class TenantMetrics:
    """A `gateway.limits.limiter.LimitObserver`. After 1,000 tenants or limits in one process,
    further ones count as "other"."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, meaning: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"penstock_{name}", meaning, labels, registry=registry)

        def growing(name: str, meaning: str, labels: tuple[str, ...] = ()) -> GrowingCount:
            return GrowingCount(counter(name, meaning, labels))

        by_tenant, by_limit = ("tenant",), ("tenant", "limit")
        self.requests = counter("tenant_requests", "Requests that were charged.", by_tenant)
        self.input_tokens = counter("tenant_input_tokens", "Prompt tokens charged.", by_tenant)
        self.cached_tokens = counter(
            "tenant_cached_tokens", "Of these, from engines' prefix caches.", by_tenant
        )
        self.output_tokens = counter("tenant_output_tokens", "Generated tokens charged.", by_tenant)
        self.cost = counter("tenant_cost", "Money charged, in units of the currency.", by_tenant)
        self.limited = counter("limit_rejections", "Requests that a limit refused.", by_limit)
        self.shadowed = counter(
            "limit_shadow_rejections", "Requests that a shadow limit would have refused.", by_limit
        )
        self.failed = counter("limit_settlements_failed", "Settlements that failed for good.")
        self._expressions = growing(
            "limit_expression_failures",
            "CEL evaluations without a sound value, which counted as 0.",
        )
        self._registry = growing(
            "registry_failures",
            "Looks at the registry of tenants and keys that failed; unreadable entries of it.",
        )
        self._outage = growing(
            "limit_store_outage_events",
            "What happened while the limit store was away.",
            ("event",),
        )
        self._tenant_label = LabelLimiter(_TENANT_CAP)
        self._limit_label = LabelLimiter(_LIMIT_CAP)
        self._by_tenant: dict[str, _TenantSeries] = {}

    def refused(self, tenant: str, bucket: Bucket) -> None:
        """See `LimitObserver`."""
        self.limited.labels(self._tenant_label(tenant), self._limit(bucket)).inc()

    def would_refuse(self, tenant: str, bucket: Bucket) -> None:
        """See `LimitObserver`."""
        self.shadowed.labels(self._tenant_label(tenant), self._limit(bucket)).inc()

    def charged(self, subject: Subject, usage: Usage, cost_micros: int) -> None:
        """See `LimitObserver`."""
        tenant = self._tenant_label(subject.tenant)
        series = self._by_tenant.get(tenant)
        if series is None:
            series = self._by_tenant[tenant] = _TenantSeries(self, tenant)
        series.requests.inc()
        series.input.inc(usage.input_tokens)
        series.output.inc(usage.output_tokens)
        if usage.cached_tokens:
            series.cached.inc(usage.cached_tokens)
        if cost_micros:
            series.cost.inc(cost_micros / MICROS)

    def unsettled(self) -> None:
        """See `LimitObserver`."""
        self.failed.inc()

    def sample_outage(self, counters: DataclassInstance) -> None:
        """Note how often each event has happened so far while the store was away: a field each."""
        for event, count in asdict(counters).items():
            if count:  # an event that has not happened yet makes no series
                self._outage.follow(count, event)

    def sample_expressions(self, failures: int) -> None:
        """Note how many evaluations have failed so far."""
        self._expressions.follow(failures)

    def sample_registry(self, failures: int) -> None:
        """Note how often the registry could not be read so far."""
        self._registry.follow(failures)

    def _limit(self, bucket: Bucket) -> str:
        """The name of the bucket's limit: its key begins with it."""
        return self._limit_label(bucket.key.partition("|")[0])
