"""The interface to the usage that a limit store has counted, and its rows.

Usage is written by settlements: see `gateway.limits.buckets.BucketStore.settle`.
"""

from __future__ import annotations

from datetime import date
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from policies.limits.types import MAX_AMOUNT

USAGE_DAYS: Final = 400
"""How long usage rows are kept, by default."""
MAX_USERS_PER_DAY: Final = 10_000
"""Largest number of usage rows of a tenant and day that name a user, by default."""
OTHERS: Final = "(others)"
"""User of the row that counts the usage of further users."""


class UsageRecord(Struct, frozen=True):
    """The usage of a day (UTC) by one key and user of a tenant with one model.

    ``cached_tokens`` are part of ``input_tokens``; ``cost_micros`` are micro-units of money.
    """

    day: date
    key: str
    user: str
    model: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_micros: int
    requests: int = 1


COUNTS: Final = ("requests", "input_tokens", "cached_tokens", "output_tokens", "cost_micros")
"""The fields of a `UsageRecord` that are counted."""


def bounded(usage: UsageRecord) -> UsageRecord:
    """The usage of one settlement as it is counted: each number from 0 to MAX_AMOUNT."""
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    cached_tokens, cost_micros, requests = usage.cached_tokens, usage.cost_micros, usage.requests
    counts = (input_tokens, output_tokens, cached_tokens, cost_micros, requests)
    if min(counts) >= 0 and max(counts) <= MAX_AMOUNT:
        return usage
    return replace(
        usage, **{name: min(max(0, getattr(usage, name)), MAX_AMOUNT) for name in COUNTS}
    )


class UsageStore(Protocol):
    """Reads usage by slot. Both methods raise StoreUnavailable."""

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """One summed row for each day, key, user and model, in this order, both days included."""
        ...

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """The slots that have usage on any of the days, both included, by name. A slot whose
        settlements came to nothing may be among them."""
        ...
