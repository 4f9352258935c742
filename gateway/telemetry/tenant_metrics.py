"""The ``penstock_*`` metrics of a picker process about tenants and limits."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from gateway.telemetry.children import Counts
from gateway.telemetry.growing import GrowingCount
from gateway.telemetry.labels import LabelLimiter
from policies.limits.plan import Subject
from policies.limits.prices import MICROS, Usage
from policies.limits.types import Bucket

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_TENANT_CAP: Final = 1_000
_LIMIT_CAP: Final = 1_000


class TenantMetrics:
    """A `gateway.limits.limiter.LimitObserver`. After 1,000 tenants or limits in one process,
    further ones count as "other"."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._counted: list[Counts] = []

        def counter(name: str, meaning: str, labels: tuple[str, ...]) -> Counts:
            made = Counts(Counter(f"penstock_{name}", meaning, labels, registry=registry))
            self._counted.append(made)
            return made

        def growing(name: str, meaning: str, labels: tuple[str, ...] = ()) -> GrowingCount:
            return GrowingCount(Counter(f"penstock_{name}", meaning, labels, registry=registry))

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
        self.failed = Counter(
            "penstock_limit_settlements_failed",
            "Settlements that failed for good.",
            registry=registry,
        )
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

    def flush(self) -> None:
        """Pass on to Prometheus what was counted since the last time."""
        for counted in self._counted:
            counted.flush()

    def refused(self, tenant: str, bucket: Bucket) -> None:
        """See `LimitObserver`."""
        self.limited.add((self._tenant_label(tenant), self._limit(bucket)))

    def would_refuse(self, tenant: str, bucket: Bucket) -> None:
        """See `LimitObserver`."""
        self.shadowed.add((self._tenant_label(tenant), self._limit(bucket)))

    def charged(self, subject: Subject, usage: Usage, cost_micros: int) -> None:
        """See `LimitObserver`."""
        tenant = (self._tenant_label(subject.tenant),)
        self.requests.add(tenant)
        self.input_tokens.add(tenant, usage.input_tokens)
        self.output_tokens.add(tenant, usage.output_tokens)
        self.cached_tokens.add(tenant, usage.cached_tokens)
        self.cost.add(tenant, cost_micros / MICROS)

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
