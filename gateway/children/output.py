"""What a child process writes: to a log file of bounded size, and its last lines in memory."""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

_LOG: Final = logging.getLogger("penstock.child")
_LINE_LIMIT: Final = 4000
"""Characters kept of one line in memory."""
_DRAIN_S: Final = 1.0
"""Longest wait for the end of the output after the process has ended."""


class ChildOutput(asyncio.Protocol):
    """Both output streams of one child over all its runs. Use: `begin`, `pipe`, `follow`, `drain`
    for each run, `close` at the end."""

    def __init__(self, log_file: Path | None, limit_bytes: int, tail_lines: int) -> None:
        self._path = log_file
        self._limit_bytes = limit_bytes
        self._lines: deque[str] = deque(maxlen=tail_lines)
        self._run_lines = 0
        self._partial = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._file: BinaryIO | None = None
        self._read_end = -1
        self._transport: asyncio.BaseTransport | None = None
        self._ended: asyncio.Event = asyncio.Event()

    def tail(self) -> tuple[str, ...]:
        """The last lines."""
        return (*self._lines, self._partial) if self._partial else tuple(self._lines)

    def tail_of_run(self) -> tuple[str, ...]:
        """The last lines since `begin`."""
        kept = min(self._run_lines, len(self._lines))
        return tuple(self._lines)[len(self._lines) - kept :]

    def begin(self) -> None:
        """A new run starts."""
        self._run_lines = 0
        self._partial = ""
        self._decoder.reset()

    @contextmanager
    def pipe(self) -> Iterator[int]:
        """The write end for the child, closed in this process afterwards."""
        self._read_end, write_end = os.pipe()
        try:
            yield write_end
        except BaseException:
            os.close(self._read_end)
            raise
        finally:
            os.close(write_end)

    async def follow(self) -> None:
        """Begin to read, in the background."""
        self._ended = asyncio.Event()
        file = os.fdopen(self._read_end, "rb", buffering=0)
        try:
            await asyncio.get_running_loop().connect_read_pipe(lambda: self, file)
        except BaseException:
            file.close()
            raise

    async def drain(self) -> None:
        """Wait a moment for what is still in the pipe, then close it."""
        try:
            await asyncio.wait_for(self._ended.wait(), _DRAIN_S)
        except TimeoutError:
            _LOG.debug("a process outside the child's group still holds its output")
        if self._transport is not None:
            self._transport.close()
            self._transport = None
            await self._ended.wait()
        if self._partial:
            self._line(self._partial)
            self._partial = ""

    def close(self) -> None:
        """Close the log file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: reading has begun."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the last writer is gone."""
        self._ended.set()

    def data_received(self, data: bytes) -> None:
        """asyncio: output of the child."""
        self._write(data)
        *lines, self._partial = (self._partial + self._decoder.decode(data)).split("\n")
        self._partial = self._partial[:_LINE_LIMIT]
        for line in lines:
            self._line(line)

    def _line(self, line: str) -> None:
        self._lines.append(line[:_LINE_LIMIT].rstrip("\r"))
        self._run_lines += 1

    def _write(self, data: bytes) -> None:
        if self._path is None:
            return
        try:
            while data:
                if self._file is None:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    self._file = self._path.open("ab", buffering=0)
                room = self._limit_bytes - self._file.tell()
                if room <= 0:
                    self._file.close()
                    self._file = None
                    self._path.replace(self._path.with_name(self._path.name + ".1"))
                    continue
                data = data[self._file.write(data[:room]) :]
        except OSError as error:
            # The child must not suffer from a full disk; its last lines are in memory.
            _LOG.error("cannot write %s, its output is no longer logged: %s", self._path, error)
            self._path = None
