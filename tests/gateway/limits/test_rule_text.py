"""Rules as text."""

from __future__ import annotations

import pytest

from gateway.limits.rule_text import rule_of, rule_text
from policies.limits.types import (
    CalendarWindow,
    Concurrency,
    LimitError,
    Period,
    Rule,
    TokenBucket,
)

RULES: list[Rule] = [
    CalendarWindow(1_000, Period.MONTH),
    CalendarWindow(1_000, Period.HOUR),
    CalendarWindow(1_000, Period.MINUTE),
    TokenBucket.per(Period.DAY, 864, burst=1_000),
    TokenBucket(10_000, 1, 1_000),
    TokenBucket(1_000, 1, 1_000),
    Concurrency(1_000),
]


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_read_as_written(rule: Rule) -> None:
    assert rule_of(rule_text(rule)) == rule


@pytest.mark.parametrize("text", ["", "t 1 2", "t 0 1 1", "x 1", "c", "c x", "m 1 2", "d"])
def test_no_other_text_is_a_rule(text: str) -> None:
    with pytest.raises(LimitError):
        rule_of(text)
