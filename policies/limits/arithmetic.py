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

from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from policies.limits.types import (
    DAY_MS,
    MAX_LIMIT,
    NOMINAL_MS,
    UTC,
    CalendarWindow,
    Concurrency,
    Lifetime,
    Period,
    Rule,
    TokenBucket,
)

BACK_MS: Final = 1_000
"""Largest step back of the clock after which a bucket waits until the clock has caught up."""


class State(NamedTuple):
    """A bucket at an instant.

    Token bucket: ``value`` is the level, ``carry`` the fraction of the next unit in 1/period_ms,
    ``at_ms`` the instant. Calendar window: the used amount, 0, the window's start. Lifetime: the
    used amount, the instant at which counting started, the instant at which somebody asked last.
    Concurrency: the held amount, 0, the instant at which the bucket was made.
    """

    value: int
    carry: int
    at_ms: int


def fresh(rule: Rule, now_ms: int) -> State:
    """The state of a bucket from which nothing was taken; unknown and idle buckets have it."""
    if isinstance(rule, TokenBucket):
        return State(rule.capacity, 0, now_ms)
    if isinstance(rule, CalendarWindow):
        return State(0, 0, window_start_ms(rule.period, now_ms, rule.zone))
    if isinstance(rule, Lifetime):
        return State(0, now_ms, now_ms)
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
        if now_ms >= window_end_ms(rule.period, state.at_ms, rule.zone):
            return fresh(rule, now_ms)
        if state.at_ms > now_ms and (state.value == 0 or state.at_ms - now_ms > BACK_MS):
            return State(state.value, 0, window_start_ms(rule.period, now_ms, rule.zone))
    if isinstance(rule, Lifetime):
        if state.value == 0 or now_ms - state.at_ms >= rule.idle_ms:
            return fresh(rule, now_ms)
        if state.at_ms - now_ms > BACK_MS:
            return State(state.value, min(state.carry, now_ms), now_ms)
    return state


def counts_alike(one: Rule, other: Rule) -> bool:
    """Whether one state holds for both rules: they differ at most in a limit that the state does
    not depend on."""
    if isinstance(one, CalendarWindow) and isinstance(other, CalendarWindow):
        return one.period is other.period and one.zone == other.zone
    if isinstance(one, Lifetime) and isinstance(other, Lifetime):
        return one.idle_ms == other.idle_ms
    if isinstance(one, Concurrency):
        return isinstance(other, Concurrency)
    return one == other


def used(rule: Rule, state: State) -> int:
    """The amount of an advanced state that is taken and not yet back; at least 0."""
    if isinstance(rule, TokenBucket):
        return max(0, rule.capacity - state.value)
    return state.value


def used_at(rule: Rule, state: State, at_ms: int) -> int:
    """What was used at an earlier instant if nobody has taken or settled anything since: what a
    token bucket has refilled is counted again, rounded up. What a full bucket had refilled is not
    known: 0. At most `MAX_LIMIT` if anything was refilled, which exhausts every rule."""
    now = used(rule, state)
    if now == 0 or at_ms >= state.at_ms or not isinstance(rule, TokenBucket):
        return now
    refilled = -((state.carry - (state.at_ms - at_ms) * rule.refill) // rule.period_ms)
    return max(now, min(now + refilled, MAX_LIMIT))


def begun(rule: Rule, used: int, now_ms: int) -> State:
    """The state under a rule that is new, of a bucket from which ``used`` was taken before. A token
    bucket is empty at worst, so that nobody waits longer than its time from empty to full."""
    state = fresh(rule, now_ms)
    if isinstance(rule, TokenBucket):
        return State(rule.capacity - min(used, rule.capacity), 0, now_ms)
    return State(used, state.carry, state.at_ms)


def asked(rule: Rule, state: State, now_ms: int) -> State:
    """An advanced state after somebody has asked, whatever the answer was."""
    if isinstance(rule, Lifetime):
        return State(state.value, state.carry, max(now_ms, state.at_ms))
    return state


def began_ms(rule: Rule, state: State) -> int:
    """When the counting began of which a take is a part: of a window its start. The take is given
    back only as long as that goes on."""
    return state.carry if isinstance(rule, Lifetime) else state.at_ms


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
    back), and likewise to a lifetime. A charge above ``held`` takes the excess now, into debt if
    there is too little. The debt of a window ends with it. Concurrency gives ``held`` back,
    whatever the charge is. ``held`` is 0 when the lease has ended.
    """
    if isinstance(rule, TokenBucket):
        value = state.value + held - charge
        if value >= rule.capacity:
            return State(rule.capacity, 0, state.at_ms)
        return State(value, state.carry, state.at_ms)
    if isinstance(rule, Concurrency):
        return State(max(0, state.value - held), 0, state.at_ms)
    change = charge - held
    if taken_at_ms < began_ms(rule, state):
        change = max(0, change)
    return State(max(0, state.value + change), state.carry, state.at_ms)


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
    if isinstance(rule, Lifetime):
        return state.at_ms + rule.idle_ms
    return window_end_ms(rule.period, state.at_ms, rule.zone)


def reset_at_ms(rule: Rule, state: State) -> int:
    """The instant at which an advanced state will be as fresh: when the bucket is full, or when its
    window ends, or when nobody has asked for long enough. For concurrency: the state's own
    instant."""
    if isinstance(rule, TokenBucket):
        at_ms = ready_at_ms(rule, state, rule.capacity)
        return state.at_ms if at_ms is None else at_ms
    if isinstance(rule, CalendarWindow):
        return window_end_ms(rule.period, state.at_ms, rule.zone)
    if isinstance(rule, Lifetime):
        return state.at_ms + (rule.idle_ms if state.value else 0)
    return state.at_ms


def is_idle(rule: Rule, state: State) -> bool:
    """Whether an advanced state may be forgotten, because it equals a fresh one."""
    return state.value == (rule.capacity if isinstance(rule, TokenBucket) else 0)


_MONDAY_MS: Final = 4 * DAY_MS
"""The first Monday of Unix time."""


def window_start_ms(period: Period, at_ms: int, zone: str = UTC) -> int:
    """Start of the calendar period that contains the instant. Unix time knows no leap seconds."""
    if zone == UTC:
        if period is Period.WEEK:
            return at_ms - (at_ms - _MONDAY_MS) % NOMINAL_MS[period]
        if period is not Period.MONTH:
            return at_ms - at_ms % NOMINAL_MS[period]
    elif period in _CLOCK_PERIODS:
        offset_ms = _offset_ms(zone, at_ms)
        return at_ms - (at_ms + offset_ms) % NOMINAL_MS[period]
    return _midnight_ms(_first_day(period, _local(zone, at_ms).date()), zone)


def window_end_ms(period: Period, at_ms: int, zone: str = UTC) -> int:
    """First instant after the calendar period that contains ``at_ms``."""
    if period in _CLOCK_PERIODS or (zone == UTC and period is not Period.MONTH):
        return window_start_ms(period, at_ms, zone) + NOMINAL_MS[period]
    return _end_ms(period, at_ms, zone)


_CLOCK_PERIODS: Final = frozenset({Period.SECOND, Period.MINUTE, Period.HOUR})
"""Periods of the clock; the others are of the calendar, where a day has 23 to 25 hours."""


@lru_cache(maxsize=1_024)
def _end_ms(period: Period, at_ms: int, zone: str) -> int:
    """Almost all calls are for the start of a window, so that the cache answers them."""
    first = _first_day(period, _local(zone, at_ms).date())
    days = {Period.DAY: 1, Period.WEEK: 7, Period.MONTH: 32}[period]
    return _midnight_ms(_first_day(period, first + timedelta(days)), zone)


def _first_day(period: Period, day: date) -> date:
    if period is Period.MONTH:
        return day.replace(day=1)
    return day - timedelta(day.weekday()) if period is Period.WEEK else day


def _local(zone: str, at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1_000, ZoneInfo(zone))


def _offset_ms(zone: str, at_ms: int) -> int:
    return (_local(zone, at_ms).utcoffset() or timedelta()) // timedelta(milliseconds=1)


def _midnight_ms(day: date, zone: str) -> int:
    """The day's first instant. Where a clock is set forward at midnight, that is the change."""
    at = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    return int(at.timestamp()) * 1_000
