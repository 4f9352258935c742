"""Limits as they are written: amounts, periods, names."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.schema.limit import Limit
from tests.gateway.config.texts import LIMIT, assert_refused

PRICED = "\npricing: {models: [{model: m, input: 1, output: 1}]}"


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (LIMIT.format("{count: requests, limit: 1}"), "period", "one of second, minute"),
        (LIMIT.format("{count: requests, limit: 1.5, period: day}"), "limit", "a whole number of"),
        (LIMIT.format("{count: requests, limit: 0, period: day}"), "limit", "disabled: true"),
        (LIMIT.format("{count: requests, limit: -1, period: day}"), "limit", "above 0"),
        (LIMIT.format("{count: requests, limit: many, period: day}"), "limit", "a number"),
        (LIMIT.format("{count: requests, limit: true, period: day}"), "limit", "a number"),
        (LIMIT.format("{count: requests, limit: 1e16, period: day}"), "limit", "at most 10000"),
        (LIMIT.format("{count: requests, limit: 1e99, period: day}"), "limit", "18 digits"),
        (LIMIT.format("{count: requests, limit: .inf, period: day}"), "limit", "a number"),
        (LIMIT.format("{count: cost, limit: 0.1234567, period: day}"), "limit", "6 decimal places"),
        (LIMIT.format("{count: cost, limit: 1e-7, period: day}"), "limit", "6 decimal places"),
        (LIMIT.format("{count: cost, limit: 1e10, period: day}"), "limit", "at most 1000000000"),
        (LIMIT.format("{count: tokens, limit: 5, period: day}"), "count", "one of requests"),
        (LIMIT.format("{count: requests, limit: 5, period: fortnight}"), "period", "one of second"),
        (LIMIT.format("{count: requests, limit: 1, by: [user]}"), "period", "session or agent"),
        (
            LIMIT.format("{count: requests, limit: 5, period: day, idle_s: 9}"),
            "idle_s",
            "no period",
        ),
        (LIMIT.format("{count: requests, limit: 5, by: [agent], idle_s: 0}"), "idle_s", "1 to"),
        (
            LIMIT.format("{count: cost, limit: 5, by: [agent], burst: 9}") + PRICED,
            "burst",
            "nothing",
        ),
        (
            LIMIT.format("{count: requests, limit: 5, by: [session], window: calendar}"),
            "window",
            "nothing: without a period",
        ),
        (
            LIMIT.format("{count: requests, limit: 5, by: [session], time_zone: Asia/Tokyo}"),
            "time_zone",
            "nothing: without a period",
        ),
        (
            LIMIT.format("{count: requests, limit: 5, period: day, time_zone: Mars/Base}"),
            "time_zone",
            "as Europe/Berlin",
        ),
        (
            LIMIT.format("{count: requests, limit: 5, period: day, time_zone: ../../etc/passwd}"),
            "time_zone",
            "as Europe/Berlin",
        ),
        (
            LIMIT.format(
                "{count: requests, limit: 5, period: day, window: rolling, time_zone: Asia/Tokyo}"
            ),
            "time_zone",
            "window: calendar",
        ),
        (
            LIMIT.format("{count: concurrency, limit: 5, time_zone: Asia/Tokyo}"),
            "time_zone",
            "nothing",
        ),
        (LIMIT.format("{count: concurrency, limit: 5, period: day}"), "period", "nothing"),
        (LIMIT.format("{count: concurrency, limit: 5, window: calendar}"), "window", "nothing"),
        (
            LIMIT.format("{count: requests, limit: 5, period: day, window: calendar, burst: 9}"),
            "burst",
            "window: rolling",
        ),
        (
            LIMIT.format("{count: cost, limit: 5, period: month, burst: 9}") + PRICED,
            "burst",
            "window: rolling",
        ),
        (
            LIMIT.format("{count: requests, limit: 5, period: day, weights: {input: 1}}"),
            "weights",
            "count: weighted_tokens",
        ),
        (
            LIMIT.format("{count: requests, limit: 5, period: day, by: [key, key]}"),
            "by[1]",
            "each one once",
        ),
        (
            LIMIT.format("{name: Big, count: requests, limit: 5, period: day}"),
            "name",
            "lower-case letters",
        ),
    ],
)
def test_what_cannot_be(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, f"tenants[0].limits[0].{key}", says)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"count": "requests", "limit": 1, "period": "second"}', "requests-per-second"),
        ('{"count": "cost", "limit": 1, "period": "month", "name": "budget"}', "budget"),
        ('{"count": "concurrency", "limit": 1, "by": ["user", "key"]}', "concurrency-by-key-user"),
        (
            '{"count": "total_tokens", "limit": 1, "period": "day", "by": ["model"]}',
            "total_tokens-per-day-by-model",
        ),
        ('{"count": "requests", "limit": 1, "by": ["session"]}', "requests-by-session"),
        ('{"count": "cost", "limit": 1, "period": "week"}', "cost-per-week"),
        (
            '{"count": "requests", "limit": 1, "period": "day", "time_zone": "Asia/Tokyo"}',
            "requests-per-day",
        ),
        (
            '{"count": "requests", "limit": 1, "period": "day", "window": "calendar"}',
            "requests-per-calendar-day",
        ),
        (
            '{"count": "cost", "limit": 1, "period": "day", "window": "rolling"}',
            "cost-per-rolling-day",
        ),
        (
            '{"count": "requests", "limit": 1, "period": "minute", "models": ["small", "big"]}',
            "requests-per-minute-for-big+small",
        ),
        (
            '{"count": "concurrency", "limit": 1, "models": ["org/llama-*"], "pools": ["chat"]}',
            "concurrency-for-org/llama-*-in-chat",
        ),
    ],
)
def test_limits_are_named_by_what_they_count(text: str, name: str) -> None:
    assert Limit.model_validate_json(text).effective_name == name


def test_limits_of_other_requests_have_other_names_and_no_name_is_long() -> None:
    def name(**more: object) -> str:
        limit = {"count": "requests", "limit": 1, "period": "day", **more}
        return Limit.model_validate_json(orjson.dumps(limit)).effective_name

    kinds: list[dict[str, object]] = [
        {"models": models, "pools": pools}
        for pools in ([], ["b"], ["a"], ["a", "b"], ["x" * 60])
        for models in ([], ["a+b"], ["a", "b"], ["a-in-b"], ["a b"], ["a_b"], ["a|key=k"])
    ]
    kinds += [{"models": ["m" * 200 + end]} for end in "xy"]
    kinds += [{"window": "calendar"}, {"by": ["key"]}]
    names = {name(**kind) for kind in kinds}
    assert len(names) == len(kinds)
    assert max(map(len, names)) <= 96
    assert not any("|" in one for one in names)
    assert name(models=["a", "b"], limit=5) == name(models=["b", "a", "a"])


MICROS = st.integers(1, 10**15)


@given(MICROS)
def test_amounts_travel_exactly(micros: int) -> None:
    amount = Decimal(micros).scaleb(-6)
    limit = Limit(count="cost", limit=amount, period="day")
    assert limit.limit == amount
    assert Limit.model_validate_json(limit.model_dump_json()) == limit


def test_what_is_counted_has_one_name_whatever_period_and_window() -> None:
    def thing(**more: object) -> str:
        return Limit.model_validate_json(
            orjson.dumps({"count": "requests", "limit": 1} | more)
        ).thing

    same: list[dict[str, object]] = [
        {"period": "day", "by": ["user"]},
        {"period": "week", "window": "calendar", "by": ["user"]},
        {"period": "minute", "burst": 9, "by": ["user"]},
    ]
    assert {thing(**more) for more in same} == {"requests-by-user"}
    named: list[dict[str, object]] = [
        {"name": "n", "period": "day"},
        {"name": "n", "period": "hour", "models": ["a"]},
    ]
    assert {thing(**more) for more in named} == {"requests:n"}
    assert thing(name="n", period="day", count="input_tokens") == "input_tokens:n"
