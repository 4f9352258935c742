"""Rules as text: the form in which the Redis scripts and the journal keep them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from policies.limits.arithmetic import window_end_ms, window_start_ms
from policies.limits.types import (
    UTC,
    CalendarWindow,
    Concurrency,
    Lifetime,
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
    Period.WEEK: "w",
    Period.MONTH: "M",
}
_PERIODS: Final = {letter: period for period, letter in _WINDOWS.items()}


@lru_cache(maxsize=16_384)
def rule_text(rule: Rule) -> str:
    """``t CAPACITY REFILL PERIOD_MS``, a token bucket; ``d LIMIT`` or ``d@ZONE LIMIT``, a window;
    ``l:IDLE_MS LIMIT``, a lifetime; ``c LIMIT``, concurrency."""
    if isinstance(rule, TokenBucket):
        return f"t {rule.capacity} {rule.refill} {rule.period_ms}"
    return f"{rule_kind(rule)} {rule.limit}"


def rule_kind(rule: Rule) -> str:
    """The part of the text that a count depends on: rules of one kind `counts_alike`."""
    if isinstance(rule, TokenBucket):
        return rule_text(rule)
    if isinstance(rule, CalendarWindow):
        letter = _WINDOWS[rule.period]
        return letter if rule.zone == UTC else f"{letter}@{rule.zone}"
    return f"l:{rule.idle_ms}" if isinstance(rule, Lifetime) else "c"


@lru_cache(maxsize=16_384)
def rule_of(text: str) -> Rule:
    """The rule of a `rule_text`. Raises LimitError for any other text."""
    kind, *numbers = text.split(" ")
    try:
        amounts = [int(number) for number in numbers]
        if kind == "t":
            return TokenBucket(*amounts)
        (limit,) = amounts
        if kind == "c":
            return Concurrency(limit)
        if kind.startswith("l:"):
            return Lifetime(limit, int(kind[2:]))
        letter, _, zone = kind.partition("@")
        return CalendarWindow(limit, _PERIODS[letter], zone or UTC)
    except (ValueError, TypeError, KeyError) as error:
        raise LimitError(f"{text!r} is not a rule") from error


_zoned: dict[CalendarWindow, tuple[int, int, str]] = {}
_MAX_ZONED: Final = 16_384


def script_text(rule: Rule, now_ms: int) -> str:
    """The rule as ``redis/common.lua`` reads it: its text, and for a window of a time zone the
    starts of the windows around ``now_ms``, since Redis knows no time zones. Its clock may differ
    from ours by the length of a window."""
    if not isinstance(rule, CalendarWindow) or rule.zone == UTC:
        return rule_text(rule)
    known = _zoned.get(rule)
    if known is None or not known[0] <= now_ms < known[1]:
        start_ms = window_start_ms(rule.period, now_ms, rule.zone)
        starts = [window_start_ms(rule.period, start_ms - 1, rule.zone), start_ms]
        while len(starts) < _STARTS:
            starts.append(window_end_ms(rule.period, starts[-1], rule.zone))
        if len(_zoned) >= _MAX_ZONED:
            _zoned.clear()
        known = (start_ms, starts[2], f"{rule_text(rule)} {' '.join(map(str, starts))}")
        _zoned[rule] = known
    return known[2]


_STARTS: Final = 4
"""Of the window before, of the present one, and of two after it."""
