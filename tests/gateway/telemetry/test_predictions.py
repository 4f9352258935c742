"""How far predictions were off: counted where that says something, and the median of late."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from gateway.telemetry.metrics import PickerMetrics
from gateway.telemetry.predictions import RATIO_BUCKETS, Recent, median
from picker.seams.observer import Completed
from picker.settings import PickerSettings, PoolSettings
from picker.state.shadow import Expected, Shadow
from policies.routing.spec import PolicySpec
from tests.picker.fleet import POOL, chat, decided, end_of, fleet

MODEL = {"model": "llama", "pool": "main"}
Value = Callable[..., float | None]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> PickerMetrics:
    return PickerMetrics(lambda _: True, registry)


@pytest.fixture
def value(metrics: PickerMetrics, registry: CollectorRegistry) -> Value:
    def read(name: str, **labels: str) -> float | None:
        metrics.flush()
        return registry.get_sample_value(f"penstock_{name}", MODEL | labels)

    return read


def test_both_times_in_seconds_and_as_a_share(
    metrics: PickerMetrics, value: Value, completed: Callable[..., Completed]
) -> None:
    """Seen: 0.25 s to the first token, then 0.1 s each."""
    metrics.completed(completed(predicted_ttft_s=0.2, predicted_tpot_s=0.103))
    assert value("ttft_prediction_error_seconds_sum") == pytest.approx(0.05)
    assert value("ttft_prediction_error_ratio_sum") == pytest.approx(0.2)
    assert value("ttft_prediction_error_ratio_bucket", le="0.15") == 0
    assert value("ttft_prediction_error_ratio_bucket", le="0.3") == 1
    assert value("tpot_prediction_error_seconds_sum") == pytest.approx(0.003)
    assert value("tpot_prediction_error_ratio_sum") == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("changes", "ttft", "tpot"),
    [
        ({"predicted_ttft_s": None, "predicted_tpot_s": None}, None, None),
        ({"ttft_s": 0.05}, None, 1),
        ({"ttft_s": None}, None, None),
        ({"output_tokens": 4}, 1, None),
        ({"output_tokens": 0}, 1, None),
        ({"ttft_s": 1.25}, 1, None),
    ],
)
def test_only_what_says_something_counts(
    metrics: PickerMetrics,
    value: Value,
    completed: Callable[..., Completed],
    changes: dict[str, object],
    ttft: int | None,
    tpot: int | None,
) -> None:
    metrics.completed(completed(**{"predicted_ttft_s": 0.2, "predicted_tpot_s": 0.1} | changes))
    assert value("ttft_prediction_error_ratio_count") == ttft
    assert value("tpot_prediction_error_ratio_count") == tpot


def test_a_shadow_beside_the_policy(
    metrics: PickerMetrics, value: Value, completed: Callable[..., Completed]
) -> None:
    metrics.completed(completed(shadow_ttft_s=0.5, shadow_tpot_s=0.1))
    assert value("shadow_ttft_prediction_error_ratio_sum") == pytest.approx(1.0)
    assert value("shadow_tpot_prediction_error_ratio_sum") == pytest.approx(0.0)
    assert value("ttft_prediction_error_ratio_count") is None
    shadow = Shadow(PolicySpec("auto"), fleet().picker.pools._background)
    shadow.counts.agreed, shadow.counts.failed = 3, 1
    shadow._expected.append(Expected("llama", 0.25, 0.5))
    metrics.sample_shadow("main", shadow)
    shadow.counts.agreed = 5
    metrics.sample_shadow("main", shadow)
    assert value("shadow_predicted_ttft_seconds_sum", by="policy") == 0.25
    assert value("shadow_predicted_ttft_seconds_sum", by="shadow") == 0.5
    metrics.flush()


def test_rankings_of_a_shadow(metrics: PickerMetrics, registry: CollectorRegistry) -> None:
    shadow = Shadow(PolicySpec("auto"), fleet().picker.pools._background)
    shadow.counts.agreed, shadow.counts.failed = 3, 1
    metrics.sample_shadow("main", shadow)
    shadow.counts.agreed = 5
    metrics.sample_shadow("main", shadow)
    counted = {
        outcome: registry.get_sample_value(
            "penstock_shadow_rankings_total",
            {"pool": "main", "policy": "auto", "outcome": outcome},
        )
        for outcome in ("agreed", "differed", "nothing", "failed", "skipped")
    }
    assert counted == {"agreed": 5, "differed": 0, "nothing": 0, "failed": 1, "skipped": 0}


@pytest.mark.parametrize("seed", range(5))
def test_the_median_of_late(seed: int) -> None:
    """Close to the true one, within a bucket; what was long ago is forgotten."""
    rng, recent = random.Random(seed), Recent()
    for _ in range(5_000):
        recent.add(4.0)
    errors = [rng.lognormvariate(-2.5 + seed / 2, 1.0) for _ in range(9_000)]
    for error in errors:
        recent.add(error)
    true, found = statistics.median(errors), median(recent.counts)
    assert found is not None
    assert sum(recent.counts) < 1_000
    bounds = [0.0, *RATIO_BUCKETS]
    at = max(index for index, bound in enumerate(bounds) if bound <= true)
    assert bounds[max(0, at - 1)] <= found <= bounds[min(at + 2, len(bounds) - 1)]


def test_the_median_of_few() -> None:
    assert median([0.0] * (len(RATIO_BUCKETS) + 1)) is None
    assert median([]) is None
    recent = Recent()
    recent.add(99.0)
    assert median(recent.counts) == RATIO_BUCKETS[-1]
    recent.add(0.0)
    recent.add(0.0)
    assert median(recent.counts) == pytest.approx(0.0075)


async def test_what_the_picker_says_of_a_real_request() -> None:
    made = fleet()
    made.picker.configure(PickerSettings((PoolSettings(POOL, PolicySpec("auto")),)))
    for body in (chat(stream=True), chat()):
        made.picker.complete(end_of(await decided(made, body)))
    streamed, whole = made.seen.completions
    assert streamed.predicted_ttft_s is not None
    assert streamed.predicted_tpot_s is not None
    assert (whole.predicted_ttft_s, whole.predicted_tpot_s) == (None, None)
