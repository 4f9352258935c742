"""Rules as text."""

from __future__ import annotations

import pytest

from gateway.limits.rule_text import rule_of, rule_text, script_text
from policies.limits.arithmetic import window_end_ms, window_start_ms
from policies.limits.types import (
    CalendarWindow,
    Concurrency,
    Lifetime,
    LimitError,
    Period,
    Rule,
    TokenBucket,
)

RULES: list[Rule] = [
    CalendarWindow(1_000, Period.MONTH),
    CalendarWindow(1_000, Period.HOUR),
    CalendarWindow(1_000, Period.MINUTE),
    CalendarWindow(1_000, Period.WEEK, "Europe/Berlin"),
    Lifetime(1_000, 60_000),
    TokenBucket.per(Period.DAY, 864, burst=1_000),
    TokenBucket(10_000, 1, 1_000),
    TokenBucket(1_000, 1, 1_000),
    Concurrency(1_000),
]


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_read_as_written(rule: Rule) -> None:
    assert rule_of(rule_text(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        *("", "t 1 2", "t 0 1 1", "x 1", "c", "c x", "m 1 2", "d"),
        *("d@Nowhere 5", "l 5", "l:0 5", "x@UTC 5"),
    ],
)
def test_no_other_text_is_a_rule(text: str) -> None:
    with pytest.raises(LimitError):
        rule_of(text)


def test_redis_is_given_the_windows_of_a_time_zone_around_the_present_one() -> None:
    rule = CalendarWindow(5, Period.DAY, "Europe/Berlin")
    for now_ms in (1_774_700_000_000, 1_774_750_000_000, 1_774_900_000_000):  # a day of 23 hours
        kind, limit, *starts = script_text(rule, now_ms).split(" ")
        assert (kind, limit) == ("d@Europe/Berlin", "5")
        before, start, end, after = map(int, starts)
        assert start == window_start_ms(Period.DAY, now_ms, rule.zone) <= now_ms < end
        assert end == window_end_ms(Period.DAY, start, rule.zone)
        assert before == window_start_ms(Period.DAY, start - 1, rule.zone)
        assert after == window_end_ms(Period.DAY, end, rule.zone)
    assert script_text(CalendarWindow(5, Period.WEEK), 0) == "w 5"
