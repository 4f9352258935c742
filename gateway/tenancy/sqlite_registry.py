"""The registry in a SQLite file: for the pickers and supervisors of one machine.

Several processes read and write the file at once (WAL). Writes are on disk when they return
(synchronous FULL), so a revocation that was confirmed is never lost. When somebody removes or
replaces the file, the registry is unavailable until a restart, because SQLite would mix up the logs
of the two files.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from gateway.tenancy.registry import Conflict, Entry, EntryKind, Page, Position, RegistryUnavailable

_SCHEMA: Final = "1"
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS registry_meta (
  name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS registry_entries (
  kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, content BLOB NOT NULL,
  sequence INTEGER NOT NULL UNIQUE,
  PRIMARY KEY (kind, id)
) WITHOUT ROWID;
"""
_VERSION: Final = "SELECT version FROM registry_entries WHERE kind = ? AND id = ?"
_META: Final = "SELECT value FROM registry_meta WHERE name = ?"
_HEAD: Final = "SELECT coalesce(max(sequence), 0) FROM registry_entries"
_PUT: Final = """
INSERT INTO registry_entries (kind, id, version, content, sequence) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET
  version = excluded.version, content = excluded.content, sequence = excluded.sequence
"""
_SINCE: Final = """
SELECT kind, id, version, content, sequence FROM registry_entries
WHERE sequence > ? ORDER BY sequence LIMIT ?
"""

T = TypeVar("T")


class SqliteRegistry:
    """`Registry` in a file that only its owner may read. Use it from one event loop."""

    def __init__(self, path: Path, *, timeout_s: float = 5.0) -> None:
        """The file and its folder are made at the first call. ``timeout_s``: the longest wait for
        the write of another process."""
        self._path = path
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def write(self, entries: Sequence[Entry]) -> None:
        """See `Registry.write`."""
        await self._run(lambda db: _write(db, entries, merge=False))

    async def merge(self, entries: Sequence[Entry]) -> None:
        """See `Registry.merge`."""
        await self._run(lambda db: _write(db, entries, merge=True))

    async def changes(self, since: Position, limit: int = 256) -> Page:
        """See `Registry.changes`."""
        return await self._run(lambda db: _changes(db, since, limit))

    async def close(self) -> None:
        """See `Registry.close`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connected())
        except (sqlite3.Error, OSError) as error:
            raise RegistryUnavailable(f"{self._path}: {error}") from error

    def _connected(self) -> sqlite3.Connection:
        if self._file is not None and self._file != _identity(self._path):
            raise FileNotFoundError(
                "the file was removed or replaced while Penstock runs: restart it"
            )
        if self._connection is not None:
            return self._connection
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives the files beside it (-wal, -shm) the permissions of this one.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, _identity(self._path)
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        end_s = time.monotonic() + self._timeout_s
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                # SQLite itself does not wait for another process that changes the mode.
                if time.monotonic() > end_s:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous = FULL")
        if not _has_tables(connection):
            with _transaction(connection):
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.executemany(
                    "INSERT OR IGNORE INTO registry_meta VALUES (?, ?)",
                    [("schema", _SCHEMA), ("epoch", secrets.token_hex(8))],
                )
        (schema,) = connection.execute(_META, ("schema",)).fetchone()
        if schema != _SCHEMA:
            raise sqlite3.DatabaseError(
                f"its tenants are of version {schema}, and this Penstock reads version {_SCHEMA}"
            )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _has_tables(connection: sqlite3.Connection) -> bool:
    names = "SELECT count(*) FROM sqlite_master WHERE name IN ('registry_meta', 'registry_entries')"
    (found,) = connection.execute(names).fetchone()
    return bool(found == 2)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction in which nobody else writes; an exception undoes it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _write(connection: sqlite3.Connection, entries: Sequence[Entry], *, merge: bool) -> None:
    with _transaction(connection):
        (sequence,) = connection.execute(_HEAD).fetchone()
        for entry in entries:
            row = connection.execute(_VERSION, (entry.kind.value, entry.id)).fetchone()
            stored = 0 if row is None else row[0]
            if merge and entry.version <= stored:
                continue
            if not merge and entry.version != stored + 1:
                raise Conflict(entry.kind.value, entry.id)
            sequence += 1
            connection.execute(
                _PUT, (entry.kind.value, entry.id, entry.version, entry.content, sequence)
            )


def _changes(connection: sqlite3.Connection, since: Position, limit: int) -> Page:
    connection.execute("BEGIN")
    try:
        (epoch,) = connection.execute(_META, ("epoch",)).fetchone()
        (head,) = connection.execute(_HEAD).fetchone()
        restarted = since.epoch != epoch or since.sequence > head
        start = 0 if restarted else since.sequence
        rows = connection.execute(_SINCE, (start, limit)).fetchall()
    finally:
        connection.execute("COMMIT")
    return Page(
        entries=tuple(Entry(EntryKind(row[0]), row[1], row[2], row[3]) for row in rows),
        position=Position(epoch, rows[-1][4] if rows else start),
        more=len(rows) == limit,
        restarted=restarted,
    )
