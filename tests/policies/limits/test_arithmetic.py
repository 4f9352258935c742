"""The arithmetic is exact: no rounding, no drift, no token over the bound."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.limits import arithmetic
from policies.limits.arithmetic import State
from policies.limits.types import (
    MAX_LIMIT,
    CalendarWindow,
    Concurrency,
    Lifetime,
    Period,
    Rule,
    TokenBucket,
)
from tests.policies.limits.rules import AMOUNTS, RULES, TOKEN_BUCKETS, ZONES

NOW_MS = int(datetime(2026, 11, 21, 4, 5, 6, 789_000, UTC).timestamp() * 1000)

STEPS_MS = st.integers(0, 3_000) | st.integers(0, 10**11)


def level(rule: TokenBucket, state: State) -> Fraction:
    return state.value + Fraction(state.carry, rule.period_ms)


@given(TOKEN_BUCKETS, st.integers(-MAX_LIMIT, MAX_LIMIT), st.lists(STEPS_MS, max_size=8))
def test_many_small_steps_are_one_large_step(
    rule: TokenBucket, value: int, steps: list[int]
) -> None:
    start = state = arithmetic.advance(rule, State(value, 0, NOW_MS), NOW_MS)
    now_ms = NOW_MS
    for step in steps:
        now_ms += step
        state = arithmetic.advance(rule, state, now_ms)
    assert state == arithmetic.advance(rule, start, now_ms)
    exact = level(rule, start) + Fraction((now_ms - NOW_MS) * rule.refill, rule.period_ms)
    assert level(rule, state) == min(Fraction(rule.capacity), exact)


@given(
    TOKEN_BUCKETS,
    st.lists(
        st.tuples(STEPS_MS, st.integers(0, MAX_LIMIT), st.integers(0, MAX_LIMIT), st.booleans()),
        max_size=20,
    ),
)
def test_never_a_token_over_the_bound(
    rule: TokenBucket, requests: list[tuple[int, int, int, bool]]
) -> None:
    """At every instant: settled + held <= capacity + refill over the time passed + debt, and debt
    is no more than what those in flight together were charged over what they held."""
    state, now_ms = arithmetic.fresh(rule, NOW_MS), NOW_MS
    settled, excess = 0, 0
    in_flight: list[tuple[int, int, int]] = []
    for step, wanted, charge, finish in requests:
        now_ms += step
        state = arithmetic.advance(rule, state, now_ms)
        amount = wanted % (rule.capacity + 1)
        if arithmetic.available(rule, state) >= amount:
            state = arithmetic.take(rule, state, amount)
            in_flight.append((amount, state.at_ms, charge))
            excess = 0
        if finish and in_flight:
            held, taken_ms, charge = in_flight.pop(0)
            state = arithmetic.settle(rule, state, held, taken_ms, charge)
            settled += charge
            excess += max(0, charge - held)
        refilled = Fraction((now_ms - NOW_MS) * rule.refill, rule.period_ms)
        debt = max(Fraction(0), -level(rule, state))
        held_now = sum(held for held, _, _ in in_flight)
        assert settled + held_now <= rule.capacity + refilled + debt
        assert debt <= excess


@given(RULES, AMOUNTS, AMOUNTS, STEPS_MS)
def test_ready_is_the_first_instant(rule: Rule, taken: int, amount: int, step_ms: int) -> None:
    state = arithmetic.take(rule, arithmetic.fresh(rule, NOW_MS), taken)
    now_ms = NOW_MS + step_ms
    state = arithmetic.advance(rule, state, now_ms)
    at_ms = arithmetic.ready_at_ms(rule, state, amount)

    def has(instant_ms: int) -> bool:
        then = arithmetic.advance(rule, state, instant_ms)
        return arithmetic.available(rule, then) >= amount

    if at_ms is None:
        whole = rule.capacity if isinstance(rule, TokenBucket) else rule.limit
        assert not has(now_ms)
        assert isinstance(rule, Concurrency) or amount > whole
        return
    assert has(at_ms)
    assert at_ms <= now_ms or not has(at_ms - 1)


@given(TOKEN_BUCKETS, st.integers(0, MAX_LIMIT), AMOUNTS, STEPS_MS)
def test_giving_back_late_is_giving_back_in_time(
    rule: TokenBucket, value: int, held: int, step_ms: int
) -> None:
    """So leases may be looked at when somebody comes, not when they end."""
    state = arithmetic.advance(rule, State(value, 0, NOW_MS), NOW_MS)
    later_ms = NOW_MS + step_ms
    in_time = arithmetic.settle(rule, state, held, NOW_MS, 0)
    late = arithmetic.settle(rule, arithmetic.advance(rule, state, later_ms), held, NOW_MS, 0)
    assert arithmetic.advance(rule, in_time, later_ms) == late


@given(st.sampled_from(Period), st.integers(0, 10**13), ZONES)
def test_windows_tile_time(period: Period, at_ms: int, zone: str) -> None:
    start_ms = arithmetic.window_start_ms(period, at_ms, zone)
    end_ms = arithmetic.window_end_ms(period, at_ms, zone)
    assert start_ms <= at_ms < end_ms
    if zone == "Australia/Lord_Howe":  # its clocks change by half an hour, and so do its hours
        return
    assert arithmetic.window_start_ms(period, end_ms, zone) == end_ms
    assert arithmetic.window_end_ms(period, start_ms, zone) == end_ms
    assert arithmetic.window_start_ms(period, end_ms - 1, zone) == start_ms


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        (Period.MONTH, "2026-11-01T00:00:00", "2026-12-01T00:00:00"),
        (Period.WEEK, "2026-11-16T00:00:00", "2026-11-23T00:00:00"),
        (Period.DAY, "2026-11-21T00:00:00", "2026-11-22T00:00:00"),
        (Period.HOUR, "2026-11-21T04:00:00", "2026-11-21T05:00:00"),
        (Period.MINUTE, "2026-11-21T04:05:00", "2026-11-21T04:06:00"),
        (Period.SECOND, "2026-11-21T04:05:06", "2026-11-21T04:05:07"),
    ],
)
def test_windows_are_utc(period: Period, start: str, end: str) -> None:
    def text(at_ms: int) -> str:
        return datetime.fromtimestamp(at_ms / 1000, UTC).replace(tzinfo=None).isoformat()

    assert text(arithmetic.window_start_ms(period, NOW_MS)) == start
    assert text(arithmetic.window_end_ms(period, NOW_MS)) == end


@pytest.mark.parametrize(
    ("zone", "period", "at", "start", "hours"),
    [
        ("Europe/Berlin", Period.DAY, "2026-03-29T12:00", "2026-03-28T23:00", 23),
        ("Europe/Berlin", Period.DAY, "2026-10-25T12:00", "2026-10-24T22:00", 25),
        ("Europe/Berlin", Period.WEEK, "2026-10-25T12:00", "2026-10-18T22:00", 7 * 24 + 1),
        ("Europe/Berlin", Period.MONTH, "2026-03-30T12:00", "2026-02-28T23:00", 31 * 24 - 1),
        ("America/Havana", Period.DAY, "2026-03-08T12:00", "2026-03-08T05:00", 23),  # no midnight
        ("America/Havana", Period.DAY, "2026-11-01T12:00", "2026-11-01T04:00", 25),  # two
        ("Asia/Kolkata", Period.DAY, "2026-11-21T18:29", "2026-11-20T18:30", 24),
        ("Asia/Kolkata", Period.HOUR, "2026-11-21T18:29", "2026-11-21T17:30", 1),
        ("Pacific/Apia", Period.DAY, "2011-12-30T12:00", "2011-12-30T10:00", 24),  # a day left out
        ("America/New_York", Period.HOUR, "2026-11-01T06:30", "2026-11-01T06:00", 1),
    ],
)
def test_windows_of_a_time_zone(zone: str, period: Period, at: str, start: str, hours: int) -> None:
    at_ms, start_ms = (int(datetime.fromisoformat(f"{t}Z").timestamp() * 1000) for t in (at, start))
    assert arithmetic.window_start_ms(period, at_ms, zone) == start_ms
    assert arithmetic.window_end_ms(period, at_ms, zone) == start_ms + hours * 3_600_000


def test_a_lifetime_counts_until_nobody_asks() -> None:
    rule = Lifetime(10, 60_000)
    state = arithmetic.take(rule, arithmetic.fresh(rule, NOW_MS), 10)
    for second in range(0, 300, 50):
        state = arithmetic.advance(rule, state, NOW_MS + second * 1_000)
        assert arithmetic.available(rule, state) == 0
        state = arithmetic.asked(rule, state, NOW_MS + second * 1_000)
        assert arithmetic.ready_at_ms(rule, state, 1) == NOW_MS + second * 1_000 + 60_000
    over = arithmetic.advance(rule, state, NOW_MS + 310_000)
    assert arithmetic.available(rule, over) == 10
    assert arithmetic.settle(rule, over, 10, state.carry, 4).value == 0, "of another life"
    assert arithmetic.settle(rule, over, 1, state.carry, 4).value == 3
    assert arithmetic.ready_at_ms(rule, state, 11) is None


def test_a_window_takes_back_only_while_it_lasts_but_always_charges() -> None:
    rule = CalendarWindow(100, Period.MINUTE)
    taken = arithmetic.take(rule, arithmetic.fresh(rule, NOW_MS), 40)
    same = arithmetic.settle(rule, taken, 40, taken.at_ms, 15)
    assert arithmetic.available(rule, same) == 85
    next_ = arithmetic.advance(rule, taken, NOW_MS + 60_000)
    assert arithmetic.available(rule, arithmetic.settle(rule, next_, 40, taken.at_ms, 15)) == 100
    assert arithmetic.available(rule, arithmetic.settle(rule, next_, 40, taken.at_ms, 55)) == 85
    used = arithmetic.take(rule, next_, 30)
    assert arithmetic.available(rule, arithmetic.settle(rule, used, 40, taken.at_ms, 15)) == 70


def test_a_clock_set_back_a_little_refills_nothing_twice() -> None:
    rule = TokenBucket(10, 1, 1_000)
    state = arithmetic.take(rule, arithmetic.fresh(rule, NOW_MS), 10)
    back = arithmetic.advance(rule, state, NOW_MS - 1_000)
    assert arithmetic.advance(rule, back, NOW_MS + 3_000).value == 3
    window = CalendarWindow(10, Period.SECOND)
    used = arithmetic.take(window, arithmetic.fresh(window, NOW_MS), 10)
    assert arithmetic.advance(window, used, used.at_ms - 1_000) == used


def test_a_clock_set_back_by_an_hour_stops_nothing() -> None:
    rule = TokenBucket(10, 1, 1_000)
    state = arithmetic.take(rule, arithmetic.fresh(rule, NOW_MS), 10)
    back_ms = NOW_MS - 3_600_000
    back = arithmetic.advance(rule, state, back_ms)
    assert back == State(0, 0, back_ms)
    assert arithmetic.advance(rule, back, back_ms + 3_000).value == 3
    window = CalendarWindow(10, Period.HOUR)
    used = arithmetic.take(window, arithmetic.fresh(window, NOW_MS), 7)
    now = arithmetic.advance(window, used, back_ms)
    assert now == State(7, 0, used.at_ms - 3_600_000)
    assert arithmetic.settle(window, now, 7, used.at_ms, 2).value == 2, "it is in there"


@given(
    TOKEN_BUCKETS,
    st.lists(st.tuples(st.integers(-(10**8), 10**8) | st.integers(-3_000, 3_000), AMOUNTS)),
)
def test_the_bound_counts_how_far_the_clock_went_forward(
    rule: TokenBucket, requests: list[tuple[int, int]]
) -> None:
    state, now_ms = arithmetic.fresh(rule, NOW_MS), NOW_MS
    forward_ms = taken = 0
    for step, wanted in requests:
        now_ms += step
        forward_ms += max(0, step)
        state = arithmetic.advance(rule, state, now_ms)
        assert state.at_ms - now_ms <= arithmetic.BACK_MS, "nothing waits for longer"
        amount = wanted % (rule.capacity + 1)
        if arithmetic.available(rule, state) >= amount:
            state = arithmetic.take(rule, state, amount)
            taken += amount
        assert taken <= rule.capacity + Fraction(forward_ms * rule.refill, rule.period_ms)
