"""Usage in Redis: for each tenant and day a hash of sums, and for each day the set of its tenants.

Sums are Redis's own 64-bit integers. The keys expire, a day at a time. A tenant's hash has the
tenant's hash tag, because ``settle.lua`` writes it; the sets of tenants have none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import date, timedelta
from functools import partial
from typing import Final, cast

import orjson

from gateway.limits.redis.client import Client, in_time
from gateway.limits.redis.line import Call, ScriptLine
from gateway.limits.usage import COUNTS, OTHERS, UsageRecord

PATIENCE_S: Final = 1.0
"""Shortest timeout of calls that no request waits for: recovery, and reading usage."""

_LOG: Final = logging.getLogger("penstock.limits")
_SCAN: Final = 1_000
_LISTED_DAYS: Final = 4
_ROWS: Final = b"#"
_METRICS: Final = dict(zip("nihoc", COUNTS, strict=True))
"""What a field of the hash counts, by the field's first letter."""


class RedisUsage:
    """`UsageStore` in Redis, and the keys and arguments with which ``settle.lua`` counts usage."""

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        timeout_s: float,
        usage_days: int,
        max_users_per_day: int,
    ) -> None:
        """``timeout_s``: of a round trip, but at least `PATIENCE_S`."""
        self._client = client
        self._prefix = prefix
        self._timeout_s = max(timeout_s, PATIENCE_S)
        self._keep_s = usage_days * 86_400
        self._max_users = max_users_per_day
        self._listed: dict[date, set[str]] = {}
        self.uncounted = 0
        """Settlements whose usage could not be counted in full; their charges are right."""

    def key(self, slot: str, day: date) -> str:
        """The hash of a tenant and day."""
        return f"{self._prefix}{{t:{slot}}}:u:{day.isoformat()}"

    def arguments(self, usage: UsageRecord) -> list[str | int]:
        """Of ``settle.lua``, to count the usage."""
        return [
            self._keep_s,
            self._max_users,
            _whose(usage, usage.user),
            _whose(usage, OTHERS if usage.user else ""),
            *(getattr(usage, name) for name in COUNTS),
        ]

    def list_slot(self, slot: str, day: date, line: ScriptLine, timeout_s: float) -> None:
        """Put the tenant into the set of the day, if it may not be there. Call it before its usage
        is counted."""
        listed = self._listed.get(day)
        if listed is None:
            listed = self._listed[day] = set()
            while len(self._listed) > _LISTED_DAYS:
                del self._listed[next(iter(self._listed))]
        if slot in listed:
            return
        listed.add(slot)
        key = self._listing_key(day)

        def done(answer: asyncio.Future[object]) -> None:
            if answer.cancelled() or answer.exception() is not None:
                listed.discard(slot)  # the next settlement lists it

        for words in (("SADD", key, slot), ("EXPIRE", key, self._keep_s)):
            line.begin(Call(words, timeout_s)).add_done_callback(done)

    def unlist(self, slot: str, day: date) -> None:
        """The tenant's usage of the day is new, or was lost: it may not be in the set."""
        self._listed.get(day, set()).discard(slot)

    def unlist_all(self) -> None:
        """There is a new connection: the sets may be gone."""
        self._listed.clear()

    def not_counted(self, slot: str, usage: UsageRecord) -> None:
        """A settlement's usage could not be counted in full."""
        self.uncounted += 1
        if self.uncounted % 1_000 == 1:
            _LOG.error(
                "usage of %r cannot be counted in full (%d settlements so far): %r",
                *(slot, self.uncounted, usage),
            )

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `UsageStore.usage`. It takes a round trip for each day and 1,000 fields."""
        rows: list[UsageRecord] = []
        for day in _days(first, last):
            key, fields = self.key(slot, day), dict[bytes, bytes]()
            await self._scan(partial(self._client.hscan, key, count=_SCAN), fields)
            rows += _rows(day, fields)
        return rows

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `UsageStore.usage_slots`. It takes a round trip for each day and 1,000 tenants."""
        slots: set[bytes] = set()
        for day in _days(first, last):
            key = self._listing_key(day)
            await self._scan(partial(self._client.sscan, key, count=_SCAN), slots)
        return sorted(slot.decode() for slot in slots)

    async def _scan(
        self, ask: Callable[[int], object], found: set[bytes] | dict[bytes, bytes]
    ) -> None:
        """Put everything into ``found``. ``ask``: a command of redis-py that takes a cursor."""
        cursor = 0
        while True:
            asked = cast("Awaitable[tuple[int, dict[bytes, bytes]]]", ask(cursor))
            cursor, some = await in_time(asked, self._timeout_s)
            found.update(some)
            if not cursor:
                return

    def _listing_key(self, day: date) -> str:
        return f"{self._prefix}u:{day.isoformat()}"


def _days(first: date, last: date) -> Iterable[date]:
    return (first + timedelta(days=offset) for offset in range((last - first).days + 1))


def _whose(usage: UsageRecord, user: str) -> str:
    return orjson.dumps([usage.key, user, usage.model]).decode()


def _rows(day: date, fields: Mapping[bytes, bytes]) -> list[UsageRecord]:
    counts: dict[bytes, dict[str, int]] = {}
    for name, value in fields.items():
        if name != _ROWS:
            counts.setdefault(name[1:], {})[_METRICS[chr(name[0])]] = int(value)
    nothing = dict.fromkeys(_METRICS.values(), 0)
    rows = []
    for whose, counted in counts.items():
        key, user, model = orjson.loads(whose)
        rows.append(UsageRecord(day, key, user, model, **(nothing | counted)))
    return sorted(rows, key=lambda row: (row.key, row.user, row.model))
