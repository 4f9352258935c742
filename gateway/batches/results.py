"""The output and error file of a batch, which are its journal too: a line of the input is answered
when its answer stands there whole.

Answers are appended, and on disk before they count. What a process that died has left half-written
is cut off, and that line is sent again: so no line is lost, and none is there twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
from msgspec import Struct

from gateway.batches.lines import digest
from gateway.batches.outcome import used_by
from gateway.batches.records import Used

_LONGEST_LINE: Final = 1 << 30
_TAIL_BYTES: Final = 1 << 16


class Recovered(Struct):
    """What a file holds already."""

    ids: list[int]
    """Digests of the custom ids of its lines."""
    used: Used


class AnswerFile:
    """One of the two. Not for the event loop's thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        _cut_tail(self._file)
        self.size_bytes = os.fstat(self._file).st_size

    def recover(self) -> Recovered:
        """Read what it holds."""
        found = Recovered([], Used())
        with self.path.open("rb") as file:
            for content in file:
                line = orjson.loads(content)
                found.ids.append(digest(line["custom_id"]))
                response = line["response"]
                body = response["body"] if isinstance(response, dict) else None
                if isinstance(body, dict):
                    found.used += used_by(body)
        return found

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines; they are on disk when it returns. Raises OSError: then none of them is."""
        if not lines:
            return
        rest = memoryview(b"".join(lines))
        size = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self.size_bytes)
            raise
        self.size_bytes += size

    def close(self) -> None:
        """Let go of it; an empty one is removed."""
        os.close(self._file)
        if not self.size_bytes:
            self.path.unlink(missing_ok=True)


def _cut_tail(file: int) -> None:
    """Cut off what stands behind the last line break."""
    size = end = os.fstat(file).st_size
    while end:
        start = max(0, end - _TAIL_BYTES)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
