"""Rules as text: the form in which the Redis scripts and the journal keep them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from policies.limits.types import (
    CalendarWindow,
    Concurrency,
    LimitError,
    Period,
    Rule,
    TokenBucket,
)

_WINDOWS: Final = {
    Period.SECOND: "s",
    Period.MINUTE: "m",
    Period.HOUR: "h",
    Period.DAY: "d",
    Period.MONTH: "M",
}
_PERIODS: Final = {letter: period for period, letter in _WINDOWS.items()}


@lru_cache(maxsize=16_384)
def rule_text(rule: Rule) -> str:
    """The rule in the form that ``redis/common.lua`` reads."""
    if isinstance(rule, TokenBucket):
        return f"t {rule.capacity} {rule.refill} {rule.period_ms}"
    if isinstance(rule, CalendarWindow):
        return f"{_WINDOWS[rule.period]} {rule.limit}"
    return f"c {rule.limit}"


@lru_cache(maxsize=16_384)
def rule_of(text: str) -> Rule:
    """The rule of a `rule_text`. Raises LimitError for any other text."""
    kind, *numbers = text.split(" ")
    try:
        amounts = [int(number) for number in numbers]
        if kind == "t":
            return TokenBucket(*amounts)
        (limit,) = amounts
        return Concurrency(limit) if kind == "c" else CalendarWindow(limit, _PERIODS[kind])
    except (ValueError, TypeError, KeyError) as error:
        raise LimitError(f"{text!r} is not a rule") from error
