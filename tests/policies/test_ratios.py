"""Tokens by tenant: no tenant's traffic makes another's estimate wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.ratios import TenantRatios

Traffic = list[tuple[float, float]]
"""Measure and reported tokens of each prompt."""

TRAFFIC = st.lists(st.tuples(st.floats(1e-3, 1e9), st.floats(1e-3, 1e9)), max_size=60)


def ratios(max_tenants: int = 100_000, max_models: int = 4_096) -> TenantRatios:
    return TenantRatios(
        4.0, swing=2, dearer=4, cheaper=1.25, max_tenants=max_tenants, max_models=max_models
    )


def learn(made: TenantRatios, tenant: str, traffic: Sequence[tuple[float, float]]) -> None:
    for measure, tokens in traffic:
        made.observe(tenant, "m", measure, tokens)


def ratio(made: TenantRatios, tenant: str) -> float:
    return 1e6 / made.tokens(tenant, "m", 1e6)


@given(TRAFFIC, TRAFFIC)
@settings(max_examples=60, deadline=None)
def test_one_tenant_moves_no_other_however_it_sends(bad: Traffic, good: Traffic) -> None:
    alone, both = ratios(), ratios()
    learn(alone, "good", good)
    learn(both, "bad", bad)
    learn(both, "good", good)
    learn(both, "bad", bad)
    assert ratio(both, "new") == ratio(alone, "new")
    if not bad:
        assert ratio(both, "good") == ratio(alone, "good")
    # It began at the model's ratio, which one more vote may have moved no further than a good one.
    low, high = 4.0 / 4, 4.0 * 1.25
    assert low - 1e-9 <= ratio(both, "good") <= high + 1e-9


@given(TRAFFIC, st.floats(2.1, 7.0), st.integers(4, 10))
@settings(max_examples=30, deadline=None)
def test_a_models_ratio_stays_among_those_of_the_others(
    bad: Traffic, least: float, count: int
) -> None:
    made, most = ratios(), 1.2 * least
    for number in range(count):
        each = least + (most - least) * number / count
        learn(made, f"t{number}", [(each * 2_000, 2_000)] * 60)
    learn(made, "bad", bad)
    assert 0.95 * least <= made.of_model("m") <= 1.05 * most


@given(TRAFFIC)
@settings(max_examples=60, deadline=None)
def test_an_estimate_stays_in_its_bounds(traffic: Traffic) -> None:
    made = ratios()
    learn(made, "t", traffic)
    assert 1.0 - 1e-9 <= ratio(made, "t") <= 5.0 + 1e-9
    assert made.of_model("m") == pytest.approx(4.0)


def test_digits_of_one_are_not_the_digits_of_another() -> None:
    made = ratios()
    learn(made, "digits", [(8_000, 8_000)] * 500)
    learn(made, "lines", [(512_000, 8_000)] * 500)
    assert made.tokens("other", "m", 32_000) == pytest.approx(8_000)
    assert made.tokens("digits", "m", 8_000) == pytest.approx(8_000, rel=0.02)
    assert made.tokens("lines", "m", 32_000) >= 32_000 / 5


def test_it_converges_with_the_first_answers() -> None:
    made = ratios()
    learn(made, "t", [(6_000, 3_000)] * 5)
    assert ratio(made, "t") == pytest.approx(2.0, rel=0.25)
    learn(made, "t", [(6_000, 3_000)] * 40)
    assert ratio(made, "t") == pytest.approx(2.0, rel=0.02)


def test_three_tenants_that_agree_move_the_model() -> None:
    made = ratios()
    for number in range(2):
        learn(made, f"t{number}", [(5_000, 2_000)] * 60)
    assert made.of_model("m") == pytest.approx(4.0)
    learn(made, "t2", [(5_000, 2_000)] * 60)
    assert made.of_model("m") == pytest.approx(2.5, rel=0.05)
    assert made.of_model("another") == pytest.approx(4.0)


def test_short_prompts_hardly_count() -> None:
    made = ratios()
    for _ in range(200):
        learn(made, "t", [(10, 30), (40_000, 10_000)])
    assert ratio(made, "t") == pytest.approx(4.0, rel=0.08)


def test_one_odd_prompt_does_not_count_for_more_than_a_double() -> None:
    made = ratios()
    learn(made, "t", [(4_000, 1_000)] * 50)
    learn(made, "t", [(1_000_000, 1_000_000)])
    assert ratio(made, "t") > 3.8


def test_who_sends_now_this_now_that_is_unsure() -> None:
    made = ratios()
    learn(made, "steady", [(4_200, 1_000)] * 50)
    assert not made.is_unsure("steady", "m")
    rng = random.Random(1)
    learn(made, "wild", [(rng.choice((2_000, 60_000)), 1_000) for _ in range(50)])
    assert made.is_unsure("wild", "m")
    assert not made.is_unsure("new", "m")


@pytest.mark.parametrize(("measure", "tokens"), [(0, 5), (5, 0), (-1, 1), (1, -1)])
def test_what_cannot_be_true_is_ignored(measure: float, tokens: float) -> None:
    made = ratios()
    made.observe("t", "m", measure, tokens)
    assert len(made) == 0


def test_tenants_and_models_are_bounded_and_forgotten_with_their_votes() -> None:
    made = ratios(max_tenants=10, max_models=3)
    for number in range(50):
        learn(made, f"t{number}", [(5_000, 2_000)] * 60)
    assert len(made) == 10
    learn(made, "t0", [(40_000, 10_000)] * 60)
    for model in ("a", "b", "c", "d"):
        for _ in range(5):
            made.observe("t0", model, 4_000, 1_000)
    assert len(made) <= 10
    assert math.isfinite(made.of_model("m"))


def test_factors_below_1_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        TenantRatios(4.0, swing=0.5, dearer=1, cheaper=1)
