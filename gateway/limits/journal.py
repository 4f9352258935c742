"""What a memory store must know after a restart, in a SQLite file: usage, and buckets that last.

Written behind: what is settled is collected and written by a thread `FLUSH_S` later, one
transaction each time. A process that is killed (SIGKILL) loses what was settled in the last
`FLUSH_S` and nothing else, charges and usage alike; a clean close loses nothing. A machine that
loses its power may lose the last few seconds, never more of the file (WAL, synchronous NORMAL).

Buckets that last are those whose loss would matter: calendar windows of an hour and longer, token
buckets with a refill period, or a time from empty to full, of an hour and longer. The file has what
was *settled*, not what was held: requests in flight at the end of the process hold nothing
afterwards.

While the file cannot be written (disk full, locked by somebody for seconds) what is settled waits
here, up to a bound, and is tried again every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from gateway.limits.ledger import in_order, names_a_user, oldest_day, summed
from gateway.limits.rules import rule_of, rule_text
from gateway.limits.store import (
    MAX_USERS_PER_DAY,
    OTHERS,
    USAGE_DAYS,
    StoreUnavailable,
    UsageRecord,
)
from policies.limits import arithmetic
from policies.limits.arithmetic import State
from policies.limits.types import NOMINAL_MS, CalendarWindow, LimitError, Period, Rule, TokenBucket

FLUSH_S: Final = 0.1
"""How long what was settled waits to be written."""

_LOG: Final = logging.getLogger("penstock.limits")
_RETRY_S: Final = 1.0
_MAX_WAITING: Final = 200_000
_BUSY_S: Final = 5.0
_HOUR_MS: Final = NOMINAL_MS[Period.HOUR]
_FAR_MS: Final = 2**62
_MAX_COUNTED: Final = 100_000

T = TypeVar("T")

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
    """A bucket as the file has it, advanced to the instant of reading."""

    slot: str
    key: str
    rule: Rule
    state: State


@dataclass(slots=True)
class JournalCounters:
    """For metrics; each only grows."""

    flushes: int = 0
    failures: int = 0
    """Transactions that did not succeed; they are tried again."""
    lost: int = 0
    """Charges and usage records given up: too many waited, or the last attempt failed."""


@dataclass(slots=True)
class _Waiting:
    charges: list[Charge]
    usages: list[tuple[str, UsageRecord]]

    def __len__(self) -> int:
        return len(self.charges) + len(self.usages)


class Journal:
    """The file. Calls come from one event loop; a thread of its own has the database."""

    def __init__(
        self,
        path: Path,
        *,
        usage_days: int = USAGE_DAYS,
        max_users_per_day: int = MAX_USERS_PER_DAY,
        flush_s: float = FLUSH_S,
        max_waiting: int = _MAX_WAITING,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Opens or makes the file, readable by its owner alone, and its tables; others may keep
        theirs in it, too. Raises OSError or sqlite3.Error when that cannot be."""
        self.counters = JournalCounters()
        self._usage_days = usage_days
        self._max_users = max_users_per_day
        self._flush_s = flush_s
        self._max_waiting = max_waiting
        self._clock_ms = clock_ms
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._db = sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_TABLES)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="limits journal")
        self._waiting = _Waiting([], [])
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._users: dict[tuple[str, str], int] = {}
        self._tidied: date | None = None

    def buckets(self) -> Iterator[SavedBucket]:
        """All that are not as good as fresh by now. Before anything else is asked."""
        now_ms = self._clock_ms()
        for slot, key, text, value, carry, at_ms in self._db.execute(
            "SELECT tenant, bucket, rule, value, carry, at_ms FROM limits_buckets"
        ):
            try:
                rule = rule_of(text)
            except LimitError as error:
                _LOG.warning("bucket %r of %r is forgotten: %s", key, slot, error)
                continue
            state = arithmetic.advance(rule, State(value, carry, at_ms), now_ms)
            if not arithmetic.is_idle(rule, state):
                yield SavedBucket(slot, key, rule, state)

    def charge(self, slot: str, key: str, rule: Rule, amount: int, at_ms: int) -> None:
        """Note what a bucket that lasts was charged."""
        self._waiting.charges.append(Charge(slot, key, rule, amount, at_ms))
        if self._timer is None:
            self._wait(self._flush_s)

    def add(self, slot: str, usage: UsageRecord) -> None:
        """Note usage."""
        self._waiting.usages.append((slot, usage))
        if self._timer is None:
            self._wait(self._flush_s)

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `LimitStore.usage`. With everything that was settled before."""
        rows = {_whose(row): row for row in await self._ask(lambda: self._rows(slot, first, last))}
        for whom, usage in self._waiting.usages:  # only while the file cannot be written
            if whom == slot and first <= usage.day <= last:
                known = rows.get(_whose(usage))
                rows[_whose(usage)] = usage if known is None else summed(known, usage)
        return in_order(rows.values())

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `LimitStore.usage_slots`."""
        slots = set(await self._ask(lambda: self._slots(first, last)))
        slots.update(slot for slot, usage in self._waiting.usages if first <= usage.day <= last)
        return sorted(slots)

    async def close(self) -> None:
        """Write what waits, once, and close the file."""
        written = self._write_soon()
        if written is not None:
            await asyncio.wait({written})
        await asyncio.sleep(0)  # its outcome is noted
        if self._timer is not None:
            self._timer.cancel()
        if self._waiting:
            _LOG.error("%d charges and usage records are lost", len(self._waiting))
            self.counters.lost += len(self._waiting)
        self._thread.shutdown()
        self._db.close()

    def _wait(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._write_soon)

    def _write_soon(self) -> asyncio.Future[None] | None:
        """Have the thread write what waits, before whatever it is asked later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return None
        batch, self._waiting = self._waiting, _Waiting([], [])
        written = asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch)
        written.add_done_callback(lambda done: self._written(batch, done.exception()))
        return written

    def _written(self, batch: _Waiting, error: BaseException | None) -> None:
        if error is None:
            self.counters.flushes += 1
            if self._failing:
                _LOG.warning("the journal of limits can be written again")
            self._failing = False
            return
        self.counters.failures += 1
        if not isinstance(error, sqlite3.Error):  # it would fail each time, and stop all others
            self.counters.lost += len(batch)
            _LOG.error("%d charges and usage records cannot be written", len(batch), exc_info=error)
            return
        if not self._failing:
            _LOG.error("the journal of limits cannot be written, trying again: %s", error)
        self._failing = True
        waiting = self._waiting
        waiting.charges[:0] = batch.charges
        waiting.usages[:0] = batch.usages
        too_many = [
            max(0, len(waiting.charges) - self._max_waiting),
            max(0, len(waiting.usages) - self._max_waiting),
        ]
        if any(too_many):
            del waiting.charges[: too_many[0]]
            del waiting.usages[: too_many[1]]
            self.counters.lost += sum(too_many)
            _LOG.error("%d charges and usage records are lost so far", self.counters.lost)
        if self._timer is not None:
            self._timer.cancel()
        self._wait(_RETRY_S)

    async def _ask(self, read: Callable[[], list[T]]) -> list[T]:
        self._write_soon()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, read)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the journal of limits cannot be read: {error}") from error

    # What follows runs in the thread.

    def _write(self, batch: _Waiting) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._charge(batch.charges)
            for slot, usage in batch.usages:
                self._add(slot, usage)
            self._tidy()
            self._db.execute("COMMIT")
        except BaseException:
            self._users.clear()
            self._tidied = None
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _charge(self, charges: Sequence[Charge]) -> None:
        by_bucket: dict[tuple[str, str], list[Charge]] = {}
        for charge in charges:
            by_bucket.setdefault((charge.slot, charge.key), []).append(charge)
        self._db.executemany(
            "INSERT OR REPLACE INTO limits_buckets VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (*whose, rule_text(rule), *state, min(_FAR_MS, arithmetic.reset_at_ms(rule, state)))
                for whose, (rule, state) in (
                    (whose, self._charged(whose, some)) for whose, some in by_bucket.items()
                )
            ),
        )

    def _charged(self, whose: tuple[str, str], charges: Sequence[Charge]) -> tuple[Rule, State]:
        found = self._db.execute(
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
            and not self._db.execute(
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
        self._db.execute(
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
        (count,) = self._db.execute(
            "SELECT COUNT(*) FROM usage_rows WHERE tenant = ? AND day = ? AND user NOT IN ('', ?)",
            (slot, day, OTHERS),
        ).fetchone()
        return int(count)

    def _tidy(self) -> None:
        """Once a day: forget usage that is too old, and buckets as good as fresh."""
        now_ms = self._clock_ms()
        oldest = oldest_day(now_ms, self._usage_days)
        if oldest != self._tidied:
            self._db.execute("DELETE FROM usage_rows WHERE day < ?", (oldest.isoformat(),))
            self._db.execute("DELETE FROM limits_buckets WHERE fresh_at_ms <= ?", (now_ms,))
            self._tidied = oldest

    def _rows(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        return [
            UsageRecord(date.fromisoformat(day), *rest)
            for day, *rest in self._db.execute(
                "SELECT day, key, user, model, input_tokens, cached_tokens, output_tokens,"
                " cost_micros, requests FROM usage_rows WHERE tenant = ? AND day BETWEEN ? AND ?",
                (slot, first.isoformat(), last.isoformat()),
            )
        ]

    def _slots(self, first: date, last: date) -> list[str]:
        return [
            slot
            for (slot,) in self._db.execute(
                "SELECT DISTINCT tenant FROM usage_rows WHERE day BETWEEN ? AND ?",
                (first.isoformat(), last.isoformat()),
            )
        ]


def lasts(rule: Rule) -> bool:
    """Whether the bucket's loss would matter: see above."""
    if isinstance(rule, TokenBucket):
        period_ms = rule.period_ms
        return period_ms >= _HOUR_MS or rule.capacity * period_ms >= _HOUR_MS * rule.refill
    return isinstance(rule, CalendarWindow) and NOMINAL_MS[rule.period] >= _HOUR_MS


def _whose(row: UsageRecord) -> tuple[date, str, str, str]:
    return row.day, row.key, row.user, row.model
