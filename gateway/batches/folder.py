"""Where files stand on disk."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

_STRAY_S: Final = 3600.0
"""A file that nobody knows is removed at this age: an upload that broke off, or the process that
did."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The lane's folder; only this user may enter it."""

    path: Path

    def prepare(self) -> None:
        """Make what is missing. Raises OSError."""
        for folder in (self.path, self.path / "files", self.path / "work"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def database(self) -> Path:
        """What is recorded."""
        return self.path / "batches.db"

    def file(self, id_: str) -> Path:
        """The content of a file. Its id is ours, never what a client has sent."""
        return self.path / "files" / id_

    def arriving(self, id_: str) -> Path:
        """The same while it is uploaded."""
        return self.path / "files" / f".{id_}"

    def input(self, batch: str) -> Path:
        """A batch's own name for its input file, so that a client may delete that."""
        return self.path / "work" / batch

    def keep_input(self, batch: str, file: str) -> None:
        """Give a file the batch's own name as well. Raises FileNotFoundError."""
        os.link(self.file(file), self.input(batch))

    def free_bytes(self) -> int:
        """Of the disk, for us."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def strays(self, known: Collection[str]) -> list[Path]:
        """Old files that are not among the known ones, by their names."""
        before_s = time.time() - _STRAY_S
        return [
            entry
            for part in ("files", "work")
            for entry in (self.path / part).iterdir()
            if entry.name not in known and entry.stat().st_mtime < before_s
        ]

    def lead(self) -> TextIO | None:
        """The lock of the one process that works on batches, held until it is closed; None: another
        one has it. The kernel gives it back when the process dies. Raises OSError."""
        self.prepare()
        lock = (self.path / "lead").open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock
