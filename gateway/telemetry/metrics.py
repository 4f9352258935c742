"""The ``penstock_*`` metrics of a picker process.

The children of labelled metrics are looked up once for each combination of labels, and kept.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from gateway.telemetry.growing import GrowingCount
from gateway.telemetry.labels import LabelLimiter
from picker.seams.observer import Completed, Rejected
from picker.signals.scraper import ScrapeStats

_TTFT_BUCKETS_S = (
    0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0, 160.0,
)  # fmt: skip
_TPOT_BUCKETS_S = (
    0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5,
)  # fmt: skip
_DURATION_BUCKETS_S = (
    0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1200.0, 3600.0,
)  # fmt: skip
_QUEUE_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DECISION_BUCKETS_S = (
    0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.0025, 0.005, 0.01, 0.025, 0.1,
)  # fmt: skip

_MODEL_CAP = 256
_ENDPOINT_CAP = 2048


class _ModelSeries:
    """All children of one (model, pool)."""

    __slots__ = (
        "cached", "decision", "duration", "estimated", "input", "output", "queue", "tpot", "ttft",
    )  # fmt: skip

    def __init__(self, metrics: PickerMetrics, model: str, pool: str) -> None:
        self.input = metrics.input_tokens.labels(model, pool)
        self.output = metrics.output_tokens.labels(model, pool)
        self.cached = metrics.cached_tokens.labels(model, pool)
        self.estimated = metrics.estimated_usage.labels(model, pool)
        self.ttft = metrics.ttft.labels(model, pool)
        self.tpot = metrics.tpot.labels(model, pool)
        self.duration = metrics.duration.labels(model, pool)
        self.queue = metrics.queue.labels(model, pool)
        self.decision = metrics.decision.labels(model, pool)


class _EndpointSeries:
    """All children of one (pool, endpoint)."""

    __slots__ = ("cached", "matched", "prompt")

    def __init__(self, metrics: PickerMetrics, pool: str, endpoint: str) -> None:
        self.prompt = metrics.endpoint_prompt_tokens.labels(pool, endpoint)
        self.matched = metrics.endpoint_matched_tokens.labels(pool, endpoint)
        self.cached = metrics.endpoint_cached_tokens.labels(pool, endpoint)


class PickerMetrics:
    """Metrics of one picker process.

    ``known_model`` says whether a model name is in the catalogue: only such names become label
    values. In-flight requests and health of each endpoint are not here: the supervisor exports
    them, so that they vanish with the endpoint.
    """

    def __init__(
        self, known_model: Callable[[str], bool], registry: CollectorRegistry = REGISTRY
    ) -> None:
        by_model, by_endpoint = ("model", "pool"), ("pool", "endpoint")

        def counter(name: str, meaning: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"penstock_{name}", meaning, labels, registry=registry)

        def growing(name: str, meaning: str, labels: tuple[str, ...] = ()) -> GrowingCount:
            return GrowingCount(counter(name, meaning, labels))

        def histogram(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"penstock_{name}_seconds", meaning, by_model, buckets=buckets, registry=registry
            )

        self.requests = counter(
            "requests",
            "Requests that ended, also those refused.",
            ("model", "pool", "status", "reason"),
        )
        self.rejections = counter(
            "rejections", "Requests answered by the picker with an error.", ("pool", "reason")
        )
        self.input_tokens = counter("input_tokens", "Prompt tokens.", by_model)
        self.output_tokens = counter("output_tokens", "Generated tokens.", by_model)
        self.cached_tokens = counter(
            "cached_tokens", "Prompt tokens that engines found in their prefix caches.", by_model
        )
        self.estimated_usage = counter(
            "estimated_usage",
            "Requests whose engine reported no usage: their tokens are estimates.",
            by_model,
        )
        self.ttft = histogram("ttft", "Arrival to the first body byte.", _TTFT_BUCKETS_S)
        self.tpot = histogram(
            "tpot", "Time per output token after the first, mean of a request.", _TPOT_BUCKETS_S
        )
        self.duration = histogram(
            "request_duration", "Arrival to the end of the response.", _DURATION_BUCKETS_S
        )
        self.queue = histogram("queue", "Time waited for admission.", _QUEUE_BUCKETS_S)
        self.decision = histogram(
            "decision", "Time the picker took for a decision.", _DECISION_BUCKETS_S
        )
        self.endpoint_prompt_tokens = counter(
            "endpoint_prompt_tokens", "Prompt tokens served by an endpoint.", by_endpoint
        )
        self.endpoint_matched_tokens = counter(
            "endpoint_matched_tokens",
            "Prompt tokens that the picker expected to be cached on the endpoint.",
            by_endpoint,
        )
        self.endpoint_cached_tokens = counter(
            "endpoint_cached_tokens",
            "Prompt tokens that the endpoint reported as cached.",
            by_endpoint,
        )
        self._cpu = growing("picker_cpu_seconds", "CPU time of the picker processes.")
        self._scrapes = growing("scrapes", "Reads of replicas' metrics.")
        self._scrape_failures = growing(
            "scrape_failures", "Failed reads of replicas' metrics and model lists.", ("reason",)
        )
        self._log_dropped = growing(
            "request_log_dropped_lines", "Lines of the request log lost to a slow or full disk."
        )
        self._lost = growing(
            "lost_reports",
            "Reports on requests that could not be used or delivered: access_log (Envoy's, no end"
            " was learned), peer_unreadable and peer_dropped (other pickers').",
            ("kind",),
        )
        self._model_label = LabelLimiter(_MODEL_CAP, known_model)
        self._endpoint_label = LabelLimiter(_ENDPOINT_CAP)
        self._by_request: dict[tuple[str, str, int, str], Counter] = {}
        self._by_model: dict[tuple[str, str], _ModelSeries] = {}
        self._by_endpoint: dict[tuple[str, str], _EndpointSeries] = {}

    def rejected(self, event: Rejected) -> None:
        """Count a request that the picker refused."""
        model, pool = self._model_label(event.labels.model), event.labels.pool
        self._count(model, pool, event.status, event.reason)
        self.rejections.labels(pool, event.reason).inc()
        self.decision.labels(model, pool).observe(event.decision_s)

    def completed(self, event: Completed) -> None:
        """Count a request that was dispatched and has ended."""
        model, pool = self._model_label(event.labels.model), event.labels.pool
        self._count(model, pool, event.status, event.reason)
        series = self._model(model, pool)
        series.input.inc(event.input_tokens)
        series.output.inc(event.output_tokens)
        if event.cached_tokens:
            series.cached.inc(event.cached_tokens)
        if not event.usage_reported:
            series.estimated.inc()
        if event.ttft_s is not None:
            series.ttft.observe(event.ttft_s)
        if (tpot_s := event.tpot_s) is not None:
            series.tpot.observe(tpot_s)
        series.duration.observe(event.duration_s)
        series.queue.observe(event.queue_s)
        series.decision.observe(event.decision_s)
        if event.endpoint:
            endpoint = self._endpoint(pool, self._endpoint_label(event.endpoint))
            endpoint.prompt.inc(event.input_tokens)
            if event.matched_tokens:
                endpoint.matched.inc(event.matched_tokens)
            if event.cached_tokens:
                endpoint.cached.inc(event.cached_tokens)

    def sample_cpu(self, process_cpu_s: float) -> None:
        """Note the CPU time of this process so far (``time.process_time()``)."""
        self._cpu.follow(process_cpu_s)

    def sample_scrapes(self, stats: ScrapeStats) -> None:
        """Note the scraper's counts so far."""
        self._scrapes.follow(stats.scrapes)
        for reason, count in stats.failures.items():
            self._scrape_failures.follow(count, str(reason))

    def sample_request_log(self, dropped_lines: int) -> None:
        """Note how many lines the request log has lost so far."""
        self._log_dropped.follow(dropped_lines)

    def sample_lost(self, **counts: int) -> None:
        """Note how many reports were lost so far, by kind."""
        for kind, count in counts.items():
            self._lost.follow(count, kind)

    def _count(self, model: str, pool: str, status: int, reason: str) -> None:
        key = (model, pool, status, reason)
        child = self._by_request.get(key)
        if child is None:
            child = self._by_request[key] = self.requests.labels(model, pool, str(status), reason)
        child.inc()

    def _model(self, model: str, pool: str) -> _ModelSeries:
        key = (model, pool)
        series = self._by_model.get(key)
        if series is None:
            series = self._by_model[key] = _ModelSeries(self, model, pool)
        return series

    def _endpoint(self, pool: str, endpoint: str) -> _EndpointSeries:
        key = (pool, endpoint)
        series = self._by_endpoint.get(key)
        if series is None:
            series = self._by_endpoint[key] = _EndpointSeries(self, pool, endpoint)
        return series
