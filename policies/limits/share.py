"""A picker's share of a limit, for the time when it must decide alone."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import floor

from policies.limits.types import (
    MAX_LIMIT,
    MAX_PERIOD_MS,
    LimitError,
    Rule,
    Take,
    TokenBucket,
)


def scaled(rule: Rule, share: Fraction) -> Rule:
    """The rule with ``share`` (above 0, at most 1) of its amounts, rounded down, but at least 1.

    The refill keeps its exact rate where `MAX_LIMIT` and `MAX_PERIOD_MS` allow that. Otherwise it
    is rounded down to a whole amount in each period or, if that is 0, in each MAX_PERIOD_MS.
    Raises LimitError for a share out of range.
    """
    if not 0 < share <= 1:
        raise LimitError(f"share must be above 0 and at most 1, got {share}")
    if isinstance(rule, TokenBucket):
        rate = Fraction(rule.refill, rule.period_ms) * share
        refill, period_ms = rate.numerator, rate.denominator
        if refill > MAX_LIMIT or period_ms > MAX_PERIOD_MS:
            refill, period_ms = floor(rule.refill * share), rule.period_ms
        if refill == 0:
            refill, period_ms = max(1, floor(rate * MAX_PERIOD_MS)), MAX_PERIOD_MS
        return TokenBucket(max(1, floor(rule.capacity * share)), refill, period_ms)
    limit = max(1, floor(rule.limit * share))
    return replace(rule, limit=limit)


def scaled_take(take: Take, share: Fraction) -> Take:
    """The same amount from the scaled bucket."""
    return Take(replace(take.bucket, rule=scaled(take.bucket.rule, share)), take.amount)
