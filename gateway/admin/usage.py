"""Adds usage rows up by the groups of a request."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from gateway.limits.usage import COUNTS, UsageRecord

GROUPS: Final = ("month", "day", "tenant", "key", "user", "model")
"""The properties of a row by which rows can be grouped."""
MAX_ROWS: Final = 200_000
"""Largest number of rows of an answer."""
MICROS: Final = 1_000_000
_SHOWN: Final = ("requests", "input_tokens", "cached_tokens", "output_tokens", "total_tokens")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class TooManyRows(Exception):  # noqa: N818 - reads as what it is
    """More than MAX_ROWS groups."""


@dataclass(slots=True)
class Sum:
    """The sums of a group of rows."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_micros: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens

    def add(self, row: UsageRecord) -> None:
        """Add a row."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(row, name))

    def as_json(self) -> dict[str, object]:
        """Counts by name; ``cost`` in units of money."""
        counts: dict[str, object] = {name: getattr(self, name) for name in _SHOWN}
        return {**counts, "cost": self.cost_micros / MICROS}


@dataclass(slots=True)
class UsageTable:
    """Sums by group, and of everything."""

    by: tuple[str, ...]
    """Some of GROUPS."""
    total: Sum = field(default_factory=Sum)
    _sums: dict[tuple[str, ...], Sum] = field(default_factory=dict)

    def add(self, tenant: str, row: UsageRecord) -> None:
        """Add a row of a tenant. Raises TooManyRows."""
        key = tuple(_value(name, tenant, row) for name in self.by)
        found = self._sums.get(key)
        if found is None:
            if len(self._sums) == MAX_ROWS:
                raise TooManyRows
            found = self._sums[key] = Sum()
        found.add(row)
        self.total.add(row)

    def rows(self) -> Iterator[tuple[tuple[str, ...], Sum]]:
        """The groups in order, with their sums."""
        yield from sorted(self._sums.items(), key=lambda item: item[0])

    def as_json(self) -> dict[str, object]:
        """``by``, ``rows`` and their ``total``."""
        rows = [dict(zip(self.by, key, strict=True)) | one.as_json() for key, one in self.rows()]
        return {"by": self.by, "rows": rows, "total": self.total.as_json()}

    def as_csv(self) -> str:
        """A line of names, then a line for each group (RFC 4180). Clients choose the names of
        users: a name that a spreadsheet would take for a formula gets an apostrophe in front, and a
        character that does not print, such as a line break, becomes U+FFFD."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow((*self.by, *_SHOWN, "cost"))
        for key, one in self.rows():
            counts = [getattr(one, name) for name in _SHOWN]
            writer.writerow((*map(_cell, key), *counts, money(one.cost_micros)))
        return out.getvalue()


def money(micros: int) -> str:
    """Micro-units of money as a decimal number of units."""
    return f"{Decimal(micros) / MICROS:.6f}"


def _value(group: str, tenant: str, row: UsageRecord) -> str:
    if group == "tenant":
        return tenant
    if group == "month":
        return row.day.isoformat()[:7]
    return str(getattr(row, group))


def _cell(value: str) -> str:
    formula = "'" if value.startswith(_FORMULA) else ""
    return formula + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)


def groups_of(names: Sequence[str]) -> tuple[str, ...]:
    """The groups of these names, each once. Raises ValueError, which says what is allowed."""
    found = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in found:
        if name not in GROUPS:
            raise ValueError(f"cannot group by {name!r}; possible are {', '.join(GROUPS)}")
    return found
