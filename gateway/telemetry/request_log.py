"""The request log: one JSON line for each request, written by a thread of its own."""

from __future__ import annotations

import logging
import os
import queue
import stat
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson

from picker.request.labels import RequestLabels
from picker.request.report import Ending
from picker.seams.observer import Answered, Completed, Rejected

logger = logging.getLogger(__name__)

FLUSH_BYTES = 64 * 1024
_QUIET_S = 0.5
"""The first line after so long is written at once: who watches the log waits for it."""
_PENDING_CHUNKS = 128
"""This much (8 MB) may wait for a slow disk. Further lines are dropped and counted."""
_PIPE_BYTES = 4096
"""PIPE_BUF on Linux: a write of at most this length to a pipe is not mixed with those of other
processes."""
_ORJSON = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _printable(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


class RequestLog:
    """Buffers lines. A thread of its own writes them, so that the caller never waits for a disk.

    The owner calls ``flush`` about every 0.5 s, ``reopen`` on SIGHUP and ``close`` at the end.
    ``path`` None: stdout. When the file was moved away (rotation), a new one is opened.
    """

    def __init__(self, path: Path | None, *, wall_clock: Callable[[], float] = time.time) -> None:
        self.dropped_lines = 0
        """Lines lost because the disk was too slow or failed."""
        self._path = path
        self._wall_clock = wall_clock
        self._lines: list[bytes] = []
        self._size_bytes = 0
        self._flushed_s = 0.0
        self._chunks: queue.Queue[tuple[bytes, int] | None] = queue.Queue(_PENDING_CHUNKS)
        self._reopen = threading.Event()
        self._closed = False
        self._failing = False
        self._dropping = False
        self._fd = self._open()
        self._writer = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._writer.start()

    def rejected(self, event: Rejected) -> None:
        """Log a request that the picker refused."""
        self._add(
            {
                **self._about(event.labels),
                "status": event.status,
                "reason": event.reason,
                "queue_ms": _ms(event.queue_s),
                "decision_ms": _ms(event.decision_s),
            }
        )

    def answered(self, event: Answered) -> None:
        """Log a request that the picker answered itself."""
        self._add(
            {
                **self._about(event.labels),
                "status": event.status,
                "reason": Ending.OK,
                "decision_ms": _ms(event.decision_s),
            }
        )

    def completed(self, event: Completed) -> None:
        """Log a request that was dispatched and has ended."""
        self._add(
            {
                **self._about(event.labels),
                "endpoint": event.endpoint,
                "status": event.status,
                "reason": event.reason,
                "streaming": event.streaming,
                "input_tokens": event.input_tokens,
                "output_tokens": event.output_tokens,
                "cached_tokens": event.cached_tokens,
                "usage_reported": event.usage_reported,
                "ttft_ms": None if event.ttft_s is None else _ms(event.ttft_s),
                "duration_ms": _ms(event.duration_s),
                "queue_ms": _ms(event.queue_s),
                "decision_ms": _ms(event.decision_s),
            }
        )

    def flush(self) -> None:
        """Hand the buffered lines to the writer; never waits."""
        if not self._lines:
            return
        lines, self._lines, self._size_bytes = self._lines, [], 0
        self._flushed_s = time.monotonic()
        try:
            self._chunks.put_nowait((b"".join(lines), len(lines)))
        except queue.Full:
            self.dropped_lines += len(lines)
            if not self._dropping:
                logger.error("request log: the disk is too slow, lines are dropped")  # noqa: TRY400
            self._dropping = True
        else:
            self._dropping = False

    def reopen(self) -> None:
        """Open the file again before the next write."""
        self._reopen.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write the remaining lines; waits at most ``timeout_s`` for that."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        deadline_s = time.monotonic() + timeout_s
        try:
            self._chunks.put(None, timeout=timeout_s)
        except queue.Full:
            logger.error("request log: the disk is too slow, the last lines are lost")  # noqa: TRY400
            return
        self._writer.join(max(0.0, deadline_s - time.monotonic()))

    def _about(self, labels: RequestLabels) -> dict[str, object]:
        return {
            "time": datetime.fromtimestamp(self._wall_clock(), UTC),
            "request_id": labels.request_id,
            "tenant": labels.tenant,
            "key": labels.key,
            "user": labels.user,
            "path": labels.path,
            "model": labels.model,
            "pool": labels.pool,
        }

    def _add(self, fields: dict[str, object]) -> None:
        try:
            line = orjson.dumps(fields, option=_ORJSON)
        except orjson.JSONEncodeError:  # a header was no UTF-8
            clean = {key: _printable(value) for key, value in fields.items()}
            line = orjson.dumps(clean, option=_ORJSON)
        self._lines.append(line)
        self._size_bytes += len(line)
        if self._size_bytes >= FLUSH_BYTES or time.monotonic() - self._flushed_s >= _QUIET_S:
            self.flush()

    def _open(self) -> int:
        if self._path is None:
            return sys.stdout.fileno()
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            data, lines = chunk
            try:
                self._follow_rotation()
                self._write(data)
                self._failing = False
            except OSError as error:
                self.dropped_lines += lines
                if not self._failing:
                    logger.error("request log: cannot write %s: %s", self._path or "stdout", error)  # noqa: TRY400
                self._failing = True
        if self._path is not None:
            os.close(self._fd)

    def _follow_rotation(self) -> None:
        if self._path is None:
            return
        asked = self._reopen.is_set()
        self._reopen.clear()
        if not asked:
            try:
                there = self._path.stat()
                here = os.fstat(self._fd)
                asked = (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)
            except FileNotFoundError:
                asked = True
        if asked:
            new = self._open()
            os.close(self._fd)
            self._fd = new

    def _write(self, data: bytes) -> None:
        pipe = stat.S_ISFIFO(os.fstat(self._fd).st_mode)
        rest = memoryview(data)
        while rest:
            written = os.write(self._fd, rest[: _whole_lines(rest)] if pipe else rest)
            rest = rest[written:]


def _whole_lines(data: memoryview) -> int:
    """Bytes of as many whole lines as fit into one write to a pipe that is not mixed with others;
    at least one line."""
    if len(data) <= _PIPE_BYTES:
        return len(data)
    end = bytes(data[:_PIPE_BYTES]).rfind(b"\n")
    if end < 0:
        end = bytes(data).find(b"\n")
    return end + 1 if end >= 0 else len(data)
