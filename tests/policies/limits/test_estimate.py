from __future__ import annotations

import random

import pytest

from policies.limits.estimate import OutputQuantile


def test_learns_the_quantile_of_a_tenant_and_model() -> None:
    rng = random.Random(7)
    estimate = OutputQuantile(share=0.9)
    for _ in range(2_000):
        estimate.observe("acme", "m", rng.randint(1, 1_000))
    assert 850 <= estimate.tokens("acme", "m") <= 1_000 * 1.1


def test_follows_a_change() -> None:
    estimate = OutputQuantile(share=0.9)
    for tokens in [4_000] * 1_000 + [100] * 1_000:
        estimate.observe("acme", "m", tokens)
    assert 100 <= estimate.tokens("acme", "m") <= 110


def test_prior_then_model_then_tenant() -> None:
    estimate = OutputQuantile(prior_tokens=512, enough=5)
    assert estimate.tokens("acme", "m") == 512
    for _ in range(5):
        estimate.observe("other", "m", 64)
    assert estimate.tokens("acme", "m") == 64
    for _ in range(5):
        estimate.observe("acme", "m", 2_048)
    assert estimate.tokens("acme", "m") == 2_048
    assert estimate.tokens("acme", "elsewhere") == 512


def test_is_bounded_by_limits_and_by_what_is_declared() -> None:
    estimate = OutputQuantile(min_tokens=10, max_tokens=1_000, prior_tokens=100, enough=1)
    estimate.observe("a", "m", 500_000)
    assert estimate.tokens("a", "m") == 1_000
    assert estimate.tokens("a", "m", 7) == 7
    estimate.observe("b", "n", 0)
    assert estimate.tokens("b", "n") == 10


def test_memory_is_bounded_and_weights_do_not_overflow() -> None:
    estimate = OutputQuantile(max_keys=4, enough=1, decay=0.5)
    for i in range(2_000):
        estimate.observe(f"t{i}", "m", 100)
    assert len(estimate._histograms) == 4
    assert 100 <= estimate.tokens("unseen", "m") <= 109


@pytest.mark.parametrize(
    "bad", [{"share": 0.0}, {"decay": 1.0}, {"min_tokens": 99, "prior_tokens": 9}, {"enough": 0}]
)
def test_bad_parameters_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        OutputQuantile(**bad)  # type: ignore[arg-type]
