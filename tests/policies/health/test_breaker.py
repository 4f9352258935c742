"""When a breaker opens, what it lets through then, and how it closes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.health.breaker import TRANSITIONS, Breaker, BreakerRules, Event, Stage

RULES = BreakerRules(
    consecutive_failures=3, min_requests=10, window_s=10.0, open_s=4.0, max_open_s=20.0, probes=2
)


def tripped(at_s: float = 0.0) -> Breaker:
    breaker = Breaker(RULES)
    for _ in range(3):
        breaker.failed(at_s, at_s, "status 500")
    assert breaker.stage(at_s) is Stage.OPEN
    return breaker


def test_every_event_in_every_stage_leads_somewhere() -> None:
    assert set(TRANSITIONS) == {(stage, event) for stage in Stage for event in Event}


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    breaker = Breaker(RULES)
    for at_s in (0.0, 1.0):
        assert not breaker.failed(at_s, at_s, "status 500")
    breaker.succeeded(1.0, 1.5)
    for at_s in (2.0, 3.0):
        assert not breaker.failed(at_s, at_s, "status 500")
    assert breaker.failed(4.0, 4.0, "status 502")
    assert not breaker.admits(4.0)
    assert breaker.reason == "3 failures in a row, the last one: status 502"
    assert breaker.left_s(5.0) == 3.0


def test_it_opens_by_the_share_of_a_window() -> None:
    breaker = Breaker(RULES)
    opened = False
    for step in range(20):
        at_s = step * 0.1
        breaker.succeeded(at_s, at_s)
        opened = opened or breaker.failed(at_s, at_s, "status 500")
    assert opened
    old = Breaker(RULES)
    for step in range(100):  # of a window there are never ten
        at_s = step * 2.5
        old.succeeded(at_s, at_s)
        assert not old.failed(at_s, at_s, "status 500")


def test_a_failure_that_may_be_the_requests_own_counts_only_while_nothing_succeeds() -> None:
    breaker = Breaker(RULES)
    for step in range(200):
        at_s = step * 0.01
        assert not breaker.failed(at_s, at_s, "status 500", certain=False)
        assert not breaker.failed(at_s, at_s, "status 500", certain=False)
        breaker.succeeded(at_s, at_s)


def test_silence_is_a_failure_only_when_nobody_was_answered_since() -> None:
    breaker = Breaker(RULES)
    breaker.succeeded(0.0, 20.0)
    for _ in range(9):
        assert not breaker.silent(10.0, 45.0, "no answer")
    for _ in range(2):
        assert not breaker.silent(21.0, 60.0, "no answer")
    assert breaker.silent(21.0, 60.0, "no answer")


def test_a_bounded_number_of_probes_closes_it() -> None:
    breaker = tripped()
    assert not breaker.admits(3.9)
    assert breaker.admits(4.0)
    for sent_s in (4.0, 4.1):
        breaker.sent(sent_s)
    assert not breaker.admits(4.2)
    breaker.succeeded(4.0, 4.3)
    assert breaker.stage(4.3) is Stage.PROBING
    assert breaker.admits(4.3)
    breaker.succeeded(4.1, 4.4)
    assert breaker.stage(4.4) is Stage.CLOSED
    assert breaker.reason == ""


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_bound() -> None:
    breaker, now_s, waits = tripped(), 0.0, []
    for _ in range(5):
        left_s = breaker.left_s(now_s)
        waits.append(left_s)
        now_s += left_s
        breaker.sent(now_s)
        assert breaker.failed(now_s, now_s, "status 500")
    assert waits == [4.0, 8.0, 16.0, 20.0, 20.0]
    assert breaker.reason == "fails again: status 500"


def test_a_lost_probe_does_not_keep_it_open_for_ever() -> None:
    breaker = tripped()
    for sent_s in (4.0, 4.0):
        breaker.sent(sent_s)
    assert not breaker.admits(7.9)
    assert breaker.admits(8.0)
    breaker.sent(8.0)
    breaker.sent(8.0)
    breaker.unknown(8.0)  # the client has left, or the request was wrong
    assert breaker.admits(8.1)


def test_what_was_sent_before_it_opened_decides_nothing_afterwards() -> None:
    breaker = tripped(10.0)
    assert breaker.stage(14.0) is Stage.PROBING
    for _ in range(5):
        breaker.succeeded(9.0, 15.0)
        assert not breaker.failed(9.0, 15.0, "status 500")
    assert breaker.stage(15.0) is Stage.PROBING


def test_it_forgets_its_past_after_a_quiet_time() -> None:
    breaker = tripped()
    for sent_s in (4.0, 4.1):
        breaker.succeeded(sent_s, sent_s)
    assert not breaker.is_idle(9.0)
    assert breaker.is_idle(11.0)


def test_the_later_verdict_is_right_whoever_found_it() -> None:
    one, other = tripped(10.0), Breaker(RULES)
    other.take(one.verdict())
    assert other.stage(12.0) is Stage.OPEN
    assert other.reason == one.reason
    for sent_s in (14.0, 14.1):
        other.succeeded(sent_s, 14.5)
    closed = other.verdict()
    one.take(closed)
    assert one.stage(14.6) is Stage.CLOSED
    one.take(tripped(3.0).verdict())
    assert one.stage(14.7) is Stage.CLOSED


@given(st.lists(st.sampled_from(["good", "bad", "unsure", "silent", "sent", "wait"]), max_size=60))
def test_two_workers_agree_once_they_have_heard_each_other(steps: list[str]) -> None:
    workers, now_s = (Breaker(RULES), Breaker(RULES)), 0.0
    for number, step in enumerate(steps):
        now_s += 0.5
        one = workers[number % 2]
        _do(one, step, now_s)
        for other in workers:
            other.take(one.verdict())
    stages = [worker.stage(now_s + 0.1) for worker in workers]
    assert stages[0] is stages[1]


def _do(breaker: Breaker, step: str, now_s: float) -> None:
    match step:
        case "good":
            breaker.succeeded(now_s, now_s)
        case "bad":
            breaker.failed(now_s, now_s, "x")
        case "unsure":
            breaker.failed(now_s, now_s, "x", certain=False)
        case "silent":
            breaker.silent(now_s, now_s, "x")
        case "sent":
            breaker.sent(now_s)


class BreakerMachine(RuleBasedStateMachine):
    """Any sequence of ends, sent before or after it opened, with any time between them."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now_s, self.failures = Breaker(RULES), 0.0, 0

    @rule(wait_s=st.floats(0.0, 30.0))
    def wait(self, wait_s: float) -> None:
        self.now_s += wait_s

    @rule(ago_s=st.floats(0.0, 30.0))
    def good(self, ago_s: float) -> None:
        self.breaker.succeeded(self.now_s - ago_s, self.now_s)
        self.failures = 0

    @rule(ago_s=st.floats(0.0, 30.0), certain=st.booleans())
    def bad(self, ago_s: float, certain: bool) -> None:
        self.failures += 1
        self.breaker.failed(self.now_s - ago_s, self.now_s, "x", certain=certain)

    @precondition(lambda self: self.breaker.admits(self.now_s))
    @rule()
    def send(self) -> None:
        self.breaker.sent(self.now_s)

    @invariant()
    def it_is_open_for_a_bounded_time_and_says_why(self) -> None:
        stage = self.breaker.stage(self.now_s)
        assert self.breaker.left_s(self.now_s) <= RULES.max_open_s + 1e-6
        assert bool(self.breaker.reason) == (stage is not Stage.CLOSED)
        assert not (stage is Stage.OPEN and self.breaker.admits(self.now_s))
        later_s = self.now_s + RULES.max_open_s
        assert stage is not Stage.CLOSED or self.breaker.admits(later_s)

    @invariant()
    def probes_are_few(self) -> None:
        if self.breaker.stage(self.now_s) is Stage.PROBING:
            assert len(self.breaker._probes) <= RULES.probes


TestBreaker = BreakerMachine.TestCase
