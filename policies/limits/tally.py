"""What was used of one thing, counted under every rule that it has had of late.

An operator changes a limit, a key is rotated to one with other limits, two gateways differ while a
configuration is rolled out: then one tally is asked for under several rules in turn. Each rule has
a `Count` of its own, and whatever is taken, settled or given back is so in all of them. So a count
goes by its own rule through any sequence of others, and what was used stays used.

A rule that is new to a tally begins with the most that any count that it replaces had at the last
charge, as if all of that had been used then: more is not known. What a bucket has refilled since
does not count, because the new rule refills that time itself. What all counts have forgotten (their
buckets are full again, their windows over) is forgotten.

So whatever token buckets come in turn, of any T_ms since a grant, with the largest capacity and the
fastest refill of those that granted something in that time:

    granted  <=  capacity + refill * T_ms / period_ms + debt

The reason: a count of such a rule has at least what that refill leaves of these grants, because it
forgets no faster. A new rule begins with at least as much, or empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

from policies.limits import arithmetic
from policies.limits.arithmetic import State
from policies.limits.types import DAY_MS, Concurrency, Rule, TokenBucket

MAX_COUNTS: Final = 8
"""Rules of one tally that are counted at a time."""
KEEP_MS: Final = DAY_MS
"""An idle count is dropped when others have been used for so much longer."""


class Count:
    """A tally under one rule. It is small: there is one for each bucket in use."""

    __slots__ = ("holders", "rule", "state", "taken_ms")

    def __init__(self, rule: Rule, state: State, taken_ms: int) -> None:
        self.rule = rule
        """Its limit is that of the last who asked, if the state does not depend on it."""
        self.state = state
        self.holders = 0
        """Remembered reservations that took from it. While there is one it is kept, even if it is
        idle."""
        self.taken_ms = taken_ms
        """When somebody took something under this rule last."""

    def settle(self, held: int, taken_at_ms: int, charge: int, now_ms: int) -> None:
        """See `arithmetic.settle`."""
        state = arithmetic.advance(self.rule, self.state, now_ms)
        self.state = arithmetic.settle(self.rule, state, held, taken_at_ms, charge)

    @property
    def began_ms(self) -> int:
        """See `arithmetic.began_ms`."""
        return arithmetic.began_ms(self.rule, self.state)

    @property
    def used(self) -> int:
        """See `arithmetic.used`."""
        return arithmetic.used(self.rule, self.state)


class Tally:
    """The counts of one thing, the oldest first."""

    __slots__ = ("charged_ms", "counts")

    def __init__(self, charged_ms: int) -> None:
        self.counts: list[Count] = []
        self.charged_ms = charged_ms
        """When anything was taken or charged last, under any rule."""

    def find(self, rule: Rule, now_ms: int) -> Count | None:
        """The count of the rule, advanced; None: it has none."""
        for count in self.counts:
            if count.rule is rule or arithmetic.counts_alike(count.rule, rule):
                count.rule = rule
                count.state = arithmetic.advance(rule, count.state, now_ms)
                return count
        return None

    def replaced(self, rule: Rule, present: Collection[Count], now_ms: int) -> Count | None:
        """The count with which a rule begins that has none: of those that it replaces, the one that
        had the most at the last charge. None: nothing is used. All are advanced. ``present``: the
        counts of the rules that hold together with it, which it does not replace."""
        others = (one for one in self.others(present) if _same_unit(one.rule, rule) and one.used)
        return max(others, key=lambda one: self.used_at_charge(one, now_ms), default=None)

    def begun(self, rule: Rule, replaced: Count, now_ms: int) -> State:
        """The state with which a rule begins."""
        used = self.used_at_charge(replaced, now_ms)
        state = arithmetic.begun(rule, used, min(self.charged_ms, now_ms))
        return arithmetic.advance(rule, state, now_ms)

    def used_at_charge(self, count: Count, now_ms: int) -> int:
        """What an advanced count had at the last charge; 0 if all of that is forgotten."""
        return arithmetic.used_at(count.rule, count.state, min(self.charged_ms, now_ms))

    def add(self, rule: Rule, state: State, present: Collection[Count], now_ms: int) -> Count:
        """Add a count. If there are too many, the one that was used longest ago is dropped; but not
        the one that has the most, so that a rule that comes later begins with it, nor requests in
        flight."""
        count = Count(rule, state, now_ms)
        self.counts.append(count)
        if len(self.counts) > MAX_COUNTS:
            amounts = [one for one in self.counts if not isinstance(one.rule, Concurrency)]
            most = max(amounts, key=lambda one: one.used, default=count)
            kept = (*present, count, most)
            absent = [one for one in self.others(kept) if not isinstance(one.rule, Concurrency)]
            if absent:
                self.counts.remove(min(absent, key=lambda one: one.taken_ms))
        return count

    def others(self, present: Collection[Count]) -> Iterator[Count]:
        """The counts that are not among these."""
        return (one for one in self.counts if all(one is not other for other in present))

    def charged_with(self, rules: Sequence[Rule], present: Collection[Count]) -> list[Count]:
        """The counts of other rules, which are charged when buckets of these rules are."""
        if len(self.counts) <= len(rules):
            return []
        return [one for one in self.others(present) if _same_unit(one.rule, rules[0])]

    def tidy(self, now_ms: int) -> bool:
        """Advance all counts, and drop those that nobody needs. Returns whether none is left.

        Beside counts that are not idle an idle one is kept as long as its rule may be in force: if
        it began again with what the others have, it would refuse wrongly.
        """
        for count in self.counts:
            count.state = arithmetic.advance(count.rule, count.state, now_ms)
        if len(self.counts) == 1 and self.counts[0].holders:
            return False  # as most are
        idle = [not one.holders and arithmetic.is_idle(one.rule, one.state) for one in self.counts]
        if all(idle):
            self.counts.clear()
        elif len(idle) > 1:
            old_ms = max(one.taken_ms for one in self.counts) - KEEP_MS
            self.counts = [
                one
                for one, is_idle in zip(self.counts, idle, strict=True)
                if not is_idle or one.taken_ms > old_ms
            ]
        return not self.counts


class Hold(NamedTuple):
    """An amount that a reservation took from a count."""

    tally: Tally
    counted: Count
    key: str
    """Of the bucket whose charge settles it."""
    amount: int
    began_ms: int
    """See `arithmetic.began_ms`."""


def handed_over(holds: Sequence[Hold], replaced: Count, begun: Count, left: int) -> Hold | None:
    """A reservation's hold of a count that has begun with what another had, if it holds that one:
    so its settlement gives back what it does not use. ``left``: what the new count has and no other
    reservation has been given; the hold is not for more."""
    for hold in holds:
        if hold.counted is replaced:
            alive = hold.began_ms >= replaced.began_ms or not _ends(replaced.rule)
            amount = min(hold.amount, left) if alive else 0
            return Hold(hold.tally, begun, hold.key, amount, begun.began_ms)
    return None


def _ends(rule: Rule) -> bool:
    """Whether counting starts again at some time, so that an older take is no longer part of it."""
    return not isinstance(rule, TokenBucket | Concurrency)


def _same_unit(one: Rule, other: Rule) -> bool:
    """Requests in flight are not a part of what was used, and the other way round."""
    return isinstance(one, Concurrency) == isinstance(other, Concurrency)
