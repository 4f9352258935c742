"""The journal of a memory store: a SQLite file that keeps usage and lasting counts over restarts.

It is written behind: settlements are collected, and a thread writes them `FLUSH_S` later, in one
transaction. A process that is killed (SIGKILL) loses the settlements of the last `FLUSH_S` and
nothing else, their charges and usage alike. A clean close loses nothing. A machine without power
may lose the last few seconds and no other part of the file (WAL, synchronous NORMAL).

Lasting counts are those whose loss would matter: of calendar windows of an hour and longer, of
token buckets with a refill period, or a time from empty to full, of an hour and longer, and of
lifetimes that end after an idle hour or more. The file has the *settled* amounts, not the held
ones: requests that are in flight when the process ends hold nothing after it.

While the file cannot be written (the disk is full, or another process has locked it for seconds),
settlements wait here, up to a bound, and are tried again every second. If the file is deleted or
replaced, everything is written to the file that has its name then, at the next flush or at the end.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, TypeVar

from gateway.limits.buckets import StoreUnavailable
from gateway.limits.memory.batch import Batch, Charge
from gateway.limits.memory.journal_file import JournalFile, SavedCount
from gateway.limits.memory.usage_rows import in_order, summed
from gateway.limits.usage import MAX_USERS_PER_DAY, USAGE_DAYS, UsageRecord
from policies.limits.types import Rule

FLUSH_S: Final = 0.1
"""How long a settlement waits to be written."""

_LOG: Final = logging.getLogger("penstock.limits")
_RETRY_S: Final = 1.0
_MAX_WAITING: Final = 200_000

T = TypeVar("T")


@dataclass(slots=True)
class JournalCounters:
    """For metrics; each only grows."""

    failures: int = 0
    """Transactions that failed; they are tried again."""
    lost: int = 0
    """Charges, and usages of settlements, that were dropped: too many waited, the last attempt
    failed, or they can never be written."""
    replaced: int = 0
    """How often the file was deleted or replaced while it was in use."""


class Journal:
    """The file, and `UsageStore` of its rows. Use it from one event loop; a thread of its own works
    on the database."""

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
        """Open or make the file, which only its owner can read, and its tables. Others may have
        tables in it, too. ``max_users_per_day``: see `BucketStore.settle`. Raises OSError or
        sqlite3.Error."""
        self.counters = JournalCounters()
        self._file = JournalFile(
            path, usage_days=usage_days, max_users_per_day=max_users_per_day, clock_ms=clock_ms
        )
        self._flush_s = flush_s
        self._max_waiting = max_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="limits journal")
        self._waiting = Batch()
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._writing = 0

    def counts(self) -> Iterator[SavedCount]:
        """All counts of tallies that are not as good as fresh. Call it before anything else."""
        return self._file.counts()

    def charge(
        self, slot: str, tally: str, rule: Rule, amount: int, at_ms: int, *, begins: bool = False
    ) -> None:
        """Note a charge to a lasting count. ``begins``: see `Charge`."""
        self._waiting.charges.append(Charge(slot, tally, rule, amount, at_ms, begins))
        if self._timer is None:
            self._more()

    def add(self, slot: str, usage: UsageRecord) -> None:
        """Note the usage of a settlement."""
        self._waiting.add(slot, usage)
        if self._timer is None:
            self._more()

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `UsageStore.usage`. Everything that was settled before is counted."""
        rows = {
            _whose(row): row for row in await self._ask(lambda: self._file.usage(slot, first, last))
        }
        for (whom, *_), usage in self._waiting.usages.items():  # the file cannot be written
            if whom == slot and first <= usage.day <= last:
                known = rows.get(_whose(usage))
                rows[_whose(usage)] = usage if known is None else summed(known, usage)
        return in_order(rows.values())

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `UsageStore.usage_slots`."""
        slots = set(await self._ask(lambda: self._file.usage_slots(first, last)))
        slots.update(slot for slot, day, *_ in self._waiting.usages if first <= day <= last)
        return sorted(slots)

    async def close(self) -> None:
        """Write what waits, once, and close the file."""
        written = self._write_soon() or self._write()
        await asyncio.wait({written})
        await asyncio.sleep(0)  # `_written` runs
        if self._timer is not None:
            self._timer.cancel()
        if self._waiting:
            lost = self._waiting.settlements
            _LOG.error("%d charges and settlements' usage are lost", lost)
            self.counters.lost += lost
        self._thread.shutdown()
        self._file.close()

    def _more(self) -> None:
        """Have what waits written later: after the batch that is being written, if there is one."""
        if self._writing == 0:
            self._wait(self._flush_s)
        elif len(self._waiting) > self._max_waiting:
            self._drop()

    def _wait(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._write_soon)

    def _write_soon(self) -> asyncio.Future[int] | None:
        """Have the thread write what waits before it does anything else that is asked later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._write() if self._waiting else None

    def _write(self) -> asyncio.Future[int]:
        batch, self._waiting = self._waiting, Batch()
        self._writing += 1
        written = asyncio.get_running_loop().run_in_executor(self._thread, self._file.write, batch)
        written.add_done_callback(lambda done: self._written(batch, done))
        return written

    def _written(self, batch: Batch, written: asyncio.Future[int]) -> None:
        self._writing -= 1
        error = written.exception()
        if error is None:
            self.counters.lost += written.result()
            self.counters.replaced = self._file.replaced
            if self._failing:
                _LOG.warning("the journal of limits can be written again")
            self._failing = False
            if self._waiting and self._timer is None:
                self._wait(self._flush_s)
            return
        self.counters.failures += 1
        if not isinstance(error, sqlite3.Error | OSError):  # it would fail each time
            lost = batch.settlements
            self.counters.lost += lost
            _LOG.error("%d charges and settlements' usage are lost", lost, exc_info=error)
            return
        if not self._failing:
            _LOG.error("the journal of limits cannot be written, trying again: %s", error)
        self._failing = True
        self._waiting.put_back(batch)
        if len(self._waiting) > self._max_waiting:
            self._drop()
        if self._timer is not None:
            self._timer.cancel()
        self._wait(_RETRY_S)

    def _drop(self) -> None:
        """Drop the oldest tenth of what waits: so many, because dropping takes time."""
        keep = self._max_waiting - self._max_waiting // 10
        self.counters.lost += self._waiting.drop_oldest(keep)
        _LOG.error("%d charges and settlements' usage are lost so far", self.counters.lost)

    async def _ask(self, read: Callable[[], list[T]]) -> list[T]:
        self._write_soon()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, read)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the journal of limits cannot be read: {error}") from error


def _whose(row: UsageRecord) -> tuple[date, str, str, str]:
    return row.day, row.key, row.user, row.model
