"""Limits and times as they are written on a command line."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from gateway.commands.shorthand import instant_of, limit_of, seconds_of
from gateway.config.schema.limit import Limit

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("requests=60/minute", {"count": "requests", "limit": 60, "period": "minute"}),
        (
            "total_tokens=100k/minute,burst=0.2M,by=user+model",
            {
                "count": "total_tokens",
                "limit": 100_000,
                "period": "minute",
                "burst": 200_000,
                "by": ["user", "model"],
            },
        ),
        (
            "cost=12.5/month, window=calendar, name=budget, shadow",
            {
                "count": "cost",
                "limit": 12.5,
                "period": "month",
                "window": "calendar",
                "name": "budget",
                "shadow": True,
            },
        ),
        (
            "concurrency=4,models=llama-*+qwen,pools=main",
            {"count": "concurrency", "limit": 4, "models": ["llama-*", "qwen"], "pools": ["main"]},
        ),
        ("requests=1_000_000/day", {"count": "requests", "limit": 1_000_000, "period": "day"}),
    ],
)
def test_a_limit(text: str, limit: dict[str, object]) -> None:
    assert limit_of(text) == limit
    Limit.model_validate_json(orjson.dumps(limit))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it begins with what it counts"),
        ("tokens=5/minute", "total_tokens"),
        ("requests", "for example total_tokens=100k/minute"),
        ("requests=/minute", "an amount is a number such as 500"),
        ("requests=-5/minute", "not '-5'"),
        ("requests=5x/minute", "not '5x'"),
        ("requests=5/min", "after / comes one of second, minute"),
        ("requests=5/minute,burst=", "'burst=' is not understood"),
        ("requests=5/minute,window=sliding", "window=calendar"),
        ("requests=5/minute,by=team", "by takes key, user, model, pool"),
        ("requests=5/minute,shadow,shadow", "shadow is there twice"),
        ("requests=5/minute,period=day", "'period=day' is not understood"),
    ],
)
def test_no_limit(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="limit ") as raised:
        limit_of(text)
    assert says in str(raised.value)


def test_spans_of_time() -> None:
    assert [seconds_of(text) for text in ("0s", "30s", "15min", "1.5h", "7d")] == [
        *(0, 30, 900, 5_400, 604_800)
    ]
    for text in ("", "5", "-5s", "5 weeks", "s"):
        with pytest.raises(ValueError, match="30s, 15min, 12h or 90d"):
            seconds_of(text)


def test_times_always_have_a_zone() -> None:
    assert instant_of("90d", NOON) == "2027-04-15T12:00:00+00:00"
    assert instant_of("2027-02-01", NOON) == "2027-02-01T00:00:00+00:00"
    assert instant_of("2027-02-01T08:00:00+02:00", NOON) == "2027-02-01T08:00:00+02:00"
    with pytest.raises(ValueError, match="needs its zone, like 2027-02-01T08:00:00Z"):
        instant_of("2027-02-01T08:00:00", NOON)
    with pytest.raises(ValueError, match="like 90d, 2027-01-31"):
        instant_of("tomorrow", NOON)
