"""A circuit breaker: keeps requests from what fails, and lets a few through to see whether it has
recovered. No clock: times are passed in, seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Stage(Enum):
    """What a breaker lets through."""

    CLOSED = auto()
    """Everything."""
    OPEN = auto()
    """Nothing, for a time."""
    PROBING = auto()
    """A few requests: the time is over."""


class Event(Enum):
    """What can happen to a breaker."""

    SUCCEEDED = auto()
    FAILED = auto()
    TRIPPED = auto()
    """Failed, and that was one failure too many."""
    WAITED = auto()
    """The time for which it is open is over."""
    PROVEN = auto()
    """Succeeded, and that was the last success that was missing."""


TRANSITIONS: Final[dict[tuple[Stage, Event], Stage]] = {
    (Stage.CLOSED, Event.SUCCEEDED): Stage.CLOSED,
    (Stage.CLOSED, Event.FAILED): Stage.CLOSED,
    (Stage.CLOSED, Event.TRIPPED): Stage.OPEN,
    (Stage.CLOSED, Event.WAITED): Stage.CLOSED,
    (Stage.CLOSED, Event.PROVEN): Stage.CLOSED,
    # Requests that were sent before it opened still end.
    (Stage.OPEN, Event.SUCCEEDED): Stage.OPEN,
    (Stage.OPEN, Event.FAILED): Stage.OPEN,
    (Stage.OPEN, Event.TRIPPED): Stage.OPEN,
    (Stage.OPEN, Event.WAITED): Stage.PROBING,
    (Stage.OPEN, Event.PROVEN): Stage.OPEN,
    (Stage.PROBING, Event.SUCCEEDED): Stage.PROBING,
    (Stage.PROBING, Event.FAILED): Stage.OPEN,
    (Stage.PROBING, Event.TRIPPED): Stage.OPEN,
    (Stage.PROBING, Event.WAITED): Stage.PROBING,
    (Stage.PROBING, Event.PROVEN): Stage.CLOSED,
}
"""From any stage any event leads to a defined one."""


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a breaker opens, and for how long."""

    consecutive_failures: int = 5
    """Opens after so many failures without a success between them."""
    failure_share: float = 0.5
    """Opens when so large a share of the requests of a window have failed."""
    min_requests: int = 20
    """The share says nothing of fewer requests in a window."""
    window_s: float = 30.0
    open_s: float = 5.0
    """It is open for so long, and each time that it opens again for twice as long."""
    max_open_s: float = 120.0
    probes: int = 2
    """Requests that are let through at a time when it was open, and successes that close it."""


_UNCERTAIN: Final = 0.5
"""A failure that may be the request's own counts as so much of one."""
DEFAULT_RULES: Final = BreakerRules()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one observer of a breaker has found, for the others."""

    at_s: float
    """When it was found; of two the later one is right."""
    until_s: float
    """Open until then, and after it probing; 0: closed."""
    opened: int
    """Times that it has opened in a row."""
    reason: str
    """Why, for people; "" when it is closed."""


class Breaker:
    """One breaker. A failure and a success count by when their request was sent: what was sent
    before it opened says nothing about whether it has recovered."""

    __slots__ = (
        "_at_s",
        "_before",
        "_in_a_row",
        "_last_failed_s",
        "_last_good_s",
        "_now",
        "_opened",
        "_probes",
        "_proven",
        "_reason",
        "_rules",
        "_stage",
        "_until_s",
        "_weight",
        "_window_s",
    )

    def __init__(self, rules: BreakerRules = DEFAULT_RULES) -> None:
        self._rules = rules
        self._stage = Stage.CLOSED
        self._at_s = 0.0
        self._until_s = 0.0
        self._opened = 0
        self._reason = ""
        self._in_a_row, self._weight = 0, 0.0
        self._last_good_s = self._last_failed_s = float("-inf")
        self._window_s = 0.0
        """Start of the half-window that ``_now`` counts; ``_before`` counts the one before it."""
        self._now = self._before = (0, 0)
        """Requests and failures."""
        self._probes: list[float] = []
        """When the probes were sent whose end is not known."""
        self._proven = 0

    def use(self, rules: BreakerRules) -> None:
        """Other rules, from now on."""
        self._rules = rules

    # -- what it says

    def stage(self, now_s: float) -> Stage:
        """What it lets through."""
        if self._stage is Stage.OPEN and now_s >= self._until_s:
            self._happen(Event.WAITED)
            self._probes.clear()
            self._proven = 0
        return self._stage

    def admits(self, now_s: float) -> bool:
        """A request may be sent now. A probe whose end is not known after the time that the
        breaker was open does not hold up another one."""
        stage = self.stage(now_s)
        if stage is not Stage.PROBING:
            return stage is Stage.CLOSED
        self._probes = [sent_s for sent_s in self._probes if now_s - sent_s < self._last_open_s()]
        return len(self._probes) < self._rules.probes

    @property
    def reason(self) -> str:
        """Why it opened, for people; "" when it is closed."""
        return self._reason

    def left_s(self, now_s: float) -> float:
        """For so long it is still open, 0 when it is not."""
        return max(0.0, self._until_s - now_s) if self._stage is Stage.OPEN else 0.0

    def is_idle(self, now_s: float) -> bool:
        """It is as good as a new one."""
        if self._stage is not Stage.CLOSED:
            return False
        return now_s - self._last_failed_s > max(self._rules.window_s, self._last_open_s())

    def verdict(self) -> Verdict:
        """What is known, for others."""
        until_s = 0.0 if self._stage is Stage.CLOSED else self._until_s
        return Verdict(self._at_s, until_s, self._opened, self._reason)

    # -- what happens

    def sent(self, now_s: float) -> None:
        """A request goes there."""
        if self.stage(now_s) is Stage.PROBING:
            self._probes.append(now_s)

    def unknown(self, sent_s: float) -> None:
        """A request has ended, and its end says nothing: another one may be sent."""
        if self._probes and sent_s in self._probes:
            self._probes.remove(sent_s)

    def succeeded(self, sent_s: float, now_s: float) -> None:
        """A request that was sent at ``sent_s`` was answered."""
        self._last_good_s = max(self._last_good_s, now_s)
        stage = self.stage(now_s)
        if stage is Stage.CLOSED:
            self._in_a_row, self._weight = 0, 0.0
            self._count(now_s, failed=False)
        elif stage is Stage.PROBING and sent_s >= self._until_s:
            self.unknown(sent_s)
            self._proven += 1
            if self._proven >= self._rules.probes:
                self._close(now_s)
                self._happen(Event.PROVEN)
                return
        self._happen(Event.SUCCEEDED)

    def failed(self, sent_s: float, now_s: float, reason: str, *, certain: bool = True) -> bool:
        """A request that was sent at ``sent_s`` failed; true when that opens the breaker.
        ``certain``: the failure is not the request's own. What may be, such as a failure
        everywhere, counts half, and only as long as nothing else succeeds."""
        stage = self.stage(now_s)
        self._last_failed_s = now_s
        if stage is Stage.OPEN or (stage is Stage.PROBING and sent_s < self._until_s):
            return False
        self._in_a_row += 1
        self._weight += 1.0 if certain else _UNCERTAIN
        if certain:
            self._count(now_s, failed=True)
        if stage is Stage.CLOSED and not self._is_too_much():
            self._happen(Event.FAILED)
            return False
        self._reason = self._why(reason)
        self._opened += 1
        self._open(now_s, now_s + self._last_open_s())
        self._happen(Event.TRIPPED)
        return True

    def silent(self, sent_s: float, now_s: float, reason: str) -> bool:
        """A request that was sent at ``sent_s`` got no answer: a failure, when no other one got
        one since."""
        return self._last_good_s < sent_s and self.failed(sent_s, now_s, reason)

    def take(self, verdict: Verdict) -> None:
        """What another observer has found, unless something newer is known."""
        if verdict.at_s <= self._at_s:
            return
        if verdict.until_s:
            self._reason, self._opened = verdict.reason, verdict.opened
            self._open(verdict.at_s, verdict.until_s)
            self._last_failed_s = max(self._last_failed_s, verdict.at_s)
            if self._stage is not Stage.OPEN:
                self._happen(Event.TRIPPED)
        elif self._stage is not Stage.CLOSED:
            self._close(verdict.at_s)
            if self._stage is Stage.OPEN:
                self._happen(Event.WAITED)
            self._happen(Event.PROVEN)

    # -- inside

    def _happen(self, event: Event) -> None:
        self._stage = TRANSITIONS[self._stage, event]

    def _open(self, at_s: float, until_s: float) -> None:
        self._at_s, self._until_s = at_s, until_s
        self._in_a_row, self._weight = 0, 0.0
        self._now = self._before = (0, 0)

    def _close(self, at_s: float) -> None:
        """Closed; should it open again soon, it does so for twice as long as last time."""
        self._at_s, self._until_s, self._reason = at_s, 0.0, ""
        self._in_a_row, self._weight = 0, 0.0
        self._now = self._before = (0, 0)
        self._probes.clear()

    def _last_open_s(self) -> float:
        if not self._opened:
            return 0.0
        doublings = min(self._opened - 1, 30)
        return min(self._rules.max_open_s, self._rules.open_s * 2.0**doublings)

    def _count(self, now_s: float, *, failed: bool) -> None:
        half_s = self._rules.window_s / 2
        age_s = now_s - self._window_s
        if age_s >= half_s:
            self._before = self._now if age_s < 2 * half_s else (0, 0)
            self._now = (0, 0)
            self._window_s = now_s
        requests, failures = self._now
        self._now = (requests + 1, failures + failed)

    def _is_too_much(self) -> bool:
        rules = self._rules
        if self._weight >= rules.consecutive_failures:
            return True
        requests, failures = (a + b for a, b in zip(self._now, self._before, strict=True))
        return requests >= rules.min_requests and failures >= rules.failure_share * requests

    def _why(self, last: str) -> str:
        if self._stage is Stage.PROBING:
            return f"fails again: {last}"
        if self._weight >= self._rules.consecutive_failures:
            return f"{self._in_a_row} failures in a row, the last one: {last}"
        requests, failures = (a + b for a, b in zip(self._now, self._before, strict=True))
        return f"{failures} of {requests} requests failed, the last one: {last}"
