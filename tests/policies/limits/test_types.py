"""Impossible rules and amounts are refused."""

from __future__ import annotations

import pytest

from policies.limits.types import (
    MAX_AMOUNT,
    MAX_LIMIT,
    MAX_PERIOD_MS,
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    LimitError,
    Period,
    Take,
    TokenBucket,
    check_takes,
)

MINUTE = Bucket("m", Dimension.TOTAL_TOKENS, TokenBucket.per(Period.MINUTE, 600), "a minute")


@pytest.mark.parametrize(
    "make",
    [
        lambda: TokenBucket(0, 1, 1),
        lambda: TokenBucket(1, MAX_LIMIT + 1, 1),
        lambda: TokenBucket(1, 1, MAX_PERIOD_MS + 1),
        lambda: CalendarWindow(0, Period.DAY),
        lambda: Concurrency(1.5),  # type: ignore[arg-type]
    ],
)
def test_impossible_rules_say_what_is_right(make: object) -> None:
    assert callable(make)
    with pytest.raises(LimitError, match="must be"):
        make()


@pytest.mark.parametrize("amount", [-1, 1.5, MAX_AMOUNT + 1])
def test_impossible_amounts(amount: int) -> None:
    with pytest.raises(LimitError, match="whole number"):
        Take(MINUTE, amount)


def test_a_bucket_is_taken_from_once() -> None:
    with pytest.raises(LimitError, match="twice"):
        check_takes([Take(MINUTE, 1), Take(MINUTE, 2)])
