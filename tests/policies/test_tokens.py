"""Bytes per token, calibrated from usage."""

from __future__ import annotations

import pytest

from policies.tokens import TokenRatio


def test_an_unknown_model_has_the_prior() -> None:
    ratio = TokenRatio()
    assert ratio.bytes_per_token("m") == 4.0
    assert ratio.tokens("m", 4_000) == 1_000


def test_it_converges_on_what_is_reported_per_model() -> None:
    ratio = TokenRatio()
    for _ in range(300):
        ratio.observe("chinese", 3_000, 1_500)
    assert ratio.bytes_per_token("chinese") == pytest.approx(2.0, rel=0.02)
    assert ratio.bytes_per_token("other") == 4.0


def test_large_prompts_count_more_than_template_overhead_of_small_ones() -> None:
    ratio = TokenRatio()
    for _ in range(200):
        ratio.observe("m", 10, 30)
        ratio.observe("m", 40_000, 10_000)
    assert ratio.bytes_per_token("m") == pytest.approx(4.0, rel=0.01)


def test_it_follows_a_change_of_traffic() -> None:
    ratio = TokenRatio()
    for _ in range(500):
        ratio.observe("m", 4_000, 1_000)
    for _ in range(200):
        ratio.observe("m", 2_000, 1_000)
    assert ratio.bytes_per_token("m") == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(("text_bytes", "tokens"), [(0, 5), (5, 0), (-1, 1), (1, -1)])
def test_what_cannot_be_true_is_ignored(text_bytes: float, tokens: float) -> None:
    ratio = TokenRatio()
    ratio.observe("m", text_bytes, tokens)
    assert ratio.bytes_per_token("m") == 4.0


def test_the_estimate_stays_in_bounds_and_models_are_bounded() -> None:
    ratio = TokenRatio(max_models=2)
    for _ in range(500):
        ratio.observe("dense", 1_000_000, 10)
        ratio.observe("odd", 10, 1_000_000)
    assert ratio.bytes_per_token("dense") == 16.0
    assert ratio.bytes_per_token("odd") == 1.0
    ratio.observe("third", 4, 1)
    assert ratio.bytes_per_token("dense") == 4.0


def test_a_prior_out_of_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 16"):
        TokenRatio(0.5)
