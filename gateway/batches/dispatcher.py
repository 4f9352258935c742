"""Works on the batches: checks their input, sends their lines, ends them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from math import inf
from typing import Final, Protocol, TextIO

from msgspec.structs import replace

from gateway.batches.folder import Folder
from gateway.batches.lines import Limits, Line
from gateway.batches.outcome import (
    CANCELLED,
    EXPIRED,
    LOST,
    Again,
    Answered,
    Because,
    Outcome,
    not_answered,
)
from gateway.batches.records import BatchRecord, FileRecord, LineError, Status
from gateway.batches.run import BatchRun, BrokenInput, check
from gateway.batches.settings import LaneSettings
from gateway.batches.store import BatchStore
from gateway.batches.turns import Turns
from gateway.batches.window import Window

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
"""From one look at the store to the next: another process may have written."""
_WHOLE_S: Final = 15.0
"""From one look at all batches to the next, when nothing was written: some may have run out of
time while they waited for their turn."""
_WRITE_S: Final = 0.25
_MOST_UNWRITTEN_BYTES: Final = 16 << 20
"""Of a batch's answers, while the disk takes none."""
_SHOWN_ROUNDS: Final = 4
_MOST_ACTIVE: Final = 32
"""Batches whose lines are sent at a time; others wait for one of them to end."""
_MOST_OF_TENANT: Final = 8
_MOST_IN_ALL: Final = 128
"""With the first one of each further tenant."""
_CLEAN_S: Final = 60.0
_OUTDATED: Final = 200
_MOST_BYTES: Final = 64 << 20
"""Of lines under way."""
_FIRST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
_LIMITED_S: Final = 1.0
_BYTES_PER_TOKEN: Final = 4.0


class Sends(Protocol):
    """Sends lines: see `Sender`."""

    async def send(self, record: BatchRecord, line: Line) -> Outcome:
        """What came of one try."""
        ...


class Dispatcher:
    """Use it from one event loop."""

    def __init__(
        self,
        store: BatchStore,
        folder: Folder,
        sender: Sends,
        settings: LaneSettings,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """``now_s``: seconds since the epoch."""
        self._store, self._folder, self._sender = store, folder, sender
        self._settings, self._now_s = settings, now_s
        self._windows: dict[str, Window] = {}
        """By model: what is saturated is a pool."""
        self._turns = Turns()
        self._runs: dict[str, BatchRun] = {}
        self._opening: set[str] = set()
        self._limited_s: dict[str, float] = {}
        """By tenant at a limit: until when it is left alone."""
        self._bytes = 0
        self._under_way = 0
        self._sending: dict[str, dict[int, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._full = asyncio.Event()
        self._stopping = False
        self._lead: TextIO | None = None

    # -- life

    async def run(self) -> None:
        """Work until cancelled. One process of those that share the folder does; others wait for
        its end."""
        try:
            while self._lead is None:
                try:
                    self._lead = await asyncio.to_thread(self._folder.lead)
                except OSError:
                    log.exception("the folder of batches cannot be used")
                if self._lead is None:
                    await asyncio.sleep(_LOOK_S)
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._follow())
                parts.create_task(self._send_lines())
                parts.create_task(self._write_down())
                parts.create_task(self._clean())
        finally:
            await self._end()

    def wake(self) -> None:
        """A batch was made or changed."""
        self._news.set()

    def configure(self, settings: LaneSettings) -> None:
        """Other settings."""
        self._settings = settings
        for window in self._windows.values():
            window.configure(settings.concurrency)
        self._full.set()

    async def finish(self, within_s: float) -> None:
        """Send nothing more, and wait so long for what is under way; the rest is sent again after
        the next start."""
        self._stopping = True
        tasks = [task for tasks in self._sending.values() for task in tasks.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)
        for run in self._runs.values():
            await self._write(run)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for run in self._runs.values():
            await self._write(run)
            await asyncio.to_thread(run.close)
        if self._lead is not None:
            self._lead.close()

    # -- batches

    async def _follow(self) -> None:
        seen, whole_s = -1, -inf
        while True:
            news = self._news.is_set()
            self._news.clear()
            try:
                version, now_s = await self._store.version(), self._now_s()
                if news or version != seen or now_s >= whole_s + _WHOLE_S:
                    await self._look()
                    seen, whole_s = version, now_s
                for run in [*self._runs.values()]:
                    self._govern(run, now_s)
            except OSError:
                log.exception("batches cannot be read")
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        if self._stopping:
            return
        now_s = self._now_s()
        for record in await self._store.unfinished():
            run = self._runs.get(record.id)
            if run is not None:
                run.record = record
                self._govern(run, now_s)
            elif record.id not in self._opening:
                self._begin(record, now_s)

    def _begin(self, record: BatchRecord, now_s: float) -> None:
        """Start what a batch needs that is not at work."""
        ends = record.status is not Status.IN_PROGRESS or now_s >= record.expires_s
        if record.status is Status.VALIDATING:
            self._start(record.id, self._validate(record))
        elif ends or self._has_place(record):
            self._start(record.id, self._open(record))

    def _has_place(self, record: BatchRecord) -> bool:
        """Few at a time, so that memory does not grow with the number of batches."""
        places = [*self._runs.values()]
        tenant = record.owner.tenant
        own = sum(run.record.owner.tenant == tenant for run in places)
        opening = len(self._opening)
        if own + opening >= _MOST_OF_TENANT:
            return False
        return len(places) + opening < (_MOST_ACTIVE if own else _MOST_IN_ALL)

    def _start(self, id_: str, work: Coroutine[None, None, None]) -> None:
        self._opening.add(id_)
        task: asyncio.Task[None] = asyncio.create_task(self._guarded(id_, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, id_: str, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except (OSError, BrokenInput):
            log.exception("batch %s: the disk cannot be used, and is tried again", id_)
            if (run := self._runs.pop(id_, None)) is not None:  # what counts is on disk
                await asyncio.to_thread(run.close)
            await asyncio.sleep(_LOOK_S)
        finally:
            self._opening.discard(id_)
            self._news.set()

    def _limits(self) -> Limits:
        return Limits(self._settings.max_lines, self._settings.max_line_bytes)

    async def _validate(self, record: BatchRecord) -> None:
        try:
            index = await asyncio.to_thread(check, self._folder, record, self._limits())
        except FileNotFoundError:
            missing = LineError("file_not_found", "The input file is gone.")
            await self._fail(record, (missing,))
            return
        if index.errors:
            await self._fail(record, tuple(index.errors))
            return

        def accept(found: BatchRecord) -> BatchRecord:
            if found.status is not Status.VALIDATING:
                return found
            counts = replace(found.counts, total=index.total)
            found = replace(found, counts=counts, model=index.model)
            return found.at(Status.IN_PROGRESS, int(self._now_s()))

        await self._store.change(record.id, accept)

    async def _fail(self, record: BatchRecord, errors: tuple[LineError, ...]) -> None:
        def fail(found: BatchRecord) -> BatchRecord:
            if found.status.is_final:
                return found
            return replace(found, errors=errors).at(Status.FAILED, int(self._now_s()))

        await self._store.change(record.id, fail)
        await asyncio.to_thread(self._folder.input(record.id).unlink, missing_ok=True)

    async def _open(self, record: BatchRecord) -> None:
        try:
            run = await asyncio.to_thread(BatchRun, self._folder, record, self._limits())
        except (FileNotFoundError, BrokenInput) as error:
            if record.status is Status.CANCELLING and not record.counts.total:
                await self._cancelled_unread(record)
                return
            lost = LineError("input_lost", f"The input file cannot be used any more: {error}")
            await self._fail(record, (lost,))
            return
        self._runs[record.id] = run
        self._turns.join(record.owner.tenant)
        self._turns.join(record.id)
        self._full.set()
        self._govern(run, self._now_s())

    async def _cancelled_unread(self, record: BatchRecord) -> None:
        """It was cancelled before its input was found to be good."""
        await self._store.change(
            record.id,
            lambda found: (
                found if found.status.is_final else found.at(Status.CANCELLED, int(self._now_s()))
            ),
        )
        await asyncio.to_thread(self._folder.input(record.id).unlink, missing_ok=True)

    def _govern(self, run: BatchRun, now_s: float) -> None:
        """End a batch whose time has come."""
        record = run.record
        if run.stopping:
            return
        if run.is_done:
            self._stop(run, self._conclude(run, None, Status.COMPLETED))
        elif record.status is Status.CANCELLING:
            self._stop(run, self._conclude(run, CANCELLED, Status.CANCELLED))
        elif now_s >= record.expires_s:
            self._stop(run, self._conclude(run, EXPIRED, Status.EXPIRED))

    def _stop(self, run: BatchRun, work: Coroutine[None, None, None]) -> None:
        run.stopping = True
        self._start(run.record.id, work)

    async def _conclude(self, run: BatchRun, why: tuple[str, str] | None, status: Status) -> None:
        """End a batch: every line of its input gets its line of output or error."""
        id_ = run.record.id
        tasks = [*self._sending.get(id_, {}).values()]
        if tasks:
            grace_s = self._settings.cancel_grace_s if status is Status.CANCELLED else 0.0
            await asyncio.wait(tasks, timeout=grace_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # The disk may be full, or slow.
        while not await self._write(run) or run.reading:  # noqa: ASYNC110
            await asyncio.sleep(_WRITE_S)
        if run.is_done and status is not Status.CANCELLED:
            status = Status.COMPLETED  # the last answers came in time
        elif why is not None:
            await asyncio.to_thread(run.give_up, why)
        now_s = int(self._now_s())
        files = self._files(run, now_s)
        sizes = run.sizes_bytes

        def end(found: BatchRecord) -> BatchRecord:
            if found.status.is_final:
                return found
            last = status
            if found.status is Status.CANCELLING:
                last = Status.CANCELLED  # it was cancelled while it ended
            if last is not Status.CANCELLED and found.status is Status.IN_PROGRESS:
                found = found.at(Status.FINALIZING, now_s)
            return replace(
                run.shown(found).at(last, now_s),
                output_file_id=found.output_id if sizes[0] else None,
                error_file_id=found.error_id if sizes[1] else None,
            )

        await self._store.change(id_, end, files)
        del self._runs[id_]
        self._turns.leave(id_)
        model = run.record.model
        if all(one.record.model != model for one in self._runs.values()):
            self._windows.pop(model or "", None)
        if all(one.record.owner.tenant != run.record.owner.tenant for one in self._runs.values()):
            self._turns.leave(run.record.owner.tenant)
        await asyncio.to_thread(run.close)
        await asyncio.to_thread(self._folder.input(id_).unlink, missing_ok=True)

    def _files(self, run: BatchRun, now_s: int) -> tuple[FileRecord, ...]:
        record = run.record
        keep_s = record.output_expires_after_s or self._settings.retention_s
        return tuple(
            FileRecord(
                id=file_id,
                tenant=record.owner.tenant,
                filename=f"{record.id}_{kind}.jsonl",
                purpose="batch_output",
                size_bytes=size,
                created_s=now_s,
                expires_s=now_s + int(keep_s),
            )
            for kind, file_id, size in zip(
                ("output", "error"),
                (record.output_id, record.error_id),
                run.sizes_bytes,
                strict=True,
            )
            if size
        )

    # -- lines

    async def _send_lines(self) -> None:
        while True:
            self._full.clear()
            now_s = self._now_s()
            if not self._stopping:
                while self._under_way < self._settings.concurrency and self._bytes < _MOST_BYTES:
                    found = self._next(now_s)
                    if found is None:
                        break
                    self._send(*found)
            dues = [run.next_due_s for run in self._runs.values() if not run.stopping]
            dues += [window.paused_until_s for window in self._windows.values()]
            due_s = min((due for due in dues if due is not None and due > now_s), default=inf)
            try:
                async with asyncio.timeout(max(0.005, min(_LOOK_S, due_s - now_s))):
                    await self._full.wait()
            except TimeoutError:
                continue

    def _next(self, now_s: float) -> tuple[BatchRun, Line] | None:
        """The next line of the tenant, and of its batch, that were given least."""
        of: dict[str, list[str]] = {}
        for id_, run in self._runs.items():
            tenant = run.record.owner.tenant
            if self._may_send(run, now_s) and now_s >= self._limited_s.get(tenant, 0.0):
                of.setdefault(tenant, []).append(id_)
        for tenant in self._turns.order(of):
            for id_ in self._turns.order(of[tenant]):
                run = self._runs[id_]
                line = run.next(now_s)
                if run.wants_ahead:
                    self._read_ahead(run)
                if line is not None:
                    return run, line
        return None

    def _may_send(self, run: BatchRun, now_s: float) -> bool:
        window = self._window_of(run)
        return (
            not run.stopping
            and run.unwritten_bytes < _MOST_UNWRITTEN_BYTES
            and now_s >= window.paused_until_s
            and window.under_way < window.size
        )

    def _window_of(self, run: BatchRun) -> Window:
        model = run.record.model or ""
        window = self._windows.get(model)
        if window is None:
            window = self._windows[model] = Window(self._settings.concurrency)
        return window

    def _read_ahead(self, run: BatchRun) -> None:
        run.reading = True
        task = asyncio.create_task(self._reading(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reading(self, run: BatchRun) -> None:
        try:
            await asyncio.to_thread(run.read_ahead)
        except (OSError, BrokenInput):
            log.exception("batch %s: its input cannot be read", run.record.id)
            await asyncio.sleep(_LOOK_S)
        finally:
            run.reading = False
            self._full.set()

    def _send(self, run: BatchRun, line: Line) -> None:
        id_, size, window = run.record.id, len(line.body), self._window_of(run)
        self._under_way += 1
        window.under_way += 1
        self._bytes += size
        cost = size / _BYTES_PER_TOKEN
        self._turns.charge(run.record.owner.tenant, cost)
        self._turns.charge(id_, cost)
        sending = self._sending.setdefault(id_, {})
        task = asyncio.create_task(self._sent(run, line))
        sending[line.number] = task
        self._tasks.add(task)

        def over(ended: asyncio.Task[None]) -> None:
            self._tasks.discard(ended)
            self._under_way -= 1
            window.under_way -= 1
            self._bytes -= size
            del sending[line.number]
            if not sending and self._sending.get(id_) is sending:
                del self._sending[id_]
            self._full.set()

        task.add_done_callback(over)

    async def _sent(self, run: BatchRun, line: Line) -> None:
        try:
            outcome = await self._sender.send(run.record, line)
        except asyncio.CancelledError:
            run.again(line, self._now_s())
            raise
        except Exception:
            log.exception("batch %s: line %d failed", run.record.id, line.number + 1)
            outcome = Again(Because.FAILED)
        self._take(run, line, outcome)

    def _take(self, run: BatchRun, line: Line, outcome: Outcome) -> None:
        now_s, tenant = self._now_s(), run.record.owner.tenant
        if isinstance(outcome, Answered):
            self._window_of(run).answered()
            spent = outcome.used.input_tokens + outcome.used.output_tokens
            more = spent - len(line.body) / _BYTES_PER_TOKEN if spent else 0.0
            self._turns.charge(tenant, more)
            self._turns.charge(run.record.id, more)
            run.answered(line, outcome)
            return
        after_s = outcome.after_s
        match outcome.because:
            case Because.SATURATED | Because.DOWN:
                self._window_of(run).refused(now_s)
                after_s = 0.0  # the window's pause is enough
            case Because.LIMITED:
                after_s = max(after_s, _LIMITED_S)
                self._limited_s[tenant] = max(self._limited_s.get(tenant, 0.0), now_s + after_s)
            case Because.FAILED:
                tries = run.tried(line)
                if tries >= self._settings.attempts:
                    last = outcome.final or not_answered(line.custom_id, LOST)
                    run.answered(line, Answered(last, succeeded=False))
                    return
                after_s = max(after_s, min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2.0 ** (tries - 1)))
        run.again(line, now_s + after_s)

    # -- answers

    async def _write_down(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(_WRITE_S)
            rounds += 1
            for run in [*self._runs.values()]:
                if run.stopping:
                    continue
                await self._write(run)
                if run.is_done and not run.stopping:
                    self._govern(run, self._now_s())
                elif rounds % _SHOWN_ROUNDS == 0:
                    await self._show(run)

    async def _write(self, run: BatchRun) -> bool:
        """Put answers on disk; false: that failed, and they are kept."""
        async with run.writing:
            outcomes = run.take_unwritten()
            if not outcomes:
                return True
            try:
                await asyncio.to_thread(run.write, outcomes)
            except OSError:
                run.put_back(outcomes)
                log.exception("batch %s: answers cannot be written", run.record.id)
                return False
            return True

    async def _show(self, run: BatchRun) -> None:
        """Bring the counts up to date that the API shows."""
        if run.record.counts == run.counts:
            return
        try:
            found = await self._store.change(run.record.id, run.shown)
        except OSError:
            log.exception("batch %s: its counts cannot be written", run.record.id)
            return
        if found is not None and not run.stopping:
            run.record = found

    # -- what is not needed any more

    async def _clean(self) -> None:
        while True:
            try:
                await self._clean_once()
            except OSError:
                log.exception("outdated files cannot be removed")
            await asyncio.sleep(_CLEAN_S)

    async def _clean_once(self) -> None:
        now_s = self._now_s()
        while outdated := await self._store.outdated_files(now_s, _OUTDATED):
            for file in outdated:
                await self._store.delete_file(file.id, file.tenant)
                await asyncio.to_thread(self._folder.file(file.id).unlink, missing_ok=True)
        await self._store.forget_batches(now_s - self._settings.retention_s)
        known = await self._store.known()
        for stray in await asyncio.to_thread(self._folder.strays, known):
            log.warning("%s belongs to nothing and is removed", stray)
            await asyncio.to_thread(stray.unlink, missing_ok=True)
