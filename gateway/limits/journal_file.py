"""The SQLite file of a journal: its tables, and what is read from and written to them."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

from gateway.limits.ledger import names_a_user, oldest_day
from gateway.limits.rules import rule_of, rule_text
from gateway.limits.store import OTHERS, UsageRecord
from policies.limits import arithmetic
from policies.limits.arithmetic import State
from policies.limits.types import NOMINAL_MS, CalendarWindow, LimitError, Period, Rule, TokenBucket

_LOG: Final = logging.getLogger("penstock.limits")
_BUSY_S: Final = 5.0
_HOUR_MS: Final = NOMINAL_MS[Period.HOUR]
_FAR_MS: Final = 2**62
_MAX_COUNTED: Final = 100_000

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS limits_buckets (
  tenant TEXT NOT NULL, bucket TEXT NOT NULL, rule TEXT NOT NULL,
  value INTEGER NOT NULL, carry INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  fresh_at_ms INTEGER NOT NULL,
  PRIMARY KEY (tenant, bucket)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS usage_rows (
  tenant TEXT NOT NULL, day TEXT NOT NULL, key TEXT NOT NULL, user TEXT NOT NULL,
  model TEXT NOT NULL, requests INTEGER NOT NULL, input_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_micros INTEGER NOT NULL,
  PRIMARY KEY (tenant, day, key, user, model)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS usage_days ON usage_rows (day, tenant);
"""
_ADD: Final = """
INSERT INTO usage_rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
  input_tokens = input_tokens + excluded.input_tokens,
  cached_tokens = cached_tokens + excluded.cached_tokens,
  output_tokens = output_tokens + excluded.output_tokens,
  cost_micros = cost_micros + excluded.cost_micros
"""


class Charge(NamedTuple):
    """What a bucket that lasts was charged."""

    slot: str
    key: str
    rule: Rule
    amount: int
    at_ms: int


class SavedBucket(NamedTuple):
    """A bucket as it was when it was last charged."""

    slot: str
    key: str
    rule: Rule
    state: State


@dataclass(slots=True)
class Batch:
    """What was settled and is to be written."""

    charges: list[Charge]
    usages: list[tuple[str, UsageRecord]]

    def __len__(self) -> int:
        return len(self.charges) + len(self.usages)


class JournalFile:
    """For one thread at a time."""

    def __init__(
        self,
        path: Path,
        *,
        usage_days: int,
        max_users_per_day: int,
        clock_ms: Callable[[], int],
    ) -> None:
        """Opens or makes the file and its tables. Raises OSError or sqlite3.Error."""
        self._usage_days = usage_days
        self._max_users = max_users_per_day
        self._clock_ms = clock_ms
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self.database = sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.executescript(_TABLES)
        self._users: dict[tuple[str, str], int] = {}
        self._tidied: date | None = None

    def close(self) -> None:
        """Let go of it."""
        self.database.close()

    def buckets(self) -> Iterator[SavedBucket]:
        """All that are not as good as fresh by now."""
        for slot, key, text, value, carry, at_ms in self.database.execute(
            "SELECT tenant, bucket, rule, value, carry, at_ms FROM limits_buckets"
            " WHERE fresh_at_ms > ?",
            (self._clock_ms(),),
        ):
            try:
                rule = rule_of(text)
            except LimitError as error:
                _LOG.warning("bucket %r of %r is forgotten: %s", key, slot, error)
                continue
            yield SavedBucket(slot, key, rule, State(value, carry, at_ms))

    def write(self, batch: Batch) -> None:
        """All of it, or nothing. Raises sqlite3.Error."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            self._charge(batch.charges)
            for slot, usage in batch.usages:
                self._add(slot, usage)
            self._tidy()
            self.database.execute("COMMIT")
        except BaseException:
            self._users.clear()
            self._tidied = None
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")
            raise

    def _charge(self, charges: Sequence[Charge]) -> None:
        by_bucket: dict[tuple[str, str], list[Charge]] = {}
        for charge in charges:
            by_bucket.setdefault((charge.slot, charge.key), []).append(charge)
        self.database.executemany(
            "INSERT OR REPLACE INTO limits_buckets VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (*whose, rule_text(rule), *state, min(_FAR_MS, arithmetic.reset_at_ms(rule, state)))
                for whose, (rule, state) in (
                    (whose, self._charged(whose, some)) for whose, some in by_bucket.items()
                )
            ),
        )

    def _charged(self, whose: tuple[str, str], charges: Sequence[Charge]) -> tuple[Rule, State]:
        found = self.database.execute(
            "SELECT rule, value, carry, at_ms FROM limits_buckets WHERE tenant = ? AND bucket = ?",
            whose,
        ).fetchone()
        rule = charges[0].rule
        state = arithmetic.fresh(rule, charges[0].at_ms)
        if found is not None:
            with contextlib.suppress(LimitError):  # `buckets` has said so
                rule, state = rule_of(found[0]), State(*found[1:])
        for charge in charges:
            if charge.rule != rule:
                state = arithmetic.change_rule(rule, charge.rule, state, charge.at_ms)
                rule = charge.rule
            if isinstance(rule, CalendarWindow) and charge.at_ms < state.at_ms:
                continue  # written late, and that window is over
            state = arithmetic.advance(rule, state, charge.at_ms)
            state = arithmetic.settle(rule, state, 0, state.at_ms, charge.amount)
        return rule, state

    def _add(self, slot: str, usage: UsageRecord) -> None:
        day, user = usage.day.isoformat(), usage.user
        if (
            names_a_user(user)
            and not self.database.execute(
                "SELECT 1 FROM usage_rows"
                " WHERE tenant = ? AND day = ? AND key = ? AND user = ? AND model = ?",
                (slot, day, usage.key, user, usage.model),
            ).fetchone()
        ):
            users = self._count_users(slot, day)
            if users >= self._max_users:
                user = OTHERS
            else:
                self._users[slot, day] = users + 1
        self.database.execute(
            _ADD,
            (
                *(slot, day, usage.key, user, usage.model),
                *(usage.requests, usage.input_tokens, usage.cached_tokens),
                *(usage.output_tokens, usage.cost_micros),
            ),
        )

    def _count_users(self, slot: str, day: str) -> int:
        known = self._users.get((slot, day))
        if known is not None:
            return known
        if len(self._users) >= _MAX_COUNTED:
            self._users.clear()
        (count,) = self.database.execute(
            "SELECT COUNT(*) FROM usage_rows WHERE tenant = ? AND day = ? AND user NOT IN ('', ?)",
            (slot, day, OTHERS),
        ).fetchone()
        return int(count)

    def _tidy(self) -> None:
        """Once a day: forget usage that is too old, and buckets as good as fresh."""
        now_ms = self._clock_ms()
        oldest = oldest_day(now_ms, self._usage_days)
        if oldest != self._tidied:
            self.database.execute("DELETE FROM usage_rows WHERE day < ?", (oldest.isoformat(),))
            self.database.execute("DELETE FROM limits_buckets WHERE fresh_at_ms <= ?", (now_ms,))
            self._tidied = oldest

    def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `LimitStore.usage`, in no order. Raises sqlite3.Error."""
        return [
            UsageRecord(date.fromisoformat(day), *rest)
            for day, *rest in self.database.execute(
                "SELECT day, key, user, model, input_tokens, cached_tokens, output_tokens,"
                " cost_micros, requests FROM usage_rows WHERE tenant = ? AND day BETWEEN ? AND ?",
                (slot, first.isoformat(), last.isoformat()),
            )
        ]

    def usage_slots(self, first: date, last: date) -> list[str]:
        """See `LimitStore.usage_slots`. Raises sqlite3.Error."""
        return [
            slot
            for (slot,) in self.database.execute(
                "SELECT DISTINCT tenant FROM usage_rows WHERE day BETWEEN ? AND ?",
                (first.isoformat(), last.isoformat()),
            )
        ]


def lasts(rule: Rule) -> bool:
    """Whether the bucket's loss would matter: see `gateway.limits.journal`."""
    if isinstance(rule, TokenBucket):
        period_ms = rule.period_ms
        return period_ms >= _HOUR_MS or rule.capacity * period_ms >= _HOUR_MS * rule.refill
    return isinstance(rule, CalendarWindow) and NOMINAL_MS[rule.period] >= _HOUR_MS
