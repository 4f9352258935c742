"""Exact arithmetic of buckets: their state at an instant, taking, giving back, settling.

The level of a token bucket is the rational number ``value + carry / period_ms``, kept in whole
numbers. So nothing is rounded: many small steps of time have the same result as one. At every
instant, with ``refill`` in each ``period_ms`` and T_ms since the bucket was made or last full:

    settled + held  <=  capacity + refill * T_ms / period_ms + debt

exactly. ``debt`` is the level below zero. It arises only when a settlement exceeds its reservation:
it is at most the sum of these excesses of the requests that were in flight together, and 0 when
reservations are upper bounds. The next reservations wait until it is paid. The clock is read in
whole milliseconds, so in true time the bound is wider by one millisecond of refill.

T_ms is how far the clock went forward, step by step. When the clock is set back by at most
`BACK_MS`, nothing refills until it has caught up. When it is set back by more, refilling goes on
from its new time. So a clock that is set back by B_ms and forward again gains at most
refill * B_ms / period_ms, and a calendar window starts again at most once for each time that the
clock crosses its start.

``gateway/limits/redis/*.lua`` computes the same, and the same tests run against both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from policies.limits.types import (
    NOMINAL_MS,
    CalendarWindow,
    Concurrency,
    Period,
    Rule,
    TokenBucket,
)

BACK_MS: Final = 1_000
"""Largest step back of the clock after which a bucket waits until the clock has caught up."""


class State(NamedTuple):
    """A bucket at an instant.

    Token bucket: ``value`` is the level, ``carry`` the fraction of the next unit in 1/period_ms,
    ``at_ms`` the instant. Calendar window: the used amount, 0, the window's start. Concurrency: the
    held amount, 0, the instant at which the bucket was made.
    """

    value: int
    carry: int
    at_ms: int


def fresh(rule: Rule, now_ms: int) -> State:
    """The state of a bucket from which nothing was taken; unknown and idle buckets have it."""
    if isinstance(rule, TokenBucket):
        return State(rule.capacity, 0, now_ms)
    if isinstance(rule, CalendarWindow):
        return State(0, 0, window_start_ms(rule.period, now_ms))
    return State(0, 0, now_ms)


def advance(rule: Rule, state: State, now_ms: int) -> State:
    """The state at ``now_ms``: refilled, or rolled over to the window that contains ``now_ms``.

    A clock that was set back refills nothing. If it was set back by more than `BACK_MS`, the state
    stays and its instant becomes ``now_ms``: usage of a later window counts in the present one. The
    instant of an idle bucket is always ``now_ms``.
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
    """The state under a changed rule. A level stays, up to the new capacity; a full bucket stays
    full; the used or held amount stays.

    The bucket refills by the old rule until now, and loses a fraction of less than one unit. It
    starts fresh under a rule of another kind, and in a window of another period.
    """
    state = advance(old, state, now_ms)
    if not same_kind(old, new) or is_idle(old, state):
        return fresh(new, now_ms)
    return advance(new, State(state.value, 0, state.at_ms), now_ms)


def same_kind(one: Rule, other: Rule) -> bool:
    """Whether amounts that are held under one rule mean the same under the other."""
    if isinstance(one, CalendarWindow) and isinstance(other, CalendarWindow):
        return one.period is other.period
    return type(one) is type(other)


def available(rule: Rule, state: State) -> int:
    """The amount that can be taken from an advanced state; negative while there is debt."""
    if isinstance(rule, TokenBucket):
        return state.value
    return rule.limit - state.value


def take(rule: Rule, state: State, amount: int) -> State:
    """An advanced state after a take. The caller has checked that ``amount`` is available."""
    change = -amount if isinstance(rule, TokenBucket) else amount
    return State(state.value + change, state.carry, state.at_ms)


def settle(rule: Rule, state: State, held: int, taken_at_ms: int, charge: int) -> State:
    """An advanced state after a request that held ``held`` was charged ``charge``.

    A charge below ``held`` gives the rest back: up to the capacity of a token bucket, and to a
    calendar window only while it lasts (``taken_at_ms`` is after its start if the clock was set
    back). A charge above ``held`` takes the excess now, into debt if there is too little. The debt
    of a window ends with it. Concurrency gives ``held`` back, whatever the charge is. ``held`` is 0
    when the lease has ended.
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
    """The first instant at which ``amount`` is available if nobody takes or settles anything; it is
    not before ``state.at_ms``. None: never or, for concurrency, not before a request is settled."""
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
    """The instant at which an advanced state will be as fresh: when the bucket is full, or when its
    window ends. For concurrency: the state's own instant."""
    if isinstance(rule, TokenBucket):
        at_ms = ready_at_ms(rule, state, rule.capacity)
        return state.at_ms if at_ms is None else at_ms
    if isinstance(rule, CalendarWindow):
        return window_end_ms(rule.period, state.at_ms)
    return state.at_ms


def is_idle(rule: Rule, state: State) -> bool:
    """Whether an advanced state may be forgotten, because it equals a fresh one."""
    return state.value == (rule.capacity if isinstance(rule, TokenBucket) else 0)


def window_start_ms(period: Period, at_ms: int) -> int:
    """Start of the calendar period, UTC, that contains the instant. Unix time knows no leap
    seconds."""
    if period is not Period.MONTH:
        return at_ms - at_ms % NOMINAL_MS[period]
    day = datetime.fromtimestamp(at_ms // 1_000, UTC)
    return _midnight_ms(day.year, day.month)


def window_end_ms(period: Period, at_ms: int) -> int:
    """First instant after the calendar period, UTC, that contains ``at_ms``."""
    if period is not Period.MONTH:
        return window_start_ms(period, at_ms) + NOMINAL_MS[period]
    return _month_end_ms(at_ms)


@lru_cache(maxsize=1_024)
def _month_end_ms(at_ms: int) -> int:
    """Almost all calls are for the start of a month, so that the cache answers them."""
    day = datetime.fromtimestamp(at_ms // 1_000, UTC)
    return _midnight_ms(day.year + day.month // 12, day.month % 12 + 1)


def _midnight_ms(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1_000
