"""Processes that the lab starts, and ends again whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Self

from loadtests.bench import processes
from loadtests.bench.child import Child
from loadtests.lab.source import LabError

_POLL_S: Final = 0.05
_WATCH_S: Final = 0.5
_LAST_LINES: Final = 12


class LabStartError(LabError):
    """A process does not run, or has ended too early; the message has its last words."""


class LabChild(Child):
    """A process that is watched while it runs, and ended on leaving."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def until(self, ready: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
        """Return when ``ready`` is true. Raises LabStartError when the process ends, or takes
        longer."""
        deadline_s = time.monotonic() + within_s
        while not await ready():
            if self.exit_status is not None:
                raise self._problem(f"has ended with {self.exit_status}")
            if time.monotonic() > deadline_s:
                raise self._problem(f"is not ready after {within_s:g} s")
            await asyncio.sleep(_POLL_S)

    def problem(self) -> LabStartError | None:
        """None while it runs."""
        if self.exit_status is None:
            return None
        return self._problem(f"has ended with {self.exit_status} in the middle of a run")

    async def ended(self) -> LabStartError:
        """Return when it has ended by itself: how, and its last words."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if (problem := self.problem()) is not None:
                return problem

    def cpu_s(self) -> float:
        """CPU seconds so far of the process and of all that it has started, those that have ended
        too: the time of a worker that dies during a run still counts."""
        total_s = 0.0
        for pid in processes.family(self.pid):
            try:
                total_s += processes.cpu_s(pid) + processes.ended_children_s(pid)
            except processes.GoneError:
                continue
        return total_s

    async def stop(self) -> None:
        """End it and what it has started, even when this is cancelled meanwhile."""
        self.terminate()
        stopping = asyncio.ensure_future(asyncio.to_thread(self.reap))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await stopping
            raise

    def _problem(self, what: str) -> LabStartError:
        lines = [line for line in self.output().splitlines() if line.strip()]
        return LabStartError("\n  ".join([f"{self.name} {what}:", *lines[-_LAST_LINES:]]))
