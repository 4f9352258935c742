"""What was settled and waits to be written to the journal: charges of lasting counts, and
usage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Final, NamedTuple

from gateway.limits.memory.usage_rows import summed
from gateway.limits.usage import UsageRecord
from policies.limits.types import (
    NOMINAL_MS,
    CalendarWindow,
    Lifetime,
    Period,
    Rule,
    TokenBucket,
)

_HOUR_MS: Final = NOMINAL_MS[Period.HOUR]


def lasts(rule: Rule) -> bool:
    """Whether a count of the rule is kept over restarts: see `gateway.limits.memory.journal`."""
    if isinstance(rule, TokenBucket):
        period_ms = rule.period_ms
        return period_ms >= _HOUR_MS or rule.capacity * period_ms >= _HOUR_MS * rule.refill
    if isinstance(rule, Lifetime):
        return rule.idle_ms >= _HOUR_MS
    return isinstance(rule, CalendarWindow) and NOMINAL_MS[rule.period] >= _HOUR_MS


class Charge(NamedTuple):
    """A charge to a lasting count."""

    slot: str
    tally: str
    rule: Rule
    amount: int
    at_ms: int
    begins: bool = False
    """The count is new to its tally, and replaces one that the file has."""


Whose = tuple[str, date, str, str, str]
"""Tenant, day, key, user and model of usage."""


@dataclass(slots=True)
class Batch:
    """Charges and usage that are to be written together."""

    charges: list[Charge] = field(default_factory=list)
    usages: dict[Whose, UsageRecord] = field(default_factory=dict)
    """Summed by whose they are; the oldest first."""

    def __len__(self) -> int:
        return len(self.charges) + len(self.usages)

    def add(self, slot: str, usage: UsageRecord) -> None:
        """Add the usage of a settlement."""
        whose = (slot, usage.day, usage.key, usage.user, usage.model)
        known = self.usages.get(whose)
        self.usages[whose] = usage if known is None else summed(known, usage)

    def put_back(self, older: Batch) -> None:
        """Put an older batch, which could not be written, before this one."""
        self.charges[:0] = older.charges
        newer, self.usages = self.usages, dict(older.usages)
        for (slot, *_), usage in newer.items():
            self.add(slot, usage)

    def drop_oldest(self, keep: int) -> int:
        """Keep about ``keep`` charges and usages, the newest. Returns how many charges and
        settlements are dropped."""
        charges = self.charges[: max(0, len(self.charges) - keep // 2)]
        usages = list(self.usages)[: max(0, len(self.usages) - keep // 2)]
        dropped = Batch(charges, {whose: self.usages.pop(whose) for whose in usages})
        del self.charges[: len(charges)]
        return dropped.settlements

    @property
    def settlements(self) -> int:
        """Number of charges, and of settlements whose usage is in it."""
        return len(self.charges) + sum(usage.requests for usage in self.usages.values())

    def pieces(self) -> Iterator[Batch]:
        """Each charge and each usage as a batch of its own."""
        for charge in self.charges:
            yield Batch([charge])
        for whose, usage in self.usages.items():
            yield Batch(usages={whose: usage})
