"""A picker's share of a limit."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.limits.share import scaled
from policies.limits.types import (
    MAX_PERIOD_MS,
    CalendarWindow,
    Concurrency,
    LimitError,
    Rule,
    TokenBucket,
)
from tests.policies.limits.rules import RULES


@given(RULES, st.fractions(Fraction(1, 100), 1))
def test_shares_together_are_never_more_than_the_whole(rule: Rule, share: Fraction) -> None:
    part = scaled(rule, share)
    if isinstance(rule, TokenBucket) and isinstance(part, TokenBucket):
        assert part.capacity <= max(Fraction(1), rule.capacity * share)
        rate = Fraction(rule.refill, rule.period_ms) * share
        assert Fraction(part.refill, part.period_ms) <= max(rate, Fraction(1, MAX_PERIOD_MS))
    elif isinstance(rule, CalendarWindow | Concurrency):
        assert isinstance(part, CalendarWindow | Concurrency)
        assert part.limit <= max(Fraction(1), rule.limit * share)


@pytest.mark.parametrize("share", [Fraction(0), Fraction(-1), Fraction(3, 2)])
def test_an_impossible_share_says_what_is_right(share: Fraction) -> None:
    with pytest.raises(LimitError, match="must be above 0 and at most 1"):
        scaled(Concurrency(1), share)
