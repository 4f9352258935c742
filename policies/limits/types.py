"""The nouns of limits: dimensions, rules, buckets, takes, holds and standings.

Amounts are whole numbers: requests, tokens, micro-units of money. Instants are whole milliseconds
since the Unix epoch, durations whole milliseconds. Nothing here is a float, so nothing drifts.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

MAX_LIMIT: Final = 10**15
"""Largest capacity, limit or refill. The Redis scripts compute in doubles, which are exact below
2^53. This bound and `MAX_AMOUNT` keep their numbers below it: only a debt of 8,000 times MAX_AMOUNT
would exceed it."""
MAX_AMOUNT: Final = 10**12
"""Largest amount of one take or one charge."""
MAX_PERIOD_MS: Final = 2**32 - 1
"""Longest refill period (49.7 days). The Redis scripts split products of two such numbers at
2^20."""

SECOND_MS: Final = 1_000
DAY_MS: Final = 86_400_000
UTC: Final = "UTC"
"""The time zone of windows that name none."""


class LimitError(ValueError):
    """A rule, bucket or amount is not possible; the message says which value is wrong and what
    would be right."""


class Dimension(enum.StrEnum):
    """What a bucket counts."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOTAL_TOKENS = "total_tokens"
    WEIGHTED_TOKENS = "weighted_tokens"
    CONCURRENCY = "concurrency"
    """Requests in flight."""
    MONEY = "money"
    """Micro-units of the price table's currency."""


TOKEN_DIMENSIONS: Final = frozenset(
    {
        Dimension.INPUT_TOKENS,
        Dimension.OUTPUT_TOKENS,
        Dimension.TOTAL_TOKENS,
        Dimension.WEIGHTED_TOKENS,
    }
)


class Period(enum.StrEnum):
    """A calendar unit. A week begins on Monday."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


NOMINAL_MS: Final = {
    Period.SECOND: SECOND_MS,
    Period.MINUTE: 60 * SECOND_MS,
    Period.HOUR: 3_600 * SECOND_MS,
    Period.DAY: DAY_MS,
    Period.WEEK: 7 * DAY_MS,
    Period.MONTH: 30 * DAY_MS,
}
"""Length of a period as a refill interval; a month has 30 days there."""


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """Starts full with ``capacity``, and gains ``refill`` in each ``period_ms``, continuously.

    Raises LimitError unless 1 <= capacity, refill <= MAX_LIMIT and 1 <= period_ms <= MAX_PERIOD_MS.
    """

    capacity: int
    refill: int
    period_ms: int

    def __post_init__(self) -> None:
        _whole("capacity", self.capacity, MAX_LIMIT)
        _whole("refill", self.refill, MAX_LIMIT)
        _whole("period_ms", self.period_ms, MAX_PERIOD_MS)

    @classmethod
    def per(cls, period: Period, limit: int, *, burst: int | None = None) -> TokenBucket:
        """``limit`` in each period, at most ``burst`` (None: ``limit``) at once. A month has 30
        days."""
        return cls(limit if burst is None else burst, limit, NOMINAL_MS[period])


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """At most ``limit`` in each calendar period of a time zone.

    Raises LimitError unless 1 <= limit <= MAX_LIMIT and the zone is known.
    """

    limit: int
    period: Period
    zone: str = UTC
    """A name of the IANA database, such as ``Europe/Berlin``."""

    def __post_init__(self) -> None:
        _whole("limit", self.limit, MAX_LIMIT)
        if self.zone != UTC:
            check_zone(self.zone)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """At most ``limit`` until nobody has asked for ``idle_ms``; then counting starts again. A
    refused request asks, too.

    Raises LimitError unless 1 <= limit <= MAX_LIMIT and 1 <= idle_ms <= MAX_PERIOD_MS.
    """

    limit: int
    idle_ms: int

    def __post_init__(self) -> None:
        _whole("limit", self.limit, MAX_LIMIT)
        _whole("idle_ms", self.idle_ms, MAX_PERIOD_MS)


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most ``limit`` held at once. Raises LimitError unless 1 <= limit <= MAX_LIMIT."""

    limit: int

    def __post_init__(self) -> None:
        _whole("limit", self.limit, MAX_LIMIT)


Rule = TokenBucket | CalendarWindow | Lifetime | Concurrency


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit of one descriptor."""

    key: str
    """Unique within the tenant, and the same after a restart: see `LimitRule.bucket`. What stands
    after its first ``|``, or all of it, is its `tally`."""
    dimension: Dimension
    rule: Rule
    name: str = ""
    """For people: ``tokens per minute of tenant acme``."""
    shadow: bool = False
    """It counts and reports, but never refuses."""
    tally: str = field(init=False, repr=False, compare=False)
    """What is counted: buckets of one tally are limits of the same thing, now or at another time,
    here or at another gateway. What is taken from one is taken from all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tally", tally_of(self.key))

    @property
    def limit(self) -> int:
        """The largest take that it can ever grant."""
        return self.rule.capacity if isinstance(self.rule, TokenBucket) else self.rule.limit


class Take(Struct, frozen=True):
    """An amount wanted from a bucket. Raises LimitError unless 0 <= amount <= MAX_AMOUNT."""

    bucket: Bucket
    amount: int

    def __post_init__(self) -> None:
        if not is_amount(self.amount):
            check_amount(f"amount from {self.bucket.key!r}", self.amount)


class Standing(Struct, frozen=True):
    """How much is left of a bucket, as in the ``x-ratelimit-*`` headers."""

    bucket: Bucket
    limit: int
    remaining: int
    """Never below 0; a debt makes ``reset_ms`` longer."""
    reset_ms: int
    """Time until the bucket is full or its window ends, if nobody takes anything. 0 for
    concurrency."""

    @property
    def reset_s(self) -> float:
        """``reset_ms`` in seconds."""
        return self.reset_ms / 1_000


def tally_of(key: str) -> str:
    """The tally of a bucket with this key."""
    _, bar, tally = key.partition("|")
    return tally if bar else key


def check_zone(name: str) -> None:
    """Raises LimitError unless the time zone is known on this machine."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # not found; no name; a folder
        raise LimitError(_NO_ZONE.format(name)) from error


_NO_ZONE: Final = "{!r} is not a time zone: give a name such as Europe/Berlin"


def is_amount(amount: int) -> bool:
    """Whether it can be taken or charged at once."""
    return type(amount) is int and 0 <= amount <= MAX_AMOUNT


def check_amount(what: str, amount: int) -> None:
    """Raises LimitError unless 0 <= amount <= MAX_AMOUNT."""
    if not is_amount(amount):
        raise LimitError(f"{what} must be a whole number from 0 to {MAX_AMOUNT}, got {amount!r}")


def check_takes(takes: Iterable[Take]) -> None:
    """Raises LimitError when two takes name one bucket key."""
    seen: set[str] = set()
    for take in takes:
        if take.bucket.key in seen:
            raise LimitError(
                f"bucket {take.bucket.key!r} is taken from twice in one reservation:"
                " add the amounts up, or give the buckets different keys"
            )
        seen.add(take.bucket.key)


def _whole(what: str, value: int, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise LimitError(f"{what} must be a whole number from 1 to {most}, got {value!r}")
