"""All or none, the bucket to blame, and exactly when to come again."""

from __future__ import annotations

from policies.limits import arithmetic
from policies.limits.arithmetic import State
from policies.limits.types import (
    TOKEN_DIMENSIONS,
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Standing,
    Take,
    TokenBucket,
)
from policies.limits.verdict import Denied, Granted, Refusal, judge, tightest

NOW_MS = 1_800_000_000_000
MINUTE = Bucket("m", Dimension.TOTAL_TOKENS, TokenBucket.per(Period.MINUTE, 600), "a minute")
DAY = Bucket("d", Dimension.TOTAL_TOKENS, CalendarWindow(1_000, Period.DAY), "a day")
BUSY = Bucket("c", Dimension.CONCURRENCY, Concurrency(1), "at once")
SHADOW = Bucket("s", Dimension.REQUESTS, TokenBucket(1, 1, 1_000), "trial", shadow=True)


def after(bucket: Bucket, taken: int) -> State:
    return arithmetic.take(bucket.rule, arithmetic.fresh(bucket.rule, NOW_MS), taken)


def test_granted_tells_what_is_left_afterwards() -> None:
    verdict = judge([Take(MINUTE, 100)], [after(MINUTE, 50)], NOW_MS)
    assert verdict == Granted((Standing(MINUTE, 600, 450, 15_000),))


def test_the_last_to_grant_is_to_blame() -> None:
    takes = [Take(MINUTE, 600), Take(DAY, 600), Take(BUSY, 1)]
    verdict = judge(takes, [after(MINUTE, 1), after(DAY, 500), after(BUSY, 1)], NOW_MS)
    assert isinstance(verdict, Denied)
    assert (verdict.bucket, verdict.refusal) == (DAY, Refusal.EMPTY)
    assert verdict.retry_after_ms == 86_400_000 - NOW_MS % 86_400_000
    assert [s.remaining for s in verdict.standings] == [599, 500, 0]


def test_retry_after_is_exact_to_the_millisecond() -> None:
    verdict = judge([Take(MINUTE, 1)], [after(MINUTE, 600)], NOW_MS)
    assert isinstance(verdict, Denied)
    assert (verdict.retry_after_ms, verdict.retry_after_s) == (100, 0.1)


def test_more_than_a_bucket_can_hold_is_never_granted() -> None:
    takes = [Take(MINUTE, 601), Take(DAY, 1)]
    verdict = judge(takes, [after(MINUTE, 0), after(DAY, 1_000)], NOW_MS)
    assert isinstance(verdict, Denied)
    assert (verdict.bucket, verdict.refusal) == (MINUTE, Refusal.NEVER)
    assert verdict.retry_after_ms is verdict.retry_after_s is None


def test_concurrency_cannot_say_when() -> None:
    verdict = judge([Take(BUSY, 1)], [after(BUSY, 1)], NOW_MS)
    assert isinstance(verdict, Denied)
    assert (verdict.refusal, verdict.retry_after_ms) == (Refusal.BUSY, None)


def test_debt_refuses_even_nothing_until_it_is_paid() -> None:
    verdict = judge([Take(MINUTE, 0)], [after(MINUTE, 610)], NOW_MS)
    assert isinstance(verdict, Denied)
    assert verdict.retry_after_ms == 1_000
    assert verdict.standings[0].remaining == 0


def test_shadow_reports_and_does_not_refuse() -> None:
    verdict = judge([Take(SHADOW, 1), Take(MINUTE, 1)], [after(SHADOW, 1), after(MINUTE, 0)], 0)
    assert isinstance(verdict, Granted)
    assert verdict.shadow_refusals == (SHADOW,)
    assert [s.remaining for s in verdict.standings] == [0, 599]


def test_tightest_of_a_family() -> None:
    requests = Bucket("r", Dimension.REQUESTS, TokenBucket(5, 1, 1))
    standings = [
        Standing(MINUTE, 600, 40, 10),
        Standing(DAY, 1_000, 40, 99),
        Standing(requests, 5, 3, 1),
        Standing(SHADOW, 1, 0, 1),
        Standing(BUSY, 1, 0, 0),
    ]
    assert tightest(standings, TOKEN_DIMENSIONS) == standings[1]
    assert tightest(standings, [Dimension.REQUESTS]) == standings[2]
    assert tightest([], TOKEN_DIMENSIONS) is None
