from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.limits.prices import Price, PriceError, Usage

PRICE = Price(2_500_000, 10_000_000, 1_250_000, 12_000_000)


def test_each_kind_of_token_has_its_price() -> None:
    usage = Usage(1_000, 100, cached_tokens=400, reasoning_tokens=60)
    assert PRICE.micros(usage) == 600 * 2.5 + 400 * 1.25 + 40 * 10 + 60 * 12


def test_cached_and_reasoning_cost_as_their_whole_unless_priced() -> None:
    price = Price(1_000_000, 2_000_000)
    assert price.micros(Usage(10, 10, 5, 5)) == 30


@pytest.mark.parametrize(("tokens", "micros"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_half_a_micro_unit_goes_to_the_even_one(tokens: int, micros: int) -> None:
    assert Price(500_000, 0).micros(Usage(tokens, 0)) == micros


@given(st.integers(0, 10**7), st.integers(0, 10**9))
def test_rounded_by_half_a_micro_unit_at_most(tokens: int, price: int) -> None:
    cost = Price(price, 0).micros(Usage(tokens, 0))
    assert abs(cost - Fraction(tokens * price, 10**6)) <= Fraction(1, 2)


def test_a_price_is_not_negative() -> None:
    with pytest.raises(PriceError, match="input"):
        Price(-1, 1)


def test_parts_are_within_their_whole() -> None:
    with pytest.raises(PriceError, match="cached_tokens"):
        Usage(5, 5, cached_tokens=6)
