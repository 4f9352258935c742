"""Processes that the lab starts, and ends again whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from loadtests.bench import processes
from loadtests.lab.source import LabError

_STOP_S: Final = 10.0
_POLL_S: Final = 0.05
_WATCH_S: Final = 0.5
_LAST_LINES: Final = 12

# Has the kernel end the process when the lab is gone, even by SIGKILL.
_TIED: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the lab is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class StartError(LabError):
    """A process does not run as it should (any more); the message has its last words."""


class Child:
    """One process, and those that it starts itself. What it prints goes to a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        """Starts it."""
        self.name, self._log = name, log
        tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
        with log.open("wb") as file:
            # A session of its own: Ctrl-C reaches the lab alone, which ends things in order.
            self._popen = subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    async def until(self, ready: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
        """Returns when it is ready. Raises StartError when it ends, or takes longer."""
        deadline_s = time.monotonic() + within_s
        while not await ready():
            if self._popen.poll() is not None:
                raise self._problem(f"has ended with {self._popen.returncode}")
            if time.monotonic() > deadline_s:
                raise self._problem(f"is not ready after {within_s:g} s")
            await asyncio.sleep(_POLL_S)

    def problem(self) -> StartError | None:
        """None while it runs."""
        if self._popen.poll() is None:
            return None
        return self._problem(f"has ended with {self._popen.returncode} in the middle of a run")

    async def ended(self) -> StartError:
        """Returns when it has ended by itself, with what to say about it."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if (problem := self.problem()) is not None:
                return problem

    def cpu_s(self) -> float:
        """CPU seconds so far of it and of all that it has started, those that have ended too: a
        worker that dies in a run takes nothing with it."""
        total_s = 0.0
        for pid in _family(self.pid):
            try:
                total_s += processes.cpu_s(pid) + processes.ended_children_s(pid)
            except processes.GoneError:
                continue
        return total_s

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not do, for what it has left behind as well."""
        if self._popen.poll() is not None:
            self._kill_family()
            return
        self._popen.send_signal(signal.SIGTERM)
        stopping = asyncio.ensure_future(asyncio.to_thread(self._ended))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await stopping
            raise

    def _ended(self) -> None:
        try:
            self._popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._kill_family()
            self._popen.wait()
        self._kill_family()

    def _kill_family(self) -> None:
        """Its process group, which has its number for as long as one of them is there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _problem(self, what: str) -> StartError:
        lines = [line for line in self.output().splitlines() if line.strip()]
        return StartError("\n  ".join([f"{self.name} {what}:", *lines[-_LAST_LINES:]]))


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        found += processes.children(parent)
    return found
