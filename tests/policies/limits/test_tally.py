"""What was used stays used through any sequence of rules. The truth: all charges, with times."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from policies.limits import arithmetic
from policies.limits.tally import KEEP_MS, MAX_COUNTS, Count, Tally
from policies.limits.types import (
    CalendarWindow,
    Concurrency,
    Lifetime,
    Period,
    Rule,
    TokenBucket,
)
from tests.policies.limits.rules import RULES

NOW_MS = 1_795_000_000_123
MINUTE_MS = 60_000


@dataclass
class Used:
    """A tally that a gateway takes from, and every charge with its time."""

    tally: Tally = field(default_factory=lambda: Tally(NOW_MS))
    now_ms: int = NOW_MS
    charges: list[tuple[int, int]] = field(default_factory=list)

    def count(self, rule: Rule) -> Count:
        self.tally.tidy(self.now_ms)
        count = self.tally.find(rule, self.now_ms)
        if count is None:
            replaced, now_ms = self.tally.replaced(rule, [], self.now_ms), self.now_ms
            state = arithmetic.fresh(rule, now_ms)
            if replaced is not None:
                state = self.tally.begun(rule, replaced, now_ms)
            count = self.tally.add(rule, state, [], now_ms)
        return count

    def left(self, rule: Rule) -> int:
        return arithmetic.available(rule, self.count(rule).state)

    def ask(self, rule: Rule, amount: int) -> bool:
        """A request that is charged what it reserved; whether it is granted."""
        count = self.count(rule)
        if arithmetic.available(rule, count.state) < amount:
            return False
        for one in (count, *self.tally.charged_with([rule], [count])):
            state = arithmetic.advance(one.rule, one.state, self.now_ms)
            one.state = arithmetic.take(one.rule, state, amount)
        count.taken_ms = self.tally.charged_ms = self.now_ms
        self.charges.append((self.now_ms, amount))
        return True


def level(rule: TokenBucket, charges: list[tuple[int, int]], now_ms: int) -> Fraction:
    """Of a bucket from which all of this was taken."""
    value, at_ms = Fraction(rule.capacity), NOW_MS
    for charged_ms, amount in (*charges, (now_ms, 0)):
        gained = Fraction((charged_ms - at_ms) * rule.refill, rule.period_ms)
        value, at_ms = min(Fraction(rule.capacity), value + gained) - amount, charged_ms
    return value


TOKENS = [
    TokenBucket(100, 100, 60 * MINUTE_MS),
    TokenBucket(20, 100, 60 * MINUTE_MS),
    TokenBucket(10, 10, 60 * MINUTE_MS),
    TokenBucket(50, 7, MINUTE_MS),
    TokenBucket(5, 5, 1_000),
]
WINDOWS = [
    CalendarWindow(100, Period.MONTH),
    CalendarWindow(30, Period.MONTH),
    CalendarWindow(40, Period.DAY),
    CalendarWindow(40, Period.DAY, "America/New_York"),
    CalendarWindow(10, Period.HOUR),
]
STEPS_MS = st.sampled_from([0, 0, 1, 700, 61_000, 20 * MINUTE_MS, 90 * MINUTE_MS])


def histories(rules: list[Rule]) -> st.SearchStrategy[list[tuple[int, Rule, int]]]:
    return st.lists(st.tuples(STEPS_MS, st.sampled_from(rules), st.integers(0, 60)), max_size=60)


HOUR = 60 * MINUTE_MS
HUNDRED, BURST = TOKENS[0], TOKENS[3]
SMALLER = [TokenBucket(11 + i, 7, HOUR) for i in range(MAX_COUNTS + 2)]


def check_bound(history: list[tuple[int, TokenBucket, int]], *, whole: bool = False) -> None:
    """The bound of the module under test. ``whole``: with all rules of the history."""
    used = Used()
    granted: list[TokenBucket] = []
    for step_ms, rule, amount in history:
        used.now_ms += step_ms
        if used.ask(rule, amount):
            granted.append(rule)
        capacity, rate, total = 0, Fraction(0), 0
        if whole:
            capacity = max(one.capacity for _, one, _ in history)
            rate = max(Fraction(one.refill, one.period_ms) for _, one, _ in history)
        for one, (since_ms, charge) in zip(reversed(granted), reversed(used.charges), strict=True):
            capacity = max(capacity, one.capacity)
            rate = max(rate, Fraction(one.refill, one.period_ms))
            total += charge
            assert total <= capacity + rate * (used.now_ms - since_ms)


@example([(0, BURST, 8), (61_000, HUNDRED, 40), (0, HUNDRED, 60)])
@example([(0, BURST, 50), (20 * MINUTE_MS, HUNDRED, 60), (1, BURST, 50), (0, HUNDRED, 10)])
@example([(0, HUNDRED, 60), (700, TOKENS[4], 5), (61_000, BURST, 50), (0, TOKENS[1], 20)])
@given(histories([*TOKENS]))
def test_any_sequence_of_token_buckets_grants_no_more_than_the_largest(
    history: list[tuple[int, TokenBucket, int]],
) -> None:
    """The largest has the largest burst and the largest refill of the rules that granted
    something in the same time."""
    check_bound(history)


@example([(0, HUNDRED, 90), *((1, one, 0) for one in SMALLER), (0, HUNDRED, 60)])
@given(histories([*TOKENS, *SMALLER]))
def test_it_does_so_with_more_rules_than_are_counted(
    history: list[tuple[int, TokenBucket, int]],
) -> None:
    check_bound(history, whole=True)


@given(histories([*TOKENS]), st.sampled_from(TOKENS))
def test_a_rule_that_was_there_from_the_start_is_exact_whatever_came_between(
    history: list[tuple[int, TokenBucket, int]], first: TokenBucket
) -> None:
    used = Used()
    for step_ms, rule, amount in history:
        used.now_ms += step_ms
        used.ask(first, 1)
        used.ask(rule, amount)
        count = used.count(first)
        exact = level(first, used.charges, used.now_ms)
        assert count.state.value + Fraction(count.state.carry, first.period_ms) == exact


@given(histories([*WINDOWS]))
def test_a_window_that_is_known_counts_every_charge_in_it(
    history: list[tuple[int, CalendarWindow, int]],
) -> None:
    used = Used()
    for rule in WINDOWS:
        used.ask(rule, 1)
    for step_ms, rule, amount in history:
        used.now_ms += step_ms
        used.ask(rule, amount)
        for one in WINDOWS:
            start_ms = arithmetic.window_start_ms(one.period, used.now_ms, one.zone)
            inside = sum(amount for at_ms, amount in used.charges if at_ms >= start_ms)
            assert one.limit - used.left(one) == inside


@given(histories([*TOKENS, *WINDOWS, Lifetime(50, 3_600_000)]), RULES, STEPS_MS)
def test_a_new_rule_begins_with_the_most_that_any_other_had_at_the_last_charge(
    history: list[tuple[int, Rule, int]], new: Rule, step_ms: int
) -> None:
    used = Used()
    for before_ms, rule, amount in history:
        used.now_ms += before_ms
        used.ask(rule, amount)
    used.ask(BURST, 1)
    charged_ms = used.tally.charged_ms = used.now_ms
    used.tally.tidy(used.now_ms)
    had = {id(one): one.used for one in used.tally.counts}
    used.now_ms += step_ms
    used.tally.tidy(used.now_ms)
    if isinstance(new, Concurrency) or used.tally.find(new, used.now_ms) is not None:
        return
    known = max((had[id(one)] for one in used.tally.counts if one.used), default=0)
    state = arithmetic.begun(new, known, charged_ms)
    if known == 0:
        state = arithmetic.fresh(new, charged_ms)
    expected = arithmetic.advance(new, state, used.now_ms)
    assert used.left(new) == arithmetic.available(new, expected)


@given(st.sampled_from(TOKENS), st.integers(1, 60), STEPS_MS, st.sampled_from(TOKENS))
def test_after_one_charge_a_new_rule_is_as_if_it_had_always_been_there(
    old: TokenBucket, amount: int, step_ms: int, new: TokenBucket
) -> None:
    used = Used()
    amount = min(amount, old.capacity)
    assert used.ask(old, amount)
    used.now_ms += step_ms
    if used.left(old) < old.capacity:
        empty_at_worst = [(NOW_MS, min(amount, new.capacity))]
        assert used.left(new) == level(new, empty_at_worst, used.now_ms) // 1
    else:
        assert used.left(new) == new.capacity, "all of it is forgotten"


def test_a_lowered_limit_that_is_raised_again_has_what_it_had() -> None:
    used, hour = Used(), 60 * MINUTE_MS
    assert used.ask(TokenBucket(1_000, 1_000, hour), 800)
    assert used.left(TokenBucket(100, 100, hour)) == 0
    assert not used.ask(TokenBucket(100, 100, hour), 1)
    assert used.left(TokenBucket(1_000, 1_000, hour)) == 200
    assert used.left(TokenBucket(2_000, 2_000, hour)) == 1_200
    used.now_ms += hour // 2
    assert used.left(TokenBucket(100, 100, hour)) == 50, "it fills by its own rule"
    assert used.left(TokenBucket(1_000, 1_000, hour)) == 700


def test_a_smaller_period_and_back_and_another_kind_and_back() -> None:
    used = Used()
    assert used.ask(CalendarWindow(100, Period.DAY), 80)
    assert used.left(CalendarWindow(50, Period.HOUR)) == -30
    assert used.left(TokenBucket(100, 100, 60 * MINUTE_MS)) == 20
    assert used.ask(TokenBucket(100, 100, 60 * MINUTE_MS), 15)
    assert used.left(CalendarWindow(100, Period.DAY)) == 5
    assert used.left(CalendarWindow(100, Period.DAY, "Asia/Tokyo")) == 5
    assert used.left(Lifetime(100, 60_000)) == 5


def test_a_new_rule_knows_when_the_last_charge_was() -> None:
    used = Used()
    assert used.ask(CalendarWindow(10_000, Period.MONTH), 9_000)
    assert used.left(TokenBucket(100, 100, MINUTE_MS)) == 0
    used = Used()
    assert used.ask(CalendarWindow(10_000, Period.MONTH), 9_000)
    used.now_ms += 30_000
    assert used.left(TokenBucket(100, 100, MINUTE_MS)) == 50
    used.now_ms += 86_400_000
    assert used.left(CalendarWindow(100, Period.DAY)) == 100


def test_what_was_used_is_not_forgotten_over_many_smaller_rules() -> None:
    used = Used()
    assert used.ask(TokenBucket(1_000, 1_000, HOUR), 800)
    for limit in range(3 * MAX_COUNTS):
        used.now_ms += 1
        assert used.left(TokenBucket(100 + limit, 1, HOUR)) == 0
    assert used.left(TokenBucket(2_000, 1, HOUR)) == 1_200
    assert len(used.tally.counts) == MAX_COUNTS


def test_requests_in_flight_are_not_dropped_for_other_rules() -> None:
    used = Used()
    assert used.ask(Concurrency(5), 2)
    for number in range(3 * MAX_COUNTS):
        used.now_ms += 1
        used.ask(TokenBucket(10 + number, 1, HOUR), 1)
    assert used.left(Concurrency(5)) == 3


def test_counts_are_bounded_and_the_rule_in_force_is_kept() -> None:
    used = Used()
    used.ask(TokenBucket(10**6, 1, 60 * MINUTE_MS), 900)
    for number in range(50):
        used.now_ms += 1
        used.ask(TokenBucket(10**6 + number, 1, 60 * MINUTE_MS), 1)
        assert len(used.tally.counts) <= MAX_COUNTS
    assert used.left(TokenBucket(10**6, 1, 60 * MINUTE_MS)) == 10**6 - 950


def test_counts_that_nobody_needs_are_dropped() -> None:
    used = Used()
    used.ask(TokenBucket(5, 5, 1_000), 1)
    used.ask(CalendarWindow(50, Period.MONTH), 1)
    used.now_ms += 2_000
    assert not used.tally.tidy(used.now_ms)
    assert len(used.tally.counts) == 2, "gateways may take turns"
    used.now_ms += KEEP_MS
    assert not used.tally.tidy(used.now_ms)
    assert len(used.tally.counts) == 2, "either may be in force"
    used.ask(CalendarWindow(50, Period.MONTH), 1)
    used.now_ms += 2_000
    assert not used.tally.tidy(used.now_ms)
    assert len(used.tally.counts) == 1
    used.now_ms += 40 * KEEP_MS
    assert used.tally.tidy(used.now_ms)
