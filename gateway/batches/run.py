"""One batch at work: which of its lines are answered, under way, and still to be sent."""

from __future__ import annotations

import asyncio
import heapq
import os
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from msgspec.structs import replace

from gateway.batches.folder import Folder
from gateway.batches.lines import Index, Limits, Line, digest, index, read_line
from gateway.batches.outcome import Answered, not_answered
from gateway.batches.records import BatchRecord, Counts
from gateway.batches.results import AnswerFile

_AHEAD_LINES: Final = 64
_AHEAD_BYTES: Final = 2 << 20
"""Read of the input at once."""
_REST_LINES: Final = 500


class BrokenInput(Exception):  # noqa: N818 - what it is
    """The input file is not what it was when it was checked."""


def check(folder: Folder, record: BatchRecord, limits: Limits) -> Index:
    """Read the batch's input. Raises OSError. Not for the event loop's thread."""
    with folder.input(record.id).open("rb") as file:
        return index(file, record.endpoint, limits)


class BatchRun:
    """Made, and each method that says so called, in a thread; the others in the event loop. Never
    both at once for what they share."""

    def __init__(self, folder: Folder, record: BatchRecord, limits: Limits) -> None:
        """In a thread: read the input, and what is answered already. Raises OSError and
        BrokenInput."""
        self.record = record
        self._input = folder.input(record.id)
        self._index = check(folder, record, limits)
        if self._index.errors:
            raise BrokenInput(self._index.errors[0].message)
        self._output = AnswerFile(folder.file(record.output_id))
        self._errors = AnswerFile(folder.file(record.error_id))
        done, failed = self._output.recover(), self._errors.recover()
        answered = {*done.ids, *failed.ids}
        self.completed, self.failed = len(done.ids), len(failed.ids)
        self.used = done.used
        self._pending = array(
            "L", (n for n, id_ in enumerate(self._index.ids) if id_ not in answered)
        )
        self._place = 0
        """In `_pending`, of the first one that is not read yet."""
        self._ahead: deque[Line] = deque()
        self._later: list[tuple[float, int, Line]] = []
        """Lines to be sent again, by when."""
        self._tries: dict[int, int] = {}
        self.under_way: dict[int, Line] = {}
        self._to_write: list[Answered] = []
        self.unwritten_bytes = 0
        self.stopping = False
        """Nothing is sent any more."""
        self.reading = False
        """`read_ahead` is being called."""
        self.writing = asyncio.Lock()
        """Held while `write` is called."""

    @property
    def total(self) -> int:
        """Lines."""
        return self._index.total

    @property
    def counts(self) -> Counts:
        """Of lines; those answered are on disk."""
        return Counts(self.total, self.completed, self.failed)

    @property
    def is_done(self) -> bool:
        """Every line is answered, and the answers are on disk."""
        return self.completed + self.failed >= self.total

    # -- what is to be sent

    @property
    def wants_ahead(self) -> bool:
        """`read_ahead` has something to do."""
        left = self._place < len(self._pending)
        return left and not self._ahead and not self.reading and not self.stopping

    def read_ahead(self) -> None:
        """In a thread: read the next lines of the input. Raises OSError and BrokenInput."""
        size = 0
        with self._input.open("rb") as file:
            while self._place < len(self._pending) and size < _AHEAD_BYTES:
                line = self._read(file.fileno(), self._pending[self._place])
                size += len(line.body)
                self._ahead.append(line)
                self._place += 1
                if len(self._ahead) >= _AHEAD_LINES:
                    break

    def next(self, now_s: float) -> Line | None:
        """A line to be sent now: it counts as under way. None: there is none."""
        if self.stopping:
            return None
        if self._later and self._later[0][0] <= now_s:
            line = heapq.heappop(self._later)[2]
        elif self._ahead and not self.reading:
            line = self._ahead.popleft()
        else:
            return None
        self.under_way[line.number] = line
        return line

    @property
    def next_due_s(self) -> float | None:
        """When a line is to be sent again; None: none is."""
        return self._later[0][0] if self._later else None

    # -- what came of it

    def again(self, line: Line, at_s: float) -> None:
        """The line is to be sent again then."""
        if self.under_way.pop(line.number, None) is not None:
            heapq.heappush(self._later, (at_s, line.number, line))

    def tried(self, line: Line) -> int:
        """A try of the line has failed: which one it was, from 1."""
        self._tries[line.number] = self._tries.get(line.number, 0) + 1
        return self._tries[line.number]

    def answered(self, line: Line, outcome: Answered) -> None:
        """The line is answered; `write` puts that on disk."""
        if self.under_way.pop(line.number, None) is None:
            return
        self._tries.pop(line.number, None)
        self._to_write.append(outcome)
        self.unwritten_bytes += len(outcome.line)

    def take_unwritten(self) -> list[Answered]:
        """What `write` is to write."""
        taken, self._to_write, self.unwritten_bytes = self._to_write, [], 0
        return taken

    def put_back(self, outcomes: list[Answered]) -> None:
        """`write` has failed."""
        self._to_write[:0] = outcomes
        self.unwritten_bytes += sum(len(one.line) for one in outcomes)

    def write(self, outcomes: list[Answered]) -> None:
        """In a thread: put answers on disk. Raises OSError; call it again with the same ones, minus
        those that count by then."""
        good = [one for one in outcomes if one.succeeded]
        bad = [one for one in outcomes if not one.succeeded]
        if good:
            self._output.append([one.line for one in good])
            self.completed += len(good)
            self.used = sum((one.used for one in good), self.used)
            outcomes[:] = bad
        if bad:
            self._errors.append([one.line for one in bad])
            self.failed += len(bad)
            outcomes.clear()

    def give_up(self, why: tuple[str, str]) -> None:
        """In a thread: write an error for each line that is not answered. Nothing is under way."""
        with self._input.open("rb") as file:
            for part in self._parts():
                lines = []
                for one in part:
                    line = one if isinstance(one, Line) else self._read(file.fileno(), one)
                    lines.append(not_answered(line.custom_id, why))
                self._errors.append(lines)
                self.failed += len(lines)

    def close(self) -> None:
        """In a thread: let go of its files."""
        with closing(self._output), closing(self._errors):
            self._ahead.clear()

    @property
    def sizes_bytes(self) -> tuple[int, int]:
        """Of the output and the error file."""
        return self._output.size_bytes, self._errors.size_bytes

    def shown(self, record: BatchRecord) -> BatchRecord:
        """The record with what is known here."""
        return replace(record, counts=self.counts, used=self.used, model=self._index.model)

    def _parts(self) -> Iterator[list[Line | int]]:
        rest: list[Line | int] = [*self._ahead, *(entry[2] for entry in self._later)]
        rest += self._pending[self._place :]
        self._place = len(self._pending)
        self._ahead.clear()
        self._later.clear()
        for start in range(0, len(rest), _REST_LINES):
            yield rest[start : start + _REST_LINES]

    def _read(self, file: int, number: int) -> Line:
        size, at = self._index.sizes[number], self._index.starts[number]
        content = os.pread(file, size, at)
        if number == 0:
            content = content.removeprefix(b"\xef\xbb\xbf")
        try:
            line = read_line(content, number)
        except ValueError as error:
            raise BrokenInput(str(error)) from error
        if digest(line.custom_id) != self._index.ids[number]:
            raise BrokenInput("the input file was changed")
        return line
