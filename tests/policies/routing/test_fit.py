"""Sums of terms that wild values do not bend."""

from __future__ import annotations

import random

import pytest

from policies.routing.fit import QuantileFit

PRIOR = ((1.0, 0.0, 0.03), (1.0, 2_000.0, 0.2))


@pytest.mark.parametrize("wild", [0.0, 0.1])
def test_it_finds_the_line_with_and_without_wild_values(wild: float) -> None:
    rng = random.Random(1)
    fit = QuantileFit(PRIOR, quantile=0.5)
    for _ in range(400):
        x = rng.uniform(0, 8_000)
        far = 60.0 if rng.random() < wild else 0.0
        fit.observe((1.0, x), 0.02 + x / 20_000 + far)
    base, slope = fit.coefficients
    assert slope == pytest.approx(1 / 20_000, rel=0.05)
    assert base == pytest.approx(0.02, abs=0.01)


def test_a_low_quantile_ignores_what_only_makes_times_longer() -> None:
    rng = random.Random(2)
    fit = QuantileFit(PRIOR, quantile=0.3)
    for _ in range(400):
        x = rng.uniform(0, 8_000)
        waited_s = rng.expovariate(2.0) if rng.random() < 0.5 else 0.0
        fit.observe((1.0, x), 0.02 + x / 20_000 + waited_s)
    assert fit.coefficients[1] == pytest.approx(1 / 20_000, rel=0.25)


def test_it_tells_terms_apart_and_keeps_none_under_0() -> None:
    rng = random.Random(3)
    fit = QuantileFit(((1.0, 1.0, 1.0, 1.0, 0.1),), quantile=0.5)
    for _ in range(512):
        a, b, noise = rng.uniform(0, 9), rng.uniform(0, 90), rng.uniform(0, 9)
        fit.observe((1.0, a, b, noise), 1.0 + 0.5 * a + 0.01 * b - 0.001 * noise)
    base, of_a, of_b, of_noise = fit.coefficients
    assert base == pytest.approx(1.0, abs=0.05)
    assert of_a == pytest.approx(0.5, rel=0.05)
    assert of_b == pytest.approx(0.01, abs=0.005)
    assert 0.0 <= of_noise < 0.005


def test_it_follows_an_engine_that_becomes_slower() -> None:
    fit = QuantileFit(PRIOR, quantile=0.5)
    for speed in (20_000, 5_000):
        for index in range(256):
            x = 30.0 * index
            fit.observe((1.0, x), 0.02 + x / speed)
    assert fit.coefficients[1] == pytest.approx(1 / 5_000, rel=0.05)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1e5])
def test_what_is_always_alike_leaves_it_finite_and_not_negative(seconds: float) -> None:
    fit = QuantileFit(PRIOR, quantile=0.5)
    for _ in range(300):
        fit.observe((1.0, 1_000.0), seconds)
    base, slope = fit.coefficients
    assert 0.0 <= slope < 1e3
    assert base + 1_000.0 * slope == pytest.approx(seconds, rel=0.1, abs=0.02)


def test_it_begins_with_what_was_learned_before() -> None:
    fit = QuantileFit(PRIOR, quantile=0.5)
    fit.begin_with((0.5, 0.001))
    assert fit.coefficients == (0.5, 0.001)
    fit.observe((1.0, 1_000.0), 1.5)
    assert fit.coefficients == pytest.approx((0.5, 0.001), rel=0.05)
    for damaged in ((0.5,), (0.5, float("nan")), (-1.0, 0.1), (1e9, 0.0)):
        fit.begin_with(damaged)
        assert fit.coefficients == pytest.approx((0.5, 0.001), rel=0.05)
