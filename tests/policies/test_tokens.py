"""Bytes per token, calibrated from usage."""

from __future__ import annotations

import pytest

from policies.tokens import ChunkRatio, TokenRatio


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


def chunks(model: str = "m", tenant: str = "t", *, ratio: ChunkRatio, count: int = 100) -> int:
    return ratio.tokens(tenant, model, count)


def test_chunks_of_an_unknown_model_hold_a_token_each() -> None:
    assert chunks(ratio=ChunkRatio(), count=41) == 41


@pytest.mark.parametrize("tokens", [100, 101, 90])
def test_the_token_that_ends_an_answer_is_no_sign_of_full_chunks(tokens: int) -> None:
    ratio = ChunkRatio()
    for _ in range(200):
        ratio.observe("t", "m", 100, tokens)
    assert chunks(ratio=ratio, count=100_000) == 100_000


def test_chunks_of_several_tokens_are_learned_per_model() -> None:
    ratio = ChunkRatio()
    for _ in range(300):
        ratio.observe("t", "fast", 100, 251)
        ratio.observe("t", "plain", 100, 101)
    assert chunks("fast", ratio=ratio, count=40) == pytest.approx(100, abs=1)
    assert chunks("plain", ratio=ratio, count=40) == 40


def test_full_chunks_of_one_tenant_are_not_those_of_another() -> None:
    ratio = ChunkRatio()
    for _ in range(300):
        ratio.observe("bad", "m", 100, 1_500)
    assert chunks(tenant="bad", ratio=ratio) > 1_000
    assert chunks(tenant="good", ratio=ratio) == 100
    for tenant in ("a", "b", "c"):
        for _ in range(200):
            ratio.observe(tenant, "m", 100, 301)
    assert chunks(tenant="good", ratio=ratio) == pytest.approx(300, rel=0.1), "it is the engine"


@pytest.mark.parametrize(("count", "tokens"), [(0, 5), (-1, 5), (5, 0), (5, -1)])
def test_chunks_that_say_nothing_are_ignored(count: int, tokens: int) -> None:
    ratio = ChunkRatio()
    ratio.observe("t", "m", count, tokens)
    assert chunks(ratio=ratio, count=1_000) == 1_000


def test_one_answer_changes_little() -> None:
    ratio = ChunkRatio()
    ratio.observe("t", "m", 4, 4_000)  # hidden, and not told to be
    ratio.observe("t", "m", 10_000, 160_000)
    assert chunks(ratio=ratio) <= 107
    ratio.observe("t", "m", 1, 10**14)
    assert chunks(ratio=ratio) <= 107


def test_hidden_reasoning_is_in_no_chunk() -> None:
    hidden, shown = ChunkRatio(), ChunkRatio()
    for _ in range(300):
        hidden.observe("t", "m", 100, 1_100, 1_000)
        shown.observe("t", "m", 550, 1_100, 1_000)
    assert chunks(ratio=hidden) == 100
    assert chunks(ratio=shown) == pytest.approx(200, abs=1)
