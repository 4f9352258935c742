"""The ``penstock_*`` metrics of a picker process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from gateway.telemetry.children import BulkHistogram, Counts, Distributions
from gateway.telemetry.growing import GrowingCount
from gateway.telemetry.labels import LabelLimiter
from gateway.telemetry.predictions import (
    RATIO_BUCKETS,
    PredictionErrors,
    tpot_off,
    ttft_off,
)
from picker.request.rejection import Reason
from picker.request.report import Ending
from picker.seams.observer import Answered, Completed, Rejected
from picker.signals.kv_stream import KvStats
from picker.signals.scraper import ScrapeStats
from picker.state.shadow import Shadow

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
_TTFT_ERROR_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_TPOT_ERROR_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
)  # fmt: skip
_ERROR_S = "how far the prediction was off."
_ERROR_RATIO = "how far the prediction was off, as a share of what was seen."
_QUEUE_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DECISION_BUCKETS_S = (
    0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.0025, 0.005, 0.01, 0.025, 0.1,
)  # fmt: skip

_REFUSED = frozenset(
    reason.value.code for reason in (Reason.OVERLOADED, Reason.QUEUE_FULL, Reason.QUEUE_TIMEOUT)
)

_MODEL_CAP = 256
_ENDPOINT_CAP = 2048


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
        by_class = ("pool", "priority")

        self._counted: list[Counts | Distributions] = []
        self.predictions = PredictionErrors()

        def counter(name: str, meaning: str, labels: tuple[str, ...]) -> Counts:
            made = Counts(Counter(f"penstock_{name}", meaning, labels, registry=registry))
            self._counted.append(made)
            return made

        def growing(name: str, meaning: str, labels: tuple[str, ...] = ()) -> GrowingCount:
            return GrowingCount(Counter(f"penstock_{name}", meaning, labels, registry=registry))

        def histogram(
            name: str,
            meaning: str,
            buckets: tuple[float, ...],
            unit: str = "seconds",
            labels: tuple[str, ...] = by_model,
        ) -> Distributions:
            named = f"penstock_{name}_{unit}"
            made = Distributions(
                BulkHistogram(named, meaning, labels, buckets=buckets, registry=registry)
            )
            self._counted.append(made)
            return made

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
        self.queue = histogram(
            "queue",
            "Time in the queue of a pool, of requests that were dispatched; 0 without a wait.",
            _QUEUE_BUCKETS_S,
            labels=by_class,
        )
        self.queue_refused = counter(
            "queue_refused",
            "Requests refused because their pool was full, by the reason.",
            ("pool", "priority", "reason"),
        )
        self.ttft_error = histogram(
            "ttft_prediction_error", f"Of TTFT, {_ERROR_S}", _TTFT_ERROR_BUCKETS_S
        )
        self.ttft_error_ratio = histogram(
            "ttft_prediction_error", f"Of TTFT, {_ERROR_RATIO}", RATIO_BUCKETS, "ratio"
        )
        self.tpot_error = histogram(
            "tpot_prediction_error", f"Of TPOT, {_ERROR_S}", _TPOT_ERROR_BUCKETS_S
        )
        self.tpot_error_ratio = histogram(
            "tpot_prediction_error", f"Of TPOT, {_ERROR_RATIO}", RATIO_BUCKETS, "ratio"
        )
        self.shadow_ttft_error_ratio = histogram(
            "shadow_ttft_prediction_error",
            f"Of TTFT by a shadow that chose the same replica, {_ERROR_RATIO}",
            RATIO_BUCKETS,
            "ratio",
        )
        self.shadow_tpot_error_ratio = histogram(
            "shadow_tpot_prediction_error",
            f"Of TPOT by a shadow that chose the same replica, {_ERROR_RATIO}",
            RATIO_BUCKETS,
            "ratio",
        )
        self.expected_ttft = histogram(
            "shadow_predicted_ttft",
            "TTFT that a shadow, and the policy beside it, expect of the same requests.",
            _TTFT_BUCKETS_S,
            labels=("model", "pool", "by"),
        )
        self._shadow_rankings = growing(
            "shadow_rankings",
            "What has come of asking a shadow: agreed, differed, nothing (no replica fits), failed,"
            " skipped (it is too slow).",
            ("pool", "policy", "outcome"),
        )
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
        self.breaker_opened = counter(
            "breaker_opened",
            "Times that the circuit breaker of an endpoint has opened for a model.",
            ("pool", "endpoint", "model"),
        )
        self._cpu = growing("picker_cpu_seconds", "CPU time of the picker processes.")
        self._scrapes = growing("scrapes", "Reads of replicas' metrics.")
        self._scrape_failures = growing(
            "scrape_failures", "Failed reads of replicas' metrics and model lists.", ("reason",)
        )
        self._kv_events = growing(
            "kv_events",
            "Batches of KV events taken in (batches), messages or events that could not be read"
            " (malformed), batches missed (gaps) and not replayed either (lost), engines that began"
            " anew or whose connection broke (restarts).",
            ("kind",),
        )
        self._tokenized = growing(
            "tokenized_prompts",
            "Prompts for pools whose KV events come, by who has made their tokens: the client"
            " (request), this gateway (own), an engine; before: only those of an earlier turn were"
            " known in time; none.",
            ("by",),
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

    def flush(self) -> None:
        """Pass on to Prometheus what was counted since the last time."""
        for counted in self._counted:
            counted.flush()

    def rejected(self, event: Rejected) -> None:
        """Count a request that the picker refused."""
        model, pool = self._model_label(event.labels.model), event.labels.pool
        self.requests.add((model, pool, str(event.status), event.reason))
        self.rejections.add((pool, event.reason))
        if event.queue_s > 0 or event.reason in _REFUSED:
            self.queue_refused.add((pool, str(event.labels.priority), event.reason))
        self.decision.observe((model, pool), event.decision_s)

    def answered(self, event: Answered) -> None:
        """Count a request that the picker answered itself."""
        model, pool = self._model_label(event.labels.model), event.labels.pool
        self.requests.add((model, pool, str(event.status), Ending.OK))
        self.decision.observe((model, pool), event.decision_s)

    def completed(self, event: Completed) -> None:
        """Count a request that was dispatched and has ended."""
        model, pool = self._model_label(event.labels.model), event.labels.pool
        by_model = (model, pool)
        self.requests.add((model, pool, str(event.status), event.reason))
        self.input_tokens.add(by_model, event.input_tokens)
        self.output_tokens.add(by_model, event.output_tokens)
        self.cached_tokens.add(by_model, event.cached_tokens)
        self.estimated_usage.add(by_model, 0 if event.usage_reported else 1)
        self.ttft.observe(by_model, event.ttft_s)
        self.tpot.observe(by_model, event.tpot_s)
        self.duration.observe(by_model, event.duration_s)
        self.queue.observe((pool, str(event.labels.priority)), event.queue_s)
        self._predicted(event, model, pool)
        self.decision.observe(by_model, event.decision_s)
        if event.endpoint:
            by_endpoint = (pool, self._endpoint_label(event.endpoint))
            self.endpoint_prompt_tokens.add(by_endpoint, event.input_tokens)
            self.endpoint_matched_tokens.add(by_endpoint, event.matched_tokens)
            self.endpoint_cached_tokens.add(by_endpoint, event.cached_tokens)

    def _predicted(self, event: Completed, model: str, pool: str) -> None:
        ttft = ttft_off(event, event.predicted_ttft_s)
        tpot = tpot_off(event, event.predicted_tpot_s)
        if ttft is not None:
            self.ttft_error.observe((model, pool), ttft.seconds)
            self.ttft_error_ratio.observe((model, pool), ttft.ratio)
        if tpot is not None:
            self.tpot_error.observe((model, pool), tpot.seconds)
            self.tpot_error_ratio.observe((model, pool), tpot.ratio)
        self.predictions.add(pool, model, ttft, tpot)
        ttft = ttft_off(event, event.shadow_ttft_s)
        tpot = tpot_off(event, event.shadow_tpot_s)
        if ttft is not None:
            self.shadow_ttft_error_ratio.observe((model, pool), ttft.ratio)
        if tpot is not None:
            self.shadow_tpot_error_ratio.observe((model, pool), tpot.ratio)

    def breakers_opened(self, opened: Mapping[tuple[str, str, str], int]) -> None:
        """Count circuit breakers that have opened, by pool, endpoint and model."""
        for (pool, endpoint, model), times in opened.items():
            labels = pool, self._endpoint_label(endpoint), self._model_label(model)
            self.breaker_opened.add(labels, times)

    def sample_shadow(self, pool: str, shadow: Shadow) -> None:
        """Note what has come of a pool's shadow so far."""
        counts, policy = shadow.counts, shadow.spec.name
        for outcome in ("agreed", "differed", "nothing", "failed", "skipped"):
            self._shadow_rankings.follow(getattr(counts, outcome), pool, policy, outcome)
        for expected in shadow.take_expected():
            model = self._model_label(expected.model)
            for by, ttft_s in (("policy", expected.ttft_s), ("shadow", expected.shadow_ttft_s)):
                if ttft_s is not None:
                    self.expected_ttft.observe((model, pool, by), ttft_s)

    def sample_cpu(self, process_cpu_s: float) -> None:
        """Note the CPU time of this process so far (``time.process_time()``)."""
        self._cpu.follow(process_cpu_s)

    def sample_scrapes(self, stats: ScrapeStats) -> None:
        """Note the scraper's counts so far."""
        self._scrapes.follow(stats.scrapes)
        for reason, count in stats.failures.items():
            self._scrape_failures.follow(count, str(reason))

    def sample_kv_events(self, stats: KvStats, tokenized: Mapping[str, int]) -> None:
        """Note the counts of KV events, and of prompts by who has made their tokens, so far."""
        for kind, count in asdict(stats).items():
            self._kv_events.follow(count, kind)
        for maker, count in tokenized.items():
            self._tokenized.follow(count, maker)

    def sample_request_log(self, dropped_lines: int) -> None:
        """Note how many lines the request log has lost so far."""
        self._log_dropped.follow(dropped_lines)

    def sample_lost(self, **counts: int) -> None:
        """Note how many reports were lost so far, by kind."""
        for kind, count in counts.items():
            self._lost.follow(count, kind)
