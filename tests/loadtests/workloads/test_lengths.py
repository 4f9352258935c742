"""Distributions: their bounds, and their means where clipping leaves them alone."""

from __future__ import annotations

import random
import statistics

import pytest

from loadtests.workloads.lengths import Length


def drawn(length: Length, count: int = 20_000) -> list[int]:
    rng = random.Random(1)
    return [length.tokens(rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("length", "mean", "deviation"),
    [
        (Length.fixed(6_000), 6_000, 0),
        (Length.uniform(100, 300), 200, 57.7),
        (Length("normal", 300, 50, 0, 1_000), 300, 50),
        # The mean and deviation are the lognormal's own.
        (Length("lognormal", 1_000, 400, 1, 100_000), 1_000, 400),
        (Length.exponential(8_000, 0, 1_000_000), 8_000, 8_000),
        # 500 + 8,000 x (exp(-500/8,000) - exp(-4)) = 7,869
        (Length.exponential(8_000, 500, 32_000), 7_869, 7_090),
    ],
)
def test_mean_and_deviation(length: Length, mean: float, deviation: float) -> None:
    values = drawn(length)
    assert statistics.fmean(values) == pytest.approx(mean, rel=0.03)
    assert statistics.pstdev(values) == pytest.approx(deviation, rel=0.06, abs=0.01)


def test_values_are_within_the_bounds() -> None:
    values = drawn(Length("lognormal", 50, 400, 10, 1_000))
    assert min(values) == 10
    assert max(values) == 1_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Length("normal", 1, 1, 5, 2), "least 5 is more than most 2"),
        (lambda: Length("lognormal", 0, 1, 0, 2), "a lognormal length needs a mean over 0, got 0"),
    ],
)
def test_what_cannot_be_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
