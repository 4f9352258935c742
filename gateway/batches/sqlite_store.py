"""Files and batches in a SQLite file: for the processes of one machine.

A record is one row with its document; columns beside it are what is looked up by. All calls are
made in one thread, so that the disk never holds the event loop. Commits are on disk when they
return (WAL, synchronous FULL).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from gateway.batches.records import BatchRecord, FileRecord
from gateway.batches.store import Page, QuotaExceeded, Totals

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS files (
  place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
  purpose TEXT NOT NULL, size_bytes INTEGER NOT NULL, expires_s INTEGER, document BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS batches (
  place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
  status TEXT NOT NULL, is_over INTEGER NOT NULL, created_s INTEGER NOT NULL,
  total INTEGER NOT NULL, completed INTEGER NOT NULL, failed INTEGER NOT NULL,
  document BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS files_of ON files (tenant, place)",
    "CREATE INDEX IF NOT EXISTS files_until ON files (expires_s) WHERE expires_s IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS batches_of ON batches (tenant, place)",
    "CREATE INDEX IF NOT EXISTS batches_open ON batches (is_over, tenant, created_s)",
)
_PUT_BATCH: Final = """
INSERT INTO batches (id, tenant, status, is_over, created_s, total, completed, failed, document)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET status = excluded.status, is_over = excluded.is_over,
  total = excluded.total, completed = excluded.completed, failed = excluded.failed,
  document = excluded.document
"""
_PUT_FILE: Final = """
INSERT OR IGNORE INTO files (id, tenant, purpose, size_bytes, expires_s, document)
VALUES (?, ?, ?, ?, ?, ?)
"""
_FILES: Final = msgspec.json.Decoder(FileRecord)
_BATCHES: Final = msgspec.json.Decoder(BatchRecord)

T = TypeVar("T")


class SqliteStore:
    """`BatchStore` in a file that only its owner may read. Use it from one event loop."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        """The file and its folder are made at the first call. ``timeout_s``: the longest wait for
        the write of another process."""
        self._path, self._timeout_s = path, timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._connection: sqlite3.Connection | None = None

    # -- files

    async def add_file(self, record: FileRecord, most_bytes: int) -> None:
        """See `BatchStore`."""

        def add(db: sqlite3.Connection) -> None:
            with _writing(db):
                if _stored_bytes(db, record.tenant) + record.size_bytes > most_bytes:
                    raise QuotaExceeded
                db.execute(_PUT_FILE, _file_row(record))

        await self._run(add)

    async def file(self, id_: str, tenant: str | None) -> FileRecord | None:
        """See `BatchStore`."""
        return await self._run(lambda db: _one(db, "files", id_, tenant, _FILES))

    async def files(
        self, tenant: str, purpose: str | None, page: Page
    ) -> tuple[list[FileRecord], bool]:
        """See `BatchStore`."""
        wanted: dict[str, str] = {"tenant": tenant}
        if purpose is not None:
            wanted["purpose"] = purpose
        return await self._run(lambda db: _list(db, "files", wanted, page, _FILES))

    async def delete_file(self, id_: str, tenant: str) -> bool:
        """See `BatchStore`."""

        def delete(db: sqlite3.Connection) -> bool:
            found = db.execute("DELETE FROM files WHERE id = ? AND tenant = ?", (id_, tenant))
            return found.rowcount > 0

        return await self._run(delete)

    async def stored_bytes(self, tenant: str) -> int:
        """See `BatchStore`."""
        return await self._run(lambda db: _stored_bytes(db, tenant))

    async def outdated_files(self, now_s: float, limit: int) -> list[FileRecord]:
        """See `BatchStore`."""

        def read(db: sqlite3.Connection) -> list[FileRecord]:
            rows = db.execute(
                "SELECT document FROM files WHERE expires_s <= ? LIMIT ?", (now_s, limit)
            )
            return [_FILES.decode(row[0]) for row in rows]

        return await self._run(read)

    # -- batches

    async def add_batch(self, record: BatchRecord, most: int) -> None:
        """See `BatchStore`."""

        def add(db: sqlite3.Connection) -> None:
            with _writing(db):
                (has,) = db.execute(
                    "SELECT count(*) FROM batches WHERE is_over = 0 AND tenant = ?",
                    (record.owner.tenant,),
                ).fetchone()
                if has >= most:
                    raise QuotaExceeded
                db.execute(_PUT_BATCH, _batch_row(record))

        await self._run(add)

    async def batch(self, id_: str, tenant: str | None) -> BatchRecord | None:
        """See `BatchStore`."""
        return await self._run(lambda db: _one(db, "batches", id_, tenant, _BATCHES))

    async def batches(self, tenant: str | None, page: Page) -> tuple[list[BatchRecord], bool]:
        """See `BatchStore`."""
        wanted = {} if tenant is None else {"tenant": tenant}
        return await self._run(lambda db: _list(db, "batches", wanted, page, _BATCHES))

    async def unfinished(self) -> list[BatchRecord]:
        """See `BatchStore`."""

        def read(db: sqlite3.Connection) -> list[BatchRecord]:
            rows = db.execute("SELECT document FROM batches WHERE is_over = 0 ORDER BY place")
            return [_BATCHES.decode(row[0]) for row in rows]

        return await self._run(read)

    async def version(self) -> int:
        """See `BatchStore`."""

        def read(db: sqlite3.Connection) -> int:
            return int(db.execute("PRAGMA data_version").fetchone()[0])

        return await self._run(read)

    async def change(
        self,
        id_: str,
        change: Callable[[BatchRecord], BatchRecord],
        files: tuple[FileRecord, ...] = (),
    ) -> BatchRecord | None:
        """See `BatchStore`."""

        def write(db: sqlite3.Connection) -> BatchRecord | None:
            with _writing(db):
                found = _one(db, "batches", id_, None, _BATCHES)
                if found is None:
                    return None
                changed = change(found)
                if changed != found:
                    db.execute(_PUT_BATCH, _batch_row(changed))
                for record in files:
                    db.execute(_PUT_FILE, _file_row(record))
                return changed

        return await self._run(write)

    async def forget_batches(self, before_s: float) -> int:
        """See `BatchStore`."""

        def delete(db: sqlite3.Connection) -> int:
            gone = "DELETE FROM batches WHERE is_over = 1 AND created_s < ?"
            return db.execute(gone, (before_s,)).rowcount

        return await self._run(delete)

    async def known(self) -> set[str]:
        """See `BatchStore`."""

        def read(db: sqlite3.Connection) -> set[str]:
            return {row[0] for row in db.execute("SELECT id FROM files")}

        batches = await self.unfinished()
        files = await self._run(read)
        return files.union(*((one.id, one.output_id, one.error_id) for one in batches))

    async def totals(self) -> Totals:
        """See `BatchStore`."""
        return await self._run(_totals)

    async def close(self) -> None:
        """See `BatchStore`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    # -- inside

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._connected()
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            raise OSError(0, f"{self._path.name}: {error}") from error

    def _connected(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives the files beside it (-wal, -shm) the permissions of this one.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(
            self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(db, time.monotonic() + self._timeout_s)
        except BaseException:
            db.close()
            raise
        return db

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _prepare(db: sqlite3.Connection, end_s: float) -> None:
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            # SQLite itself does not wait for another process that changes the mode.
            if time.monotonic() > end_s:
                raise
            time.sleep(0.01)
    db.execute("PRAGMA synchronous = FULL")
    with _writing(db):
        for table in _TABLES:
            db.execute(table)


@contextmanager
def _writing(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction in which nobody else writes; an exception undoes it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _one(
    db: sqlite3.Connection,
    table: str,
    id_: str,
    tenant: str | None,
    decoder: msgspec.json.Decoder[T],
) -> T | None:
    where, values = "id = ?", [id_]
    if tenant is not None:
        where, values = "id = ? AND tenant = ?", [id_, tenant]
    row = db.execute(f"SELECT document FROM {table} WHERE {where}", values).fetchone()  # noqa: S608
    return None if row is None else decoder.decode(row[0])


def _list(
    db: sqlite3.Connection,
    table: str,
    wanted: dict[str, str],
    page: Page,
    decoder: msgspec.json.Decoder[T],
) -> tuple[list[T], bool]:
    """Names of tables and columns are ours; values are bound."""
    where = [f"{column} = ?" for column in wanted]
    values: list[object] = [*wanted.values()]
    if page.after is not None:
        at = " AND ".join(["id = ?", *(f"{column} = ?" for column in wanted)])
        found = db.execute(
            f"SELECT place FROM {table} WHERE {at}",  # noqa: S608
            [page.after, *wanted.values()],
        ).fetchone()
        if found is None:
            raise LookupError(page.after)
        where.append("place < ?" if page.newest_first else "place > ?")
        values.append(found[0])
    condition = f"WHERE {' AND '.join(where)}" if where else ""
    order = "DESC" if page.newest_first else "ASC"
    rows = db.execute(
        f"SELECT document FROM {table} {condition} ORDER BY place {order} LIMIT ?",  # noqa: S608
        [*values, page.limit + 1],
    ).fetchall()
    return [decoder.decode(row[0]) for row in rows[: page.limit]], len(rows) > page.limit


def _stored_bytes(db: sqlite3.Connection, tenant: str) -> int:
    (size,) = db.execute(
        "SELECT coalesce(sum(size_bytes), 0) FROM files WHERE tenant = ?", (tenant,)
    ).fetchone()
    return int(size)


def _totals(db: sqlite3.Connection) -> Totals:
    batches = dict(db.execute("SELECT status, count(*) FROM batches GROUP BY status").fetchall())
    total, completed, failed, oldest_s = db.execute(
        "SELECT coalesce(sum(total), 0), coalesce(sum(completed), 0), coalesce(sum(failed), 0),"
        " min(created_s) FROM batches WHERE is_over = 0"
    ).fetchone()
    (size,) = db.execute("SELECT coalesce(sum(size_bytes), 0) FROM files").fetchone()
    lines = {
        "pending": max(0, total - completed - failed),
        "completed": completed,
        "failed": failed,
    }
    return Totals(batches, lines, oldest_s, size)


def _file_row(record: FileRecord) -> tuple[object, ...]:
    return (
        *(record.id, record.tenant, record.purpose, record.size_bytes, record.expires_s),
        msgspec.json.encode(record),
    )


def _batch_row(record: BatchRecord) -> tuple[object, ...]:
    counts = record.counts
    return (
        *(record.id, record.owner.tenant, record.status.value, record.status.is_final),
        *(record.created_s, counts.total, counts.completed, counts.failed),
        msgspec.json.encode(record),
    )
