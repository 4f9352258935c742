"""The SQLite file of a journal: its tables, and how they are read and written."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

from gateway.limits.memory.batch import Batch, Charge
from gateway.limits.memory.usage_rows import names_a_user, oldest_day
from gateway.limits.rule_text import rule_kind, rule_of, rule_text
from gateway.limits.usage import COUNTS, OTHERS, UsageRecord
from policies.limits import arithmetic
from policies.limits.arithmetic import State
from policies.limits.types import CalendarWindow, LimitError, Rule

_LOG: Final = logging.getLogger("penstock.limits")
_BUSY_S: Final = 5.0
_FAR_MS: Final = 2**62
_MAX_COUNTED: Final = 100_000

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS limits_counts (
  tenant TEXT NOT NULL, tally TEXT NOT NULL, kind TEXT NOT NULL, rule TEXT NOT NULL,
  value INTEGER NOT NULL, carry INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  fresh_at_ms INTEGER NOT NULL,
  PRIMARY KEY (tenant, tally, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS usage_rows (
  tenant TEXT NOT NULL, day TEXT NOT NULL, key TEXT NOT NULL, user TEXT NOT NULL,
  model TEXT NOT NULL, requests INTEGER NOT NULL, input_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_micros INTEGER NOT NULL,
  PRIMARY KEY (tenant, day, key, user, model)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS usage_days ON usage_rows (day, tenant);
"""
_LOAD: Final = """
SELECT tenant, tally, rule, value, carry, at_ms FROM limits_counts AS one
WHERE fresh_at_ms > ? OR EXISTS (SELECT 1 FROM limits_counts AS other
  WHERE other.tenant = one.tenant AND other.tally = one.tally AND other.fresh_at_ms > ?)
"""
"""Also those that are beside others: see `policies.limits.tally.Tally.tidy`."""
_FORGET: Final = """
DELETE FROM limits_counts AS one
WHERE fresh_at_ms <= ? AND NOT EXISTS (SELECT 1 FROM limits_counts AS other
  WHERE other.tenant = one.tenant AND other.tally = one.tally AND other.fresh_at_ms > ?)
"""
_FORGET_BESIDE: Final = (
    "DELETE FROM limits_counts WHERE tenant = ? AND tally = ? AND fresh_at_ms <= ?"
)
"""A count that is as good as fresh at its tally's last charge was not charged: the store does not
have it any more. If it were kept, it would be without that charge after a restart."""
_COPIES: Final = (
    ("SELECT * FROM limits_counts", "REPLACE INTO limits_counts VALUES (?, ?, ?, ?, ?, ?, ?, ?)"),
    ("SELECT * FROM usage_rows", "REPLACE INTO usage_rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
)
_ADD: Final = """
INSERT INTO usage_rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET requests = MIN(requests + excluded.requests, 9223372036854775807),
  input_tokens = MIN(input_tokens + excluded.input_tokens, 9223372036854775807),
  cached_tokens = MIN(cached_tokens + excluded.cached_tokens, 9223372036854775807),
  output_tokens = MIN(output_tokens + excluded.output_tokens, 9223372036854775807),
  cost_micros = MIN(cost_micros + excluded.cost_micros, 9223372036854775807)
"""


class SavedCount(NamedTuple):
    """A count of a tally with its state after its last charge."""

    slot: str
    tally: str
    rule: Rule
    state: State


class JournalFile:
    """Use it from one thread at a time."""

    def __init__(
        self,
        path: Path,
        *,
        usage_days: int,
        max_users_per_day: int,
        clock_ms: Callable[[], int],
    ) -> None:
        """Opens or makes the file and its tables. Raises OSError or sqlite3.Error."""
        self.replaced = 0
        """How often the file was deleted or replaced while it was in use."""
        self._path = path
        self._usage_days = usage_days
        self._max_users = max_users_per_day
        self._clock_ms = clock_ms
        self.database, self._identity = self._opened()
        self._users: dict[tuple[str, str], int] = {}
        self._tidied: date | None = None

    def _opened(self) -> tuple[sqlite3.Connection, _Identity | None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        database = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_TABLES)
        except BaseException:
            database.close()
            raise
        return database, _identity(self._path)

    def follow(self) -> None:
        """If the file was deleted or replaced since it was opened, go on in the file that has its
        name now. All rows are written there, over rows of the same key; its other rows stay.
        Raises OSError or sqlite3.Error, and then nothing has changed."""
        if _identity(self._path) == self._identity:
            return
        database, identity = self._opened()
        try:
            database.execute("BEGIN IMMEDIATE")
            for read, write in _COPIES:
                database.executemany(write, self.database.execute(read))
            database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        self.database.close()
        self.database, self._identity = database, identity
        self._users.clear()
        self._tidied = None
        self.replaced += 1
        _LOG.error(
            "%s was deleted or replaced while in use: usage and limits are in the new file, too;"
            " what others kept in the old one is not",
            self._path,
        )

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def counts(self) -> Iterator[SavedCount]:
        """All counts of tallies that are not as good as fresh by now. A count of a future time was
        written while the clock was ahead: its time becomes the present."""
        now_ms = self._clock_ms()
        ahead: list[SavedCount] = []
        for slot, tally, text, value, carry, at_ms in self.database.execute(
            _LOAD, (now_ms, now_ms)
        ):
            try:
                rule = rule_of(text)
            except LimitError as error:
                _LOG.warning("a count of %r of %r is forgotten: %s", tally, slot, error)
                continue
            saved = SavedCount(slot, tally, rule, State(value, carry, at_ms))
            if at_ms > now_ms + arithmetic.BACK_MS:
                saved = saved._replace(state=arithmetic.advance(rule, saved.state, now_ms))
                ahead.append(saved)
            yield saved
        if ahead:
            _LOG.warning("%d limits were charged while the clock was ahead", len(ahead))
            with self._transaction():
                self._save(ahead)

    def write(self, batch: Batch) -> int:
        """Write all of it or, raising OSError or sqlite3.Error, nothing. Records that can never be
        written are left out and logged. Returns how many charges and settlements these are."""
        self.follow()
        if not batch:
            return 0
        try:
            with self._transaction():
                self._write(batch)
        except Exception as error:
            if not _is_of_a_record(error):
                raise
        else:
            return 0
        bad = 0
        with self._transaction():
            for piece in batch.pieces():
                self.database.execute("SAVEPOINT piece")
                try:
                    self._write(piece)
                except Exception as error:
                    if not _is_of_a_record(error):
                        raise
                    self.database.execute("ROLLBACK TO piece")
                    self._users.clear()
                    bad += piece.settlements
                    _LOG.exception("it cannot be written and is lost: %r", piece)
                self.database.execute("RELEASE piece")
        return bad

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.database.execute("COMMIT")
        except BaseException:
            self._users.clear()
            self._tidied = None
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")
            raise

    def _write(self, batch: Batch) -> None:
        self._charge(batch.charges)
        for (slot, *_), usage in batch.usages.items():
            self._add(slot, usage)
        self._tidy()

    def _charge(self, charges: Sequence[Charge]) -> None:
        by_count: dict[tuple[str, str, str], list[Charge]] = {}
        for charge in charges:
            whose = (charge.slot, charge.tally, rule_kind(charge.rule))
            by_count.setdefault(whose, []).append(charge)
        self._save(
            SavedCount(*whose[:2], *self._charged(whose, some)) for whose, some in by_count.items()
        )
        now_ms = self._clock_ms()
        last = {(charge.slot, charge.tally): min(charge.at_ms, now_ms) for charge in charges}
        self.database.executemany(
            _FORGET_BESIDE, ((*tally, last_ms) for tally, last_ms in last.items())
        )

    def _save(self, counts: Iterable[SavedCount]) -> None:
        self.database.executemany(
            "INSERT OR REPLACE INTO limits_counts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    *(slot, tally, rule_kind(rule), rule_text(rule), *state),
                    min(_FAR_MS, arithmetic.reset_at_ms(rule, state)),
                )
                for slot, tally, rule, state in counts
            ),
        )

    def _charged(
        self, whose: tuple[str, str, str], charges: Sequence[Charge]
    ) -> tuple[Rule, State]:
        found = self.database.execute(
            "SELECT rule, value, carry, at_ms FROM limits_counts"
            " WHERE tenant = ? AND tally = ? AND kind = ?",
            whose,
        ).fetchone()
        now_ms = self._clock_ms()

        def not_ahead(at_ms: int) -> int:  # it was noted before the clock was set back
            return now_ms if at_ms > now_ms + arithmetic.BACK_MS else at_ms

        rule = charges[-1].rule  # the limits of the others may differ, which is of no account
        state = arithmetic.fresh(rule, not_ahead(charges[0].at_ms))
        if found is not None:
            with contextlib.suppress(LimitError):  # `counts` has logged it
                rule_of(found[0])
                state = State(*found[1:])
        if not_ahead(state.at_ms) != state.at_ms:
            state = arithmetic.advance(rule, state, now_ms)
        for charge in charges:
            at_ms = not_ahead(charge.at_ms)
            if charge.begins:
                state = arithmetic.fresh(rule, at_ms)
            if isinstance(rule, CalendarWindow) and at_ms < state.at_ms:
                continue  # it is written late, and its window is over
            at_ms = max(at_ms, state.at_ms)
            state = arithmetic.advance(rule, state, at_ms)
            state = arithmetic.settle(rule, state, 0, state.at_ms, charge.amount)
            state = arithmetic.asked(rule, state, at_ms)
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
        counts = [getattr(usage, name) for name in COUNTS]
        self.database.execute(_ADD, (slot, day, usage.key, user, usage.model, *counts))

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
        """Once a day, delete usage that is too old and counts that are as good as fresh."""
        now_ms = self._clock_ms()
        oldest = oldest_day(now_ms, self._usage_days)
        if oldest != self._tidied:
            self.database.execute("DELETE FROM usage_rows WHERE day < ?", (oldest.isoformat(),))
            self.database.execute(_FORGET, (now_ms, now_ms))
            self._tidied = oldest

    def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `UsageStore.usage`; in no order. Raises sqlite3.Error."""
        return [
            UsageRecord(date.fromisoformat(day), *rest)
            for day, *rest in self.database.execute(
                "SELECT day, key, user, model, input_tokens, cached_tokens, output_tokens,"
                " cost_micros, requests FROM usage_rows WHERE tenant = ? AND day BETWEEN ? AND ?",
                (slot, first.isoformat(), last.isoformat()),
            )
        ]

    def usage_slots(self, first: date, last: date) -> list[str]:
        """See `UsageStore.usage_slots`; in no order. Raises sqlite3.Error."""
        return [
            slot
            for (slot,) in self.database.execute(
                "SELECT DISTINCT tenant FROM usage_rows WHERE day BETWEEN ? AND ?",
                (first.isoformat(), last.isoformat()),
            )
        ]


_Identity = tuple[int, int]


def _identity(path: Path) -> _Identity | None:
    """Identity of the file that has the name now; None: there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_of_a_record(error: Exception) -> bool:
    """Whether the record is the cause, so that writing it would fail each time."""
    if isinstance(error, sqlite3.Error):
        return isinstance(
            error, sqlite3.DataError | sqlite3.IntegrityError | sqlite3.InterfaceError
        )
    return not isinstance(error, OSError)
