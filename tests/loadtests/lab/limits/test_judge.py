"""The judge finds each fault that is planted into a good history, and none in the good one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.lab.limits.history import History, Seen, Tokens
from loadtests.lab.limits.judge import Slack, Verdict, judge
from loadtests.lab.limits.rules import Rule

TOKENS = Rule("total_tokens", 1200.0, 60.0, 400.0)
REQUESTS = Rule("requests", 60.0, 60.0, 60.0)
RULES = (TOKENS, REQUESTS)
SLACK = Slack()


def run(seed: int = 1, rule: Rule = TOKENS, *, requests: int = 400) -> History:
    """What clients see of a gateway that keeps ``rule`` by reserving and giving back. They ask
    again at random, or when Retry-After says."""
    rng = random.Random(seed)
    seen: list[Seen] = []
    generated: dict[str, Tokens] = {}
    level, at_s, start_s = rule.burst, 1000.0, 1000.0
    back: list[tuple[float, float]] = []
    used_in: dict[float, float] = {}
    for number in range(requests):
        at_s += rng.expovariate(4.0)
        for due_s, amount in sorted(back):
            if due_s <= at_s:
                level = min(rule.burst, level + rule.rate * (due_s - start_s))
                level, start_s = min(rule.burst, level + amount), due_s
        back = [one for one in back if one[0] > at_s]
        level, start_s = min(rule.burst, level + rule.rate * (at_s - start_s)), at_s
        reserved = Tokens(rng.randint(10, 40), rng.randint(5, 60))
        wanted = rule.of(reserved)
        window = at_s // rule.period_s
        room = rule.limit - used_in.get(window, 0.0) if rule.calendar else level
        sent_s, head_s = at_s - rng.random() * 0.02, at_s + rng.random() * 0.02
        one = Seen(f"r{number}", sent_s, head_s, head_s, 429, reserved)
        if wanted > room:
            wait_s = (
                (window + 1) * rule.period_s - at_s
                if rule.calendar
                else (wanted - room) / rule.rate
            )
            seen.append(replace(one, retry_after_s=float(math.ceil(wait_s))))
            continue
        made = Tokens(reserved.input, rng.randint(0, reserved.output))
        end_s = head_s + made.output * 0.01
        whole = rng.random() < 0.9
        level -= wanted
        used_in[window] = used_in.get(window, 0.0) + rule.of(made)
        back.append((end_s + rng.random() * 0.2, wanted - rule.of(made)))
        generated[one.id] = made
        shown = made.output if whole else rng.randint(0, made.output)
        usage = made if whole else None
        seen.append(
            replace(one, status=200, end_s=end_s, usage=usage, shown_tokens=shown, whole=whole)
        )
    charged = sum(one.input + one.output for one in generated.values())
    return History(tuple(seen), generated, charged)


def judged(
    history: History, rules: tuple[Rule, ...] = (TOKENS,), *, rested: bool = True
) -> Verdict:
    return judge(replace(history, rested=rested), rules, SLACK)


def first(history: History, wanted: Callable[[Seen], bool]) -> int:
    return next(n for n, one in enumerate(history.seen) if wanted(one))


def changed(history: History, index: int, **fields: object) -> History:
    one = replace(history.seen[index], **fields)  # type: ignore[arg-type]
    return replace(history, seen=(*history.seen[:index], one, *history.seen[index + 1 :]))


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=15, derandomize=True)
def test_nothing_is_wrong_with_a_gateway_that_keeps_its_limit(seed: int, calendar: bool) -> None:
    rule = replace(TOKENS, calendar=calendar, burst=1200.0 if calendar else 400.0)
    if not calendar:
        verdict = judged(run(seed, rule), (rule,))
        assert verdict.ok, verdict
        assert verdict.refused > 20


def test_a_calendar_window() -> None:
    rule = replace(TOKENS, calendar=True, burst=1200.0)
    history = run(3, rule)
    verdict = judged(history, (rule,))
    assert verdict.ok, verdict
    assert verdict.refused > 20
    index = first(history, lambda one: one.refused)
    late = changed(history, index, retry_after_s=90.0)
    assert judged(late, (rule,)).untrue
    tighter = replace(rule, limit=900.0)
    assert judged(history, (tighter,)).overshoot[str(tighter)] > 100


def test_an_overshoot() -> None:
    history = run()
    index = first(history, lambda one: one.refused)
    for number in range(index, index + 40):
        one = history.seen[number]
        if one.refused:
            made = one.reserved
            history = changed(
                history, number, status=200, usage=made, whole=True, shown_tokens=made.output
            )
            history.generated[one.id] = made
    history = replace(history, charged=None)
    verdict = judged(history)
    assert verdict.overshoot[str(TOKENS)] > 20
    assert not verdict.lost_tokens


def test_twice_the_burst_at_once() -> None:
    made = Tokens(50, 50)
    seen = [Seen(f"r{n}", 10.0, 10.1, 11.0, 200, made, made, 50, whole=True) for n in range(8)]
    verdict = judged(History(tuple(seen), {}))
    assert verdict.overshoot[str(TOKENS)] == pytest.approx(400 - 2.0)


@pytest.mark.parametrize(("shown", "lost", "doubled"), [(-1, 1, 0), (1, 0, 1), (5, 0, 5)])
def test_a_stream_that_shows_other_than_was_generated(shown: int, lost: int, doubled: int) -> None:
    history = run()
    index = first(history, lambda one: one.whole and (one.shown_tokens or 0) > 5)
    tokens = history.seen[index].shown_tokens
    assert tokens is not None
    verdict = judged(changed(history, index, shown_tokens=tokens + shown))
    assert (verdict.lost_tokens, verdict.doubled_tokens) == (lost, doubled)
    assert not verdict.ok


@pytest.mark.parametrize(("told", "lost", "doubled"), [(-2, 2, 0), (3, 0, 3)])
def test_usage_other_than_was_generated(told: int, lost: int, doubled: int) -> None:
    history = run()
    index = first(history, lambda one: one.whole and one.usage is not None and one.usage.output > 5)
    usage = history.seen[index].usage
    assert usage is not None
    other = Tokens(usage.input, usage.output + told)
    verdict = judged(changed(history, index, usage=other))
    assert (verdict.lost_tokens, verdict.doubled_tokens) == (lost, doubled)


def test_a_foreign_target_may_show_several_tokens_at_once() -> None:
    history = replace(run(), generated={}, charged=None)
    index = first(history, lambda one: one.whole and (one.shown_tokens or 0) > 5)
    assert judged(changed(history, index, shown_tokens=2)).ok
    assert judged(changed(history, index, shown_tokens=200)).doubled_tokens > 100


def test_what_is_charged() -> None:
    history = replace(run(), generated={})  # usage and what was shown are left
    whole = [one for one in history.seen if one.whole and one.usage is not None]
    least = sum(one.usage.input + one.usage.output for one in whole if one.usage)
    for charged, lost in ((0, least), (least - 1, 1)):
        assert judged(replace(history, charged=charged)).lost_tokens >= lost
    most = 10**6
    assert judged(replace(history, charged=most)).doubled_tokens > 900_000


def test_a_token_is_charged_twice_or_never() -> None:
    history = run()
    seen = tuple(one for one in history.seen if one.whole or one.refused)
    total = sum(
        history.generated[one.id].input + history.generated[one.id].output
        for one in seen
        if one.whole
    )
    for charged, lost, doubled in ((total, 0, 0), (total - 1, 1, 0), (total + 1, 0, 1)):
        verdict = judged(replace(history, seen=seen, charged=charged))
        assert (verdict.lost_tokens, verdict.doubled_tokens) == (lost, doubled)


def test_a_refusal_without_a_reason() -> None:
    seen = Seen("r0", 10.0, 10.1, 10.1, 429, Tokens(20, 20), retry_after_s=1.0)
    verdict = judged(History((seen,), {}), RULES)
    assert [fault.id for fault in verdict.unjustified] == ["r0"]
    history = run()
    late = max(one.end_s for one in history.seen) + 60
    alone = replace(seen, id="late", sent_s=late, head_s=late, end_s=late)
    verdict = judged(replace(history, seen=(*history.seen, alone)))
    assert [fault.id for fault in verdict.unjustified] == ["late"]


@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_an_untrue_retry_after(late: bool) -> None:
    history = run(requests=120)
    found = 0
    for index, one in enumerate(history.seen[:120]):
        if one.refused and one.retry_after_s is not None and (late or one.retry_after_s > 2):
            other = one.retry_after_s + 4 if late else 0.0
            verdict = judged(changed(history, index, retry_after_s=other))
            found += [fault.id for fault in verdict.untrue] == [one.id]
    assert found, "the bounds are wide, but not as wide as that"


@pytest.mark.parametrize(
    ("fields", "tells"),
    [
        ({"retry_after_s": None}, "no Retry-After"),
        ({"retry_after_s": None, "final": True}, "no trying again"),
    ],
)
def test_a_missing_retry_after(fields: dict[str, object], tells: str) -> None:
    history = run()
    index = first(history, lambda one: one.refused)
    (fault,) = judged(changed(history, index, **fields)).untrue
    assert tells in fault.what


def test_a_request_that_no_waiting_helps() -> None:
    seen = Seen("r0", 10.0, 10.1, 10.1, 429, Tokens(400, 20), final=True)
    assert judged(History((seen,), {})).ok
    assert judged(History((replace(seen, final=False, retry_after_s=3.0),), {})).untrue


def test_a_dead_picker_may_hold_what_it_had() -> None:
    """Until its lease is over, refusals are justified."""
    dead = [Seen(f"d{n}", 10.0, 10.5, 10.5, 0, Tokens(50, 50)) for n in range(4)]
    refused = Seen("r", 20.0, 20.1, 20.1, 429, Tokens(100, 100), retry_after_s=1.0)
    assert not judged(History((*dead, refused), {})).unjustified
    late = replace(refused, sent_s=120.0, head_s=120.1)
    assert judged(History((*dead, late), {})).unjustified


def test_clients_estimates_are_not_held_against_a_gateway() -> None:
    made = Tokens(60, 50)
    seen = [
        Seen(f"r{n}", 10.0, 10.1, 11.0, 200, Tokens(50, 50), made, whole=True) for n in range(4)
    ]
    history = History(tuple(seen), {})
    assert judged(history).overshoot[str(TOKENS)] == pytest.approx(38)
    rested = replace(history, rested=True)
    assert not any(judge(rested, (TOKENS,), Slack(tokens=40)).overshoot.values())


def test_limits_that_were_in_use_at_the_start() -> None:
    """Unless something says what was left, nothing may have been."""
    refused = [
        Seen(f"r{n}", at_s, at_s + 0.1, at_s + 0.1, 429, Tokens(50, 50), retry_after_s=2.0)
        for n, at_s in enumerate((10.0, 30.0))
    ]
    assert [one.id for one in judged(History(tuple(refused), {})).unjustified] == ["r0", "r1"]
    history = History(tuple(refused), {})
    # 20 tokens a second come back: 20 s later there are 400.
    assert [one.id for one in judged(history, rested=False).unjustified] == ["r1"]
    told = replace(refused[0], left={"total_tokens": 150.0})
    known = History((told, refused[1]), {})
    assert [one.id for one in judged(known, rested=False).unjustified] == ["r0", "r1"]
    window = replace(TOKENS, calendar=True, burst=1200.0)
    assert not judged(history, (window,), rested=False).unjustified


def test_counts() -> None:
    verdict = judged(run())
    assert verdict.requests == 400 == verdict.admitted + verdict.refused
    assert verdict.failed == 0
