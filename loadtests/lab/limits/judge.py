"""Judges a history: pure, and without knowledge of how the gateway works.

A client knows of a request when it was sent and when its answer began; the gateway decided in
between. What a limit had left at an instant is therefore known between two bounds, and only what is
wrong under both is called wrong. With b the burst and r the refill per second, a bucket holds at t
the least over all s <= t of b + r (t - s) - (net use between s and t), as in Lindley's recursion
for a queue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtests.lab.limits.history import History, Seen, Tokens
from loadtests.lab.limits.rules import Rule

_NOTHING: Final = Tokens(0, 0)
_UNIT: Final = 1.0
"""Amounts are whole: less than one does not matter."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slack:
    """What is not held against a gateway."""

    settle_s: float = 1.0
    """After the end of an answer, until what it did not use is back."""
    lease_s: float = 60.0
    """The same for a request that broke off, whose picker may be dead."""
    retry_s: float = 0.5
    """By which Retry-After may be off, beside its rounding up to a second."""
    tokens: float = 0.0
    """Over a limit, in all: where prompts are estimated, by how much they may be wrong."""
    exact_prompts: bool = True
    """The gateway can know how long a prompt is; else it may take it for a shorter one."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A request that was answered wrongly."""

    id: str
    what: str


@dataclass(slots=True)
class Verdict:
    """What came of it."""

    requests: int
    admitted: int
    refused: int
    failed: int
    """No answer, or a status of 5xx."""
    overshoot: dict[str, float] = field(default_factory=dict)
    """By limit: the most that was granted beyond it."""
    lost_tokens: int = 0
    """Generated, but not shown to the client, or not charged."""
    doubled_tokens: int = 0
    """Shown or charged, but never generated."""
    unjustified: list[Fault] = field(default_factory=list)
    """Answers of 429 though every limit had room."""
    untrue: list[Fault] = field(default_factory=list)
    """Retry-After that is too early, too late, missing, or senseless."""

    @property
    def ok(self) -> bool:
        """The limits hold."""
        tokens = self.lost_tokens or self.doubled_tokens
        return not (any(self.overshoot.values()) or tokens or self.unjustified or self.untrue)


def judge(history: History, rules: Sequence[Rule], slack: Slack) -> Verdict:
    """The verdict on a run whose requests all count against all ``rules``."""
    seen = history.seen
    verdict = Verdict(
        requests=len(seen),
        admitted=sum(one.admitted for one in seen),
        refused=sum(one.refused for one in seen),
        failed=sum(one.status == 0 or one.status >= 500 for one in seen),
    )
    _tokens(history, verdict)
    used = _Used.of(history)
    views = [_View(rule, used, slack, history) for rule in rules]
    for view in views:
        verdict.overshoot[str(view.rule)] = view.overshoot()
    for one in seen:
        if one.refused and rules:
            _refusal(one, views, slack, verdict)
    return verdict


def _tokens(history: History, verdict: Verdict) -> None:
    least = most = 0
    for one in history.seen:
        low, high = _bounds(one, history.generated.get(one.id))
        least += low.input + low.output
        most += high.input + high.output
        made = history.generated.get(one.id)
        told = [one.shown_tokens, one.usage.output if one.usage is not None else None]
        for output in (each for each in told if each is not None):
            if made is not None and one.whole:
                verdict.lost_tokens += max(0, made.output - output)
            limit = made or one.usage
            if limit is not None:
                verdict.doubled_tokens += max(0, output - limit.output)
    if history.charged is not None:
        verdict.lost_tokens += max(0, least - history.charged)
        verdict.doubled_tokens += max(0, history.charged - most)


def _bounds(one: Seen, generated: Tokens | None) -> tuple[Tokens, Tokens]:
    """What the request may count as: at least, at most."""
    if one.whole and one.admitted:
        exact = generated or one.usage or Tokens(one.reserved.input, one.shown_tokens or 0)
        return exact, exact
    if not one.uncertain:
        return _NOTHING, _NOTHING
    most = one.reserved
    if generated is not None:
        most = Tokens(max(generated.input, most.input), generated.output)
    if not one.admitted:
        return _NOTHING, most
    given = one.usage.input if one.usage is not None else 0
    return Tokens(given, one.shown_tokens or 0), most


@dataclass(frozen=True, slots=True)
class _Used:
    """The requests that may have taken something, in columns."""

    sent_s: Numbers
    head_s: Numbers
    end_s: Numbers
    sure: npt.NDArray[np.bool_]
    """Admitted for certain."""
    whole: npt.NDArray[np.bool_]
    reserved: tuple[Tokens, ...]
    least: tuple[Tokens, ...]
    most: tuple[Tokens, ...]

    @classmethod
    def of(cls, history: History) -> _Used:
        """Those of the history that were not refused."""
        taking = [one for one in history.seen if one.admitted or one.uncertain]
        bounds = [_bounds(one, history.generated.get(one.id)) for one in taking]
        return cls(
            sent_s=np.array([one.sent_s for one in taking], np.float64),
            head_s=np.array([one.head_s for one in taking], np.float64),
            end_s=np.array([one.end_s for one in taking], np.float64),
            sure=np.array([one.admitted for one in taking], np.bool_),
            whole=np.array([one.whole for one in taking], np.bool_),
            reserved=tuple(one.reserved for one in taking),
            least=tuple(low for low, _ in bounds),
            most=tuple(high for _, high in bounds),
        )


class _View:
    """A history as one limit counts it."""

    def __init__(self, rule: Rule, used: _Used, slack: Slack, history: History) -> None:
        self.rule = rule
        self._used = used
        self._slack = slack
        self._began_s = history.began_s
        full = rule.limit if rule.calendar else rule.burst
        self._first = full if history.rested else min(full, history.left_at_first(rule.count))
        """Left at the start, at least."""
        self._reserved = _counted(rule, used.reserved)
        self._least = np.where(used.sure, _counted(rule, used.least), 0.0)
        self._most = np.maximum(_counted(rule, used.most), self._least)
        self._reserved = np.maximum(self._reserved, self._most)
        self._back_s = used.end_s + np.where(used.whole, slack.settle_s, slack.lease_s)
        """When the gateway must have given back what was not used."""

    def overshoot(self) -> float:
        """The most that was surely granted beyond the limit between two instants."""
        worst = self._windows() if self.rule.calendar else self._spans()
        return max(0.0, worst - self._slack.tokens) if worst >= _UNIT else 0.0

    def _windows(self) -> float:
        period_s, used = self.rule.period_s, self._used
        first, last = used.sent_s // period_s, used.head_s // period_s
        surely = first == last
        sums = [self._least[surely & (first == window)].sum() for window in np.unique(first)]
        return max((float(total) for total in sums), default=0.0) - self.rule.limit

    def _spans(self) -> float:
        used, worst = self._used, 0.0
        order = np.argsort(used.head_s, kind="stable")
        heads, sents, least = used.head_s[order], used.sent_s[order], self._least[order]
        unused = self._reserved - self._least
        for begin_s in np.unique(used.sent_s):
            granted = np.cumsum(np.where(sents >= begin_s, least, 0.0))
            back = unused[(used.sent_s < begin_s) & (self._back_s > begin_s)].sum()
            allowed = self.rule.burst + self.rule.rate * np.maximum(heads - begin_s, 0.0) + back
            worst = max(worst, float((granted - allowed).max(initial=0.0)))
        return worst

    def wanted(self, one: Seen) -> float:
        """What a refused request may have asked for, at most."""
        return self.rule.of(one.reserved)

    def least_left(self, from_s: float, until_s: float) -> float:
        """A bound below what was left at any instant of a time."""
        cost = np.where(self._back_s <= from_s, self._most, self._reserved)
        used = self._used
        begun = used.sent_s <= until_s
        if self.rule.calendar:
            start_s = from_s // self.rule.period_s * self.rule.period_s
            first = self._first if self._began_s >= start_s else self.rule.limit
            return first - float(cost[begun & (used.head_s >= start_s)].sum())
        since_first = self._first + self.rule.rate * (from_s - self._began_s)
        since_first -= float(cost[begun].sum())
        taken_s = np.minimum(used.head_s[begun], from_s)
        order = np.argsort(-taken_s, kind="stable")
        left = self.rule.rate * (from_s - taken_s[order]) - np.cumsum(cost[begun][order])
        return min(since_first, self.rule.burst + min(0.0, float(left.min(initial=0.0))))

    def most_left(self, at_s: float) -> float:
        """A bound above what was left at an instant."""
        used = self._used
        surely = used.sure & (used.head_s <= at_s)
        cost = np.where(used.end_s <= at_s, self._least, self._reserved)
        if self.rule.calendar:
            start_s = at_s // self.rule.period_s * self.rule.period_s
            return self.rule.limit - float(cost[surely & (used.sent_s >= start_s)].sum())
        order = np.argsort(-used.sent_s[surely], kind="stable")
        sents = used.sent_s[surely][order]
        left = self.rule.rate * (at_s - sents) - np.cumsum(cost[surely][order])
        left += self._came_back(sents, at_s)
        return self.rule.burst + min(0.0, float(left.min(initial=0.0)))

    def _came_back(self, since_s: Numbers, at_s: float) -> Numbers:
        """What requests from before each of these instants may have given back until ``at_s``."""
        used = self._used
        unused = np.where(used.end_s <= at_s, self._reserved - self._least, 0.0)
        return _sum_before(used.sent_s, unused, since_s) - _sum_before(
            self._back_s, unused, since_s
        )

    def wait_s(self, missing: float, at_s: float) -> float:
        """Seconds until that much has come back, if nobody takes anything."""
        if missing <= 0:
            return 0.0
        if self.rule.calendar:
            return self.rule.period_s - at_s % self.rule.period_s
        return missing / self.rule.rate

    def grants(self, amount: float) -> bool:
        """It ever can."""
        return amount <= (self.rule.limit if self.rule.calendar else self.rule.burst)


def _counted(rule: Rule, tokens: Sequence[Tokens]) -> Numbers:
    return np.array([rule.of(one) for one in tokens], np.float64)


def _sum_before(times_s: Numbers, amounts: Numbers, instants_s: Numbers) -> Numbers:
    """The sum of the amounts whose time is before each instant."""
    order = np.argsort(times_s, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(amounts[order])])
    found: Numbers = sums[np.searchsorted(times_s[order], instants_s, side="left")]
    return found


def _refusal(one: Seen, views: Sequence[_View], slack: Slack, verdict: Verdict) -> None:
    wanted = [view.wanted(one) for view in views]
    if not all(view.grants(amount) for view, amount in zip(views, wanted, strict=True)):
        if not one.final and one.retry_after_s is not None:
            what = "Retry-After for a request that no waiting helps"
            verdict.untrue.append(Fault(one.id, what))
        return
    least = [view.least_left(one.sent_s, one.head_s) for view in views]
    room = [left - amount for left, amount in zip(least, wanted, strict=True)]
    if min(room) >= _UNIT:
        what = f"429 though every limit had room for {min(room):.0f} more"
        verdict.unjustified.append(Fault(one.id, what))
        return
    if one.retry_after_s is None:
        what = "no trying again, though it would help" if one.final else "no Retry-After"
        verdict.untrue.append(Fault(one.id, what))
        return
    latest_s = max(view.wait_s(-space, one.sent_s) for view, space in zip(views, room, strict=True))
    if one.retry_after_s > math.ceil(latest_s) + slack.retry_s:
        what = f"Retry-After of {one.retry_after_s:g} s where {latest_s:.1f} s are enough"
        verdict.untrue.append(Fault(one.id, what))
    for view, amount in zip(views, wanted, strict=True):
        lowest = amount
        if not slack.exact_prompts:
            lowest = min(amount, view.rule.of(Tokens(0, one.reserved.output)))
        missing = lowest - view.most_left(one.head_s)
        if view.wait_s(missing, one.head_s) > one.retry_after_s + slack.retry_s:
            what = f"Retry-After of {one.retry_after_s:g} s, and {missing:.0f} are missing"
            verdict.untrue.append(Fault(one.id, what))
            return
