"""Usage rows in memory, by day, tenant, key, user and model; their number is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta

from msgspec.structs import replace

from gateway.limits.usage import OTHERS, UsageRecord

MAX_SUM = 2**63 - 1
"""A sum does not grow above this: Redis and SQLite have no larger numbers."""

_Whose = tuple[str, str, str]


class _Day:
    """The rows of a tenant on a day."""

    __slots__ = ("rows", "users")

    def __init__(self) -> None:
        self.rows: dict[_Whose, UsageRecord] = {}
        self.users = 0
        """Number of rows that name a user."""


class UsageRows:
    """`UsageStore` whose rows end with this process."""

    def __init__(
        self, *, usage_days: int, max_users_per_day: int, clock_ms: Callable[[], int]
    ) -> None:
        """``max_users_per_day``: see `BucketStore.settle`. ``clock_ms``: since the Unix epoch."""
        self._clock_ms = clock_ms
        self._usage_days = usage_days
        self._max_users = max_users_per_day
        self._days: dict[date, dict[str, _Day]] = {}

    def add(self, slot: str, usage: UsageRecord) -> None:
        """Add the usage of a settlement, and forget the days that are too old."""
        slots = self._days.get(usage.day)
        if slots is None:
            self._days[usage.day] = slots = {}
            oldest = oldest_day(self._clock_ms(), self._usage_days)
            for past in [past for past in self._days if past < oldest]:
                del self._days[past]
        day = slots.get(slot)
        if day is None:
            day = slots[slot] = _Day()
        whose = (usage.key, usage.user, usage.model)
        known = day.rows.get(whose)
        if known is None and names_a_user(usage.user):
            if day.users >= self._max_users:
                usage = replace(usage, user=OTHERS)
                whose = (usage.key, OTHERS, usage.model)
                known = day.rows.get(whose)
            else:
                day.users += 1
        day.rows[whose] = usage if known is None else summed(known, usage)

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `UsageStore.usage`."""
        return in_order(
            row
            for day, slots in self._days.items()
            if first <= day <= last and slot in slots
            for row in slots[slot].rows.values()
        )

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `UsageStore.usage_slots`."""
        return sorted(
            {slot for day, slots in self._days.items() if first <= day <= last for slot in slots}
        )


def names_a_user(user: str) -> bool:
    """Whether the row counts towards ``max_users_per_day``. The number of the other rows is bounded
    by the keys and models."""
    return user not in ("", OTHERS)


def oldest_day(now_ms: int, usage_days: int) -> date:
    """The first day that is still kept, UTC."""
    return datetime.fromtimestamp(now_ms / 1_000, UTC).date() - timedelta(days=usage_days)


def in_order(rows: Iterable[UsageRecord]) -> list[UsageRecord]:
    """The rows sorted by day, key, user and model."""
    return sorted(rows, key=lambda row: (row.day, row.key, row.user, row.model))


def summed(one: UsageRecord, other: UsageRecord) -> UsageRecord:
    """The sum of two rows of the same day, key, user and model."""
    return UsageRecord(
        one.day,
        one.key,
        one.user,
        one.model,
        input_tokens=min(MAX_SUM, one.input_tokens + other.input_tokens),
        cached_tokens=min(MAX_SUM, one.cached_tokens + other.cached_tokens),
        output_tokens=min(MAX_SUM, one.output_tokens + other.output_tokens),
        cost_micros=min(MAX_SUM, one.cost_micros + other.cost_micros),
        requests=min(MAX_SUM, one.requests + other.requests),
    )
