"""Prices and weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import assert_refused

PRICES = "identity: {{}}\npricing: {{models: [{}]}}"


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("identity: {}\npricing: {currency: usd}", "pricing.currency", "three letters"),
        (
            PRICES.format("{model: m, input: 1}"),
            "pricing.models[0]",
            "output: 0 for a model that makes no output",
        ),
        (
            PRICES.format("{model: m, input: 1, output: 1, cel: '1'}"),
            "pricing.models[0]",
            "either `cel` alone, or prices",
        ),
        (
            PRICES.format("{model: m, input: -0.1, output: 1}"),
            "pricing.models[0].input",
            "greater than or equal to 0",
        ),
        (
            PRICES.format("{model: m, input: 0.1234567, output: 1}"),
            "pricing.models[0].input",
            "at most 6 decimal places",
        ),
        (
            PRICES.format("{model: m, cel: 'input_tokens * 0.5'}"),
            "pricing.models[0].cel",
            "write double(input_tokens)",
        ),
        (
            PRICES.format("{model: m, cel: 'prompt_tokens'}"),
            "pricing.models[0].cel",
            "prompt_tokens at line 1, column 1",
        ),
        (
            "identity: {}\npricing: {weights: {cel: 'input_tokens', output: 2}}",
            "pricing.weights",
            "either `cel` alone, or numbers",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)
