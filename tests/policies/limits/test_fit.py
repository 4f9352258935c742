"""Guessed outputs in limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.limits.fit import GUESS_SHARE, fitted, largest_output
from policies.limits.plan import Meter
from policies.limits.prices import Price, Usage
from policies.limits.types import Bucket, CalendarWindow, Concurrency, Dimension, Period


def meter(dimension: Dimension, limit: int, *, shadow: bool = False) -> Meter:
    price = Price(1_000_000, 3_000_000) if dimension is Dimension.MONEY else None
    rule = CalendarWindow(limit, Period.DAY)
    return Meter(Bucket(dimension.value, dimension, rule, shadow=shadow), price)


def test_what_fits_stays() -> None:
    guess = Usage(100, 50)
    assert fitted([meter(Dimension.TOTAL_TOKENS, 600)], guess) == guess
    assert fitted([], guess) == guess


def test_a_guess_takes_at_most_a_quarter() -> None:
    assert fitted([meter(Dimension.OUTPUT_TOKENS, 1_000)], Usage(100, 5_000)).output_tokens == 250
    assert fitted([meter(Dimension.TOTAL_TOKENS, 1_000)], Usage(100, 5_000)).output_tokens == 150
    assert fitted([meter(Dimension.MONEY, 4_000)], Usage(100, 5_000)).output_tokens == 300


def test_a_large_input_is_not_the_guesss_fault() -> None:
    guess = fitted([meter(Dimension.TOTAL_TOKENS, 1_000)], Usage(900, 5_000))
    assert guess == Usage(900, 0)


def test_limits_that_do_not_count_output_and_shadow_ones_change_nothing() -> None:
    meters = [
        meter(Dimension.INPUT_TOKENS, 10),
        meter(Dimension.TOTAL_TOKENS, 10, shadow=True),
        Meter(Bucket("c", Dimension.CONCURRENCY, Concurrency(1))),
    ]
    assert fitted(meters, Usage(100, 5_000)) == Usage(100, 5_000)


@given(
    st.lists(st.tuples(st.sampled_from(list(Dimension)), st.integers(1, 10**6)), max_size=5),
    st.integers(0, 10**5),
    st.integers(0, 10**6),
)
def test_as_much_as_possible_and_never_more(
    limits: list[tuple[Dimension, int]], input_tokens: int, output_tokens: int
) -> None:
    meters = [meter(dimension, limit) for dimension, limit in limits]
    found = fitted(meters, Usage(input_tokens, output_tokens))
    assert 0 <= found.output_tokens <= output_tokens

    def allowed(output: int) -> bool:
        return all(
            m.amount(Usage(input_tokens, output))
            <= max(m.bucket.limit // GUESS_SHARE, m.amount(Usage(input_tokens, 0)))
            for m in meters
        )

    assert allowed(found.output_tokens) or found.output_tokens == 0
    assert found.output_tokens == output_tokens or not allowed(found.output_tokens + 1)


def test_the_largest_output_that_fits_into_what_is_there() -> None:
    meters = [meter(Dimension.TOTAL_TOKENS, 1_000), meter(Dimension.OUTPUT_TOKENS, 1, shadow=True)]
    assert largest_output(meters, Usage(100, 5_000), [1_000, 0]) == 900
    assert largest_output(meters, Usage(100, 50), [1_000, 0]) == 50
    assert largest_output(meters, Usage(1_000, 5_000), [1_000, 0]) == 0
    assert largest_output(meters, Usage(1_001, 5_000), [1_000, 0]) is None
