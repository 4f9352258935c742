"""Standings and usage rows as messages of proto/control.proto, and back."""

from __future__ import annotations

from datetime import date
from typing import Final

from gateway.limits.usage import COUNTS, UsageRecord
from picker.wire import control_pb2
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Rule,
    Standing,
    TokenBucket,
)

_SAME: Final = ("key", "user", "model", *COUNTS)
"""Fields that a row and its message both have."""


def from_standing(standing: Standing) -> control_pb2.Standing:
    """The message of a standing."""
    bucket = standing.bucket
    message = control_pb2.Standing(
        key=bucket.key,
        name=bucket.name,
        dimension=bucket.dimension.value,
        shadow=bucket.shadow,
        remaining=standing.remaining,
        reset_ms=standing.reset_ms,
    )
    match bucket.rule:
        case TokenBucket(capacity, refill, period_ms):
            message.token_bucket.capacity = capacity
            message.token_bucket.refill = refill
            message.token_bucket.period_ms = period_ms
        case CalendarWindow(limit, period):
            message.calendar_window.limit = limit
            message.calendar_window.period = period.value
        case Concurrency(limit):
            message.concurrency.limit = limit
    return message


def to_standing(message: control_pb2.Standing) -> Standing:
    """The standing of a message."""
    bucket = Bucket(
        key=message.key,
        dimension=Dimension(message.dimension),
        rule=_rule(message),
        name=message.name,
        shadow=message.shadow,
    )
    return Standing(bucket, bucket.limit, message.remaining, message.reset_ms)


def _rule(message: control_pb2.Standing) -> Rule:
    kind = message.WhichOneof("rule")
    if kind == "token_bucket":
        bucket = message.token_bucket
        return TokenBucket(bucket.capacity, bucket.refill, bucket.period_ms)
    if kind == "calendar_window":
        window = message.calendar_window
        return CalendarWindow(window.limit, Period(window.period))
    return Concurrency(message.concurrency.limit)


def from_record(record: UsageRecord) -> control_pb2.UsageRow:
    """The message of a row."""
    rest = {name: getattr(record, name) for name in _SAME}
    return control_pb2.UsageRow(day=record.day.isoformat(), **rest)


def to_record(message: control_pb2.UsageRow) -> UsageRecord:
    """The row of a message."""
    rest = {name: getattr(message, name) for name in _SAME}
    return UsageRecord(day=date.fromisoformat(message.day), **rest)
