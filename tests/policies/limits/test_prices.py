from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.limits.prices import Price, PriceError, PriceTable, Usage

PRICE = Price.per_million(input_="2.50", output="10", cached_input="1.25", reasoning="12")


def test_each_kind_of_token_has_its_price() -> None:
    usage = Usage(1_000, 100, cached_tokens=400, reasoning_tokens=60)
    assert PRICE.micros(usage) == 600 * 2.5 + 400 * 1.25 + 40 * 10 + 60 * 12


def test_cached_and_reasoning_cost_as_their_whole_unless_priced() -> None:
    price = Price.per_million(input_="1", output="2")
    assert price.micros(Usage(10, 10, 5, 5)) == 30


@pytest.mark.parametrize(("tokens", "micros"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_half_a_micro_unit_goes_to_the_even_one(tokens: int, micros: int) -> None:
    assert Price(500_000, 0).micros(Usage(tokens, 0)) == micros


@given(st.integers(0, 10**7), st.integers(0, 10**9))
def test_rounded_by_half_a_micro_unit_at_most(tokens: int, price: int) -> None:
    cost = Price(price, 0).micros(Usage(tokens, 0))
    assert abs(cost - Fraction(tokens * price, 10**6)) <= Fraction(1, 2)


def test_table_by_model() -> None:
    usage = Usage(1_000_000, 0)
    assert PriceTable({"m": PRICE}).micros("m", usage) == 2_500_000
    assert PriceTable({}, default=PRICE).micros("x", usage) == 2_500_000
    with pytest.raises(PriceError, match="'x'"):
        PriceTable({"m": PRICE}).micros("x", usage)


@pytest.mark.parametrize("text", ["", "x", "NaN", "Infinity", "0.0000001", "-1"])
def test_bad_prices(text: str) -> None:
    with pytest.raises(PriceError, match="input"):
        Price.per_million(input_=text, output="1")


def test_parts_are_within_their_whole() -> None:
    with pytest.raises(PriceError, match="cached_tokens"):
        Usage(5, 5, cached_tokens=6)
