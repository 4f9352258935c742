"""Lines that wild values do not bend."""

import random

import pytest

from policies.routing.latency import QuantileLine

PRIOR = ((0.0, 0.03), (2_000.0, 0.2))


@pytest.mark.parametrize("wild", [0.0, 0.1])
def test_it_finds_the_line_with_and_without_wild_values(wild: float) -> None:
    rng = random.Random(1)
    line = QuantileLine(PRIOR, quantile=0.5)
    for _ in range(400):
        x = rng.uniform(0, 8_000)
        far = 60.0 if rng.random() < wild else 0.0
        line.observe(x, 0.02 + x / 20_000 + far)
    assert line.slope == pytest.approx(1 / 20_000, rel=0.05)
    assert line.intercept == pytest.approx(0.02, abs=0.01)


def test_a_low_quantile_ignores_what_only_makes_times_longer() -> None:
    rng = random.Random(2)
    line = QuantileLine(PRIOR, quantile=0.3)
    for _ in range(400):
        x = rng.uniform(0, 8_000)
        waited_s = rng.expovariate(2.0) if rng.random() < 0.5 else 0.0
        line.observe(x, 0.02 + x / 20_000 + waited_s)
    assert line.slope == pytest.approx(1 / 20_000, rel=0.25)


def test_it_follows_an_engine_that_becomes_slower() -> None:
    line = QuantileLine(PRIOR, quantile=0.5)
    for speed in (20_000, 5_000):
        for index in range(256):
            x = 30.0 * index
            line.observe(x, 0.02 + x / speed)
    assert line.slope == pytest.approx(1 / 5_000, rel=0.05)


def test_what_is_always_alike_leaves_it_finite_and_not_negative() -> None:
    line = QuantileLine(PRIOR, quantile=0.5)
    for _ in range(300):
        line.observe(1_000.0, 0.0)
    assert 0.0 <= line.slope < 1.0
    assert 0.0 <= line.intercept < 1.0
