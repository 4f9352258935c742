"""Costs written as CEL: what they amount to, and what an operator is told of a wrong one."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.limits.expression import Expression, ExpressionError, Unit
from policies.limits.prices import Price, Usage
from policies.limits.types import MAX_AMOUNT

counts = st.integers(0, 10_000_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    input_tokens, output_tokens = draw(counts), draw(counts)
    return Usage(
        input_tokens,
        output_tokens,
        draw(st.integers(0, input_tokens)),
        draw(st.integers(0, output_tokens)),
    )


def test_money_comes_out_in_micro_units() -> None:
    cost = Expression(
        "double(input_tokens - cached_input_tokens) * 3e-6 + double(cached_input_tokens) * 3e-7"
        " + double(output_tokens) * 15e-6",
        Unit.MONEY,
    )
    assert cost.micros(Usage(1_000, 100, cached_tokens=400)) == 600 * 3 + 400 * 3 // 10 + 100 * 15
    assert cost.micros(Usage(0, 0)) == 0


def test_whole_numbers_are_whole_units() -> None:
    assert Expression("output_tokens > 0 ? 2 : 0", Unit.MONEY).micros(Usage(1, 1)) == 2_000_000
    assert Expression("total_tokens + reasoning_tokens", Unit.TOKENS).micros(
        Usage(5, 3, reasoning_tokens=2)
    ) == (5 + 3 + 2)


def test_the_dearer_of_two() -> None:
    cost = Expression("max(0.01, double(total_tokens) * 1e-6)", Unit.MONEY)
    assert cost.micros(Usage(10, 10)) == 10_000
    assert cost.micros(Usage(10_000, 10_000)) == 20_000


@pytest.mark.parametrize(
    ("tokens", "whole"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4), (11, 6)]
)
def test_halves_go_to_even(tokens: int, whole: int) -> None:
    usage = Usage(tokens, 0)
    assert Expression("double(input_tokens) * 0.5", Unit.TOKENS).micros(usage) == whole
    assert Expression("double(input_tokens) / 2000000.0", Unit.MONEY).micros(usage) == whole


@given(usages(), st.integers(0, 10_000_000), st.integers(0, 10_000_000))
def test_it_is_the_price_table_to_a_micro_unit(usage: Usage, input_: int, output: int) -> None:
    price = Price(input_, output)
    cost = Expression(
        f"double(input_tokens * {input_} + output_tokens * {output}) / 1000000000000.0",
        Unit.MONEY,
    )
    # Doubles have 53 bits: exact to a micro-unit below 2^53 of them.
    assert abs(cost.micros(usage) - price.micros(usage)) <= 1


@given(usages())
def test_the_value_as_it_is_written_is_rounded_once(usage: Usage) -> None:
    cost = Expression("double(total_tokens) * 0.0000015", Unit.MONEY)
    written = Decimal(repr(float(usage.input_tokens + usage.output_tokens) * 0.0000015))
    exact = Fraction(written) * 1_000_000
    assert abs(cost.micros(usage) - exact) <= Fraction(1, 2)
    assert cost.micros(usage) == int((written * 1_000_000).to_integral_value(ROUND_HALF_EVEN))


def test_it_is_bounded_like_every_amount() -> None:
    cost = Expression("double(total_tokens) * double(total_tokens)", Unit.MONEY)
    assert cost.micros(Usage(2**40, 0)) == MAX_AMOUNT


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("input_tokens +", "unexpected end at line 1, column 15"),
        ("1 +\n* 2", "unexpected '*' at line 2, column 1"),
        ("", "unexpected end at line 1, column 1"),
        ("input_tokens $ 2", "unexpected '$' at line 1, column 14"),
        ("1.0 +\n  prompt_tokens", "prompt_tokens at line 2, column 3"),
        ("prompt_tokens", "variables among input_tokens, cached_input_tokens"),
        ("ceil(1.5)", "ceil at line 1, column 1"),
        ("ceil(1.5)", "functions among double, int, max, min, uint"),
        ("[1].map(x, x)[0]", "x at line 1, column 9"),
        ("input_tokens * 0.5", "write double(input_tokens)"),
        ("1 + 1.0", "1.0 instead of 1 beside a double"),
        ("input_tokens.price", "operands of one type"),
        ("output_tokens > 0", "got true or false"),
        ("'free'", "got text"),
        ("[1]", "got a list"),
        ("{'a': 1}", "got a map"),
        ("null", "got null"),
        ("1 / input_tokens", "division by zero for input_tokens = 0"),
        ("1.0 / double(output_tokens)", "got inf for"),
        ("0.0 / double(output_tokens)", "got nan for"),
        ("input_tokens > 0 ? 1.0 : -1.0", "got -1.0 for input_tokens = 0"),
        ("double(input_tokens) * 1e-6 - 0.01", "max(0.0, ...) keeps it"),
        ("input_tokens * 9000000000000000000", "overflow"),
        # Only beyond a tier:
        ("input_tokens > 200000 ? input_tokens * 0.5 : 1.0", "input_tokens = 200001"),
        ("input_tokens > 20000000 ? -1.0 : 1.0", "input_tokens = 20000001"),
        ("output_tokens == 4321 ? 1.0 / 0.0 : 1.0", "output_tokens = 4321"),
        ("1" + " + 1" * 600, "at most 2000 characters"),
        ("(" * 990 + "1" + ")" * 990, "a CEL expression"),
    ],
)
def test_what_an_operator_is_told(text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        Expression(text, Unit.MONEY)
    assert says in str(refused.value)


def test_a_failure_nobody_foresaw_is_free_counted_and_told() -> None:
    told: list[str] = []
    # 12,345 stands nowhere in the text, so it is not tried when this is compiled.
    cost = Expression(
        "max(0.0, 1.0 / (double(input_tokens) - 12344.0 - 1.0))",
        Unit.MONEY,
        on_failure=told.append,
    )
    assert cost.micros(Usage(12_346, 0)) == 1_000_000
    assert cost.failures == 0
    assert cost.micros(Usage(12_345, 0)) == 0
    assert cost.failures == 1
    (message,) = told
    assert "inf for input_tokens = 12345" in message


def test_errors_at_run_time_do_not_escape() -> None:
    told: list[str] = []
    cost = Expression(
        "1000000 / max(1, 5 - 6) + 7 % (input_tokens - 4 * 1234 == 0 ? 0 : 1)",
        Unit.TOKENS,
        on_failure=told.append,
    )
    assert cost.micros(Usage(4_936, 0)) == 0
    assert cost.failures == 1
    assert "zero" in told[0]


def test_equal_texts_of_one_unit_are_equal() -> None:
    one = Expression("1.0", Unit.MONEY)
    assert one == Expression("1.0", Unit.MONEY)
    assert hash(one) == hash(Expression("1.0", Unit.MONEY))
    assert one != Expression("1.0", Unit.TOKENS)
    assert one != Expression("2.0", Unit.MONEY)
    assert one != "1.0"
