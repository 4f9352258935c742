"""How limits are told to clients."""

from __future__ import annotations

import orjson
import pytest

from picker.request.rate_headers import duration, rate_headers, refusal
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Standing,
    TokenBucket,
)
from policies.limits.verdict import Denied, Refusal

WALL_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def standing(
    dimension: Dimension, limit: int, remaining: int, reset_ms: int, *, shadow: bool = False
) -> Standing:
    rule = TokenBucket.per(Period.MINUTE, limit)
    name = f"{dimension.value}-{limit}"
    bucket = Bucket(name, dimension, rule, f"{name} of tenant acme", shadow)
    return Standing(bucket, limit, remaining, reset_ms)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"),
        (20, "20ms"),
        (1_000, "1s"),
        (1_500, "1.5s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (3_723_004, "1h2m3.004s"),
    ],
)
def test_durations_are_written_as_openai_does(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


def test_headers_tell_the_tightest_enforced_limit_of_each_family() -> None:
    told = dict(
        rate_headers(
            [
                standing(Dimension.REQUESTS, 100, 70, 18_000),
                standing(Dimension.REQUESTS, 10, 9, 6_000),
                standing(Dimension.REQUESTS, 5, 1, 6_000, shadow=True),
                standing(Dimension.TOTAL_TOKENS, 1_000, 400, 36_000),
                standing(Dimension.OUTPUT_TOKENS, 500, 450, 6_000),
                standing(Dimension.MONEY, 7, 1, 1),
            ],
            anthropic=False,
            wall_s=WALL_S,
        )
    )
    assert told == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "400",
        "x-ratelimit-reset-tokens": "36s",
    }


def test_anthropics_names_come_with_instants() -> None:
    told = dict(
        rate_headers(
            [
                standing(Dimension.REQUESTS, 100, 70, 18_000),
                standing(Dimension.OUTPUT_TOKENS, 500, 450, 6_000),
            ],
            anthropic=True,
            wall_s=WALL_S,
        )
    )
    assert told["anthropic-ratelimit-requests-limit"] == "100"
    assert told["anthropic-ratelimit-requests-remaining"] == "70"
    assert told["anthropic-ratelimit-requests-reset"] == "2027-01-15T08:00:18Z"
    assert told["anthropic-ratelimit-output-tokens-remaining"] == "450"
    assert "anthropic-ratelimit-input-tokens-limit" not in told
    assert told["x-ratelimit-remaining-tokens"] == "450"


def denied(bucket: Bucket, why: Refusal, retry_after_ms: int | None, left: int) -> Denied:
    return Denied(bucket, why, retry_after_ms, (Standing(bucket, bucket.limit, left, 1),))


def test_a_limit_of_tokens_says_which_how_much_and_when() -> None:
    rule = TokenBucket.per(Period.MINUTE, 1_000)
    bucket = Bucket("t", Dimension.TOTAL_TOKENS, rule, "tokens of tenant acme")
    rejection = refusal(
        denied(bucket, Refusal.EMPTY, 6_001, 20), {"t": 500}, anthropic=False, wall_s=WALL_S
    )
    told = dict(rejection.headers())
    assert (told["retry-after"], told["retry-after-ms"]) == ("7", "6001")
    assert told["x-ratelimit-remaining-tokens"] == "20"
    error = orjson.loads(rejection.body(anthropic=False))["error"]
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert error["message"] == (
        "Limit reached: tokens of tenant acme. Limit 1000 tokens per minute, remaining 20,"
        " requested 500. Try again in 6.001s."
    )
    assert rejection.verdict.status == 429
    assert orjson.loads(rejection.body(anthropic=True))["error"]["type"] == "rate_limit_error"


def test_a_budget_is_a_quota_and_told_in_money() -> None:
    rule = CalendarWindow(12_500_000, Period.MONTH)
    bucket = Bucket("m", Dimension.MONEY, rule, "budget of tenant acme")
    rejection = refusal(
        denied(bucket, Refusal.EMPTY, 86_400_000, 1_000_000),
        {"m": 2_000_000},
        anthropic=False,
        wall_s=WALL_S,
    )
    error = orjson.loads(rejection.body(anthropic=False))["error"]
    assert error["code"] == "insufficient_quota"
    assert "Limit 12.5 units of money per month, remaining 1, requested 2." in error["message"]
    assert dict(rejection.headers())["retry-after"] == "86400"


def test_what_can_never_be_granted_is_not_to_be_tried_again() -> None:
    rule = TokenBucket.per(Period.MINUTE, 1_000)
    bucket = Bucket("t", Dimension.TOTAL_TOKENS, rule, "tokens of tenant acme")
    rejection = refusal(
        denied(bucket, Refusal.NEVER, None, 1_000), {"t": 5_000}, anthropic=False, wall_s=WALL_S
    )
    told = dict(rejection.headers())
    assert told["x-should-retry"] == "false"
    assert "retry-after" not in told
    assert "can ever grant" in rejection.message


def test_too_many_at_once_may_be_tried_again_soon() -> None:
    bucket = Bucket("c", Dimension.CONCURRENCY, Concurrency(2), "concurrency of tenant acme")
    rejection = refusal(
        denied(bucket, Refusal.BUSY, None, 0), {"c": 1}, anthropic=False, wall_s=WALL_S
    )
    assert dict(rejection.headers())["retry-after"] == "1"
    assert "Limit 2 requests at once, remaining 0, requested 1" in rejection.message


def test_a_reset_beyond_all_dates_is_told_as_a_date() -> None:
    far = standing(Dimension.OUTPUT_TOKENS, 10, 0, 10**18)
    told = dict(rate_headers([far], anthropic=True, wall_s=WALL_S))
    assert told["anthropic-ratelimit-output-tokens-reset"].startswith("2127-")
