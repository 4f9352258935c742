"""Exact arithmetic of buckets: what is in them at an instant, taking, giving back, settling.

A token bucket's level is the rational ``value + carry / period_ms``, kept in whole numbers, so
nothing is ever rounded: advancing in many small steps equals advancing in one. What follows for
every instant, with ``refill`` per ``period_ms`` and T_ms since the bucket was made or last full:

    settled + held  <=  capacity + refill * T_ms / period_ms + debt

exactly, where ``debt`` (the level below zero) arises only when a settlement exceeds its
reservation: it is at most the sum of those excesses of requests that were in flight together, and
0 when reservations are upper bounds. The next reservations wait until it is paid. The clock is read
in whole milliseconds, so against true time the bound is one millisecond of refill wider.

T_ms is how far the clock went forward, step by step. A clock that is set back by no more than
`BACK_MS` refills nothing until it has caught up; by more, refilling goes on from where it is now.
So a clock that is set back by B_ms and forward again gains at most refill * B_ms / period_ms, and
a calendar window is counted anew at most once for each time that the clock crosses its start.

``gateway/limits/*.lua`` computes the same, and the same tests run against both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from policies.limits.types import (
    DAY_MS,
    NOMINAL_MS,
    CalendarWindow,
    Concurrency,
    Period,
    Rule,
    TokenBucket,
)

BACK_MS: Final = 1_000
"""Largest step back of the clock that is waited out."""


class State(NamedTuple):
    """A bucket at an instant.

    Token bucket: ``value`` is the level, ``carry`` the fraction of the next unit in 1/period_ms,
    ``at_ms`` the instant. Calendar window: what was used, 0, the window's start. Concurrency: what
    is held, 0, the instant of creation.
    """

    value: int
    carry: int
    at_ms: int


def fresh(rule: Rule, now_ms: int) -> State:
    """A bucket that nobody took from: the state that an unknown or idle bucket is in."""
    if isinstance(rule, TokenBucket):
        return State(rule.capacity, 0, now_ms)
    if isinstance(rule, CalendarWindow):
        return State(0, 0, window_start_ms(rule.period, now_ms))
    return State(0, 0, now_ms)


def advance(rule: Rule, state: State, now_ms: int) -> State:
    """The state at ``now_ms``: refilled, or rolled over to the window that holds ``now_ms``.

    A clock that was set back refills nothing. By more than `BACK_MS`, the state is as it was, but
    of now: what was used of a window to come counts in the present one. What is idle is of now.
    """
    if isinstance(rule, TokenBucket):
        value, carry, at_ms = state
        if now_ms > at_ms:
            gained, carry = divmod(carry + (now_ms - at_ms) * rule.refill, rule.period_ms)
            value, at_ms = value + gained, now_ms
        elif at_ms - now_ms > BACK_MS:
            at_ms = now_ms
        if value >= rule.capacity:
            return State(rule.capacity, 0, now_ms)
        return State(value, carry, at_ms)
    if isinstance(rule, CalendarWindow):
        if now_ms >= window_end_ms(rule.period, state.at_ms):
            return fresh(rule, now_ms)
        if state.at_ms > now_ms and (state.value == 0 or state.at_ms - now_ms > BACK_MS):
            return State(state.value, 0, window_start_ms(rule.period, now_ms))
    return state


def change_rule(old: Rule, new: Rule, state: State, now_ms: int) -> State:
    """The state under a changed rule: a level stays, at most the new capacity; full stays full;
    what was used or is held stays.

    Refilled by the old rule until now; less than one unit of fraction is lost. A rule of another
    kind, or a window of another period, starts fresh.
    """
    state = advance(old, state, now_ms)
    if not same_kind(old, new) or is_idle(old, state):
        return fresh(new, now_ms)
    return advance(new, State(state.value, 0, state.at_ms), now_ms)


def same_kind(one: Rule, other: Rule) -> bool:
    """Whether amounts held under one rule mean the same under the other."""
    if isinstance(one, CalendarWindow) and isinstance(other, CalendarWindow):
        return one.period is other.period
    return type(one) is type(other)


def available(rule: Rule, state: State) -> int:
    """What can be taken from an advanced state; negative while there is debt."""
    if isinstance(rule, TokenBucket):
        return state.value
    return rule.limit - state.value


def take(rule: Rule, state: State, amount: int) -> State:
    """An advanced state after taking; the caller has seen that ``amount`` is available."""
    change = -amount if isinstance(rule, TokenBucket) else amount
    return State(state.value + change, state.carry, state.at_ms)


def settle(rule: Rule, state: State, held: int, taken_at_ms: int, charge: int) -> State:
    """An advanced state after a request that held ``held`` was charged ``charge``.

    Less than held: the rest is given back, up to the capacity, and to a calendar window only while
    it lasts (``taken_at_ms`` is after it if the clock was set back). More: the excess is charged
    now, into debt if need be. A window's debt ends with it. Concurrency gives ``held`` back,
    whatever the charge. ``held`` is 0 once the lease has ended.
    """
    if isinstance(rule, TokenBucket):
        value = state.value + held - charge
        if value >= rule.capacity:
            return State(rule.capacity, 0, state.at_ms)
        return State(value, state.carry, state.at_ms)
    if isinstance(rule, Concurrency):
        return State(max(0, state.value - held), 0, state.at_ms)
    change = charge - held
    if taken_at_ms < state.at_ms:
        change = max(0, change)
    return State(max(0, state.value + change), 0, state.at_ms)


def ready_at_ms(rule: Rule, state: State, amount: int) -> int | None:
    """The first instant at which ``amount`` is available if nobody takes or settles anything.

    Not before ``state.at_ms``. None: never, or, for concurrency, not before somebody settles.
    """
    if isinstance(rule, TokenBucket):
        if amount > rule.capacity:
            return None
        missing = (amount - state.value) * rule.period_ms - state.carry
        return state.at_ms + max(0, -(-missing // rule.refill))
    if amount <= available(rule, state):
        return state.at_ms
    if isinstance(rule, Concurrency) or amount > rule.limit:
        return None
    return window_end_ms(rule.period, state.at_ms)


def reset_at_ms(rule: Rule, state: State) -> int:
    """When an advanced state will be as fresh: full, or the window's end. Concurrency: its own
    instant."""
    if isinstance(rule, TokenBucket):
        at_ms = ready_at_ms(rule, state, rule.capacity)
        return state.at_ms if at_ms is None else at_ms
    if isinstance(rule, CalendarWindow):
        return window_end_ms(rule.period, state.at_ms)
    return state.at_ms


def is_idle(rule: Rule, state: State) -> bool:
    """Whether an advanced state may be forgotten, being no different from a fresh one."""
    return state.value == (rule.capacity if isinstance(rule, TokenBucket) else 0)


def window_start_ms(period: Period, at_ms: int) -> int:
    """Start of the calendar period that holds the instant, UTC, in Unix time: no leap seconds."""
    if period is not Period.MONTH:
        return at_ms - at_ms % NOMINAL_MS[period]
    day = datetime.fromtimestamp(at_ms // 1_000, UTC)
    return _midnight_ms(day.year, day.month)


def window_end_ms(period: Period, at_ms: int) -> int:
    """First instant after the calendar period that holds ``at_ms``."""
    if period is not Period.MONTH:
        return window_start_ms(period, at_ms) + NOMINAL_MS[period]
    return _month_end_ms(at_ms)


@lru_cache(maxsize=1_024)
def _month_end_ms(at_ms: int) -> int:
    """Mostly asked for a month's start."""
    day = datetime.fromtimestamp(at_ms // 1_000, UTC)
    return _midnight_ms(day.year + day.month // 12, day.month % 12 + 1)


def _midnight_ms(year: int, month: int) -> int:
    days = (
        datetime(year, month, 1, tzinfo=UTC).toordinal()
        - datetime(1970, 1, 1, tzinfo=UTC).toordinal()
    )
    return days * DAY_MS
