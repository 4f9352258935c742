"""Prefill speed, learned from times to first token."""

from __future__ import annotations

import random

import pytest

from picker.flight.prefill import PrefillSpeed


@pytest.mark.parametrize("tokens_per_s", [300.0, 5_000.0, 60_000.0])
@pytest.mark.parametrize("overhead_s", [0.0, 0.2])
def test_speed_and_overhead_are_told_apart(tokens_per_s: float, overhead_s: float) -> None:
    rng = random.Random(1)
    speed = PrefillSpeed()
    for _ in range(500):
        work = rng.uniform(50, 20_000)
        noise = rng.uniform(0.9, 1.1)
        speed.observe(work, overhead_s + noise * work / tokens_per_s)
    assert speed.tokens_per_s == pytest.approx(tokens_per_s, rel=0.15)
    assert speed.prefill_s(tokens_per_s) == pytest.approx(1.0, rel=0.15)


def test_short_prompts_do_not_make_a_pool_look_slow() -> None:
    speed = PrefillSpeed()
    for _ in range(500):
        speed.observe(50, 0.05)
    assert speed.tokens_per_s > 4_000


def test_times_that_cannot_be_true_are_ignored() -> None:
    speed = PrefillSpeed()
    before = speed.tokens_per_s
    speed.observe(1_000, 0.0)
    speed.observe(-5, 1.0)
    assert speed.tokens_per_s == before


def test_noise_never_gives_a_speed_out_of_bounds() -> None:
    rng = random.Random(1)
    speed = PrefillSpeed()
    for _ in range(300):
        speed.observe(rng.uniform(0, 10_000), rng.expovariate(1))
        assert 20 <= speed.tokens_per_s <= 20_000_000
        assert speed.overhead_s >= 0
