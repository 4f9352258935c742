"""The arithmetic behind the benchmark's figures."""

import pytest

from loadtests.bench.stats import Cost, Estimate, estimate, percentile, slope, spread


def test_a_percentile_lies_between_the_samples_around_it() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.0) == 1.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 1.0) == 4.0
    assert percentile([7.0], 0.99) == 7.0


def test_a_spread_does_not_mind_the_order() -> None:
    found = spread([float(n) for n in reversed(range(101))])
    assert (found.p50, found.p99) == (50.0, 99.0)


def test_without_samples_there_is_no_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="no samples"):
        estimate([])


def test_the_error_of_a_mean_is_students() -> None:
    # Standard deviation 1, three samples: t(0.975, 2) / sqrt(3).
    found = estimate([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.error == pytest.approx(4.30 / 3**0.5)


def test_one_sample_says_nothing_about_its_error() -> None:
    assert estimate([3.0]) == Estimate(3.0, None)
    assert not estimate([0.0]).includes_zero


@pytest.mark.parametrize(("value", "within"), [(0.1, True), (-0.1, True), (0.3, False)])
def test_zero_is_told_from_something(value: float, within: bool) -> None:
    assert Estimate(value, 0.2).includes_zero is within


@pytest.mark.parametrize(
    ("estimate", "below"),
    [(Estimate(0.2, 0.1), True), (Estimate(0.4, 0.2), None), (Estimate(0.8, 0.2), False)],
)
def test_an_aim_within_the_error_is_neither_met_nor_missed(
    estimate: Estimate, below: bool | None
) -> None:
    assert estimate.below(0.5) is below
    assert Estimate(0.2, None).below(0.5) is None


def test_a_slope_leaves_out_what_short_and_long_runs_have_in_common() -> None:
    # 50 ms whatever happens, 2 us a token.
    pairs = [
        (Cost(0.05 + 2e-6 * few, few), Cost(0.05 + 2e-6 * many, many))
        for few, many in ((1_000, 50_000), (1_000, 40_000), (500, 30_000))
    ]
    found = slope(pairs)
    assert found.value == pytest.approx(2e-6)
    assert found.error == pytest.approx(0.0, abs=1e-12)


def test_noise_between_runs_shows_as_the_slopes_error() -> None:
    few = Cost(0.050, 1_000)
    found = slope([(few, Cost(0.052, 51_000)), (few, Cost(0.048, 51_000))])
    assert found.value == pytest.approx(0.0)
    assert found.includes_zero


def test_a_slope_needs_more_units_in_the_second_run() -> None:
    with pytest.raises(ValueError, match="not more than"):
        slope([(Cost(1.0, 10), Cost(2.0, 10))])
