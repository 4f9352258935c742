"""The picker worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from gateway.children.child import Backoff, Child, ChildError, ChildSpec, ChildState, Launch
from gateway.control.server import ControlServer
from gateway.envoy.plan import WorkerSockets
from gateway.run.rundir import RunDir
from gateway.telemetry.multiprocess import worker_ended

log = logging.getLogger(__name__)

_GRACE_S: Final = 14.0
"""To finish what runs, and to deliver settlements to a slow limit store."""
_RETIRE_S: Final = 0.3
"""From taking a picker out of Envoy's list to ending it: Envoy reads the list within that time."""


class Pickers:
    """As many workers as are wanted, each started again when it ends."""

    def __init__(self, run: RunDir, control: ControlServer, on_change: Callable[[], None]) -> None:
        """``on_change``: called when one has started, has become ready, or has ended."""
        self._run = run
        self._control = control
        self._on_change = on_change
        self._children: list[Child] = []
        self._retiring: Child | None = None
        self._pids: dict[str, set[int]] = {}
        """By worker: processes whose counters are still to be kept when they have ended."""

    @property
    def children(self) -> Sequence[Child]:
        """By index."""
        return self._children

    def serving(self) -> list[int]:
        """Indices of those that requests can go to."""
        return [
            index
            for index, child in enumerate(self._children)
            if child.state is ChildState.READY and child is not self._retiring
        ]

    def sockets(self) -> tuple[WorkerSockets, ...]:
        """Of those where requests are to be decided; when no picker serves, of all."""
        indices = self.serving() or range(len(self._children))
        return tuple(map(self._run.worker_sockets, indices))

    async def start(self, workers: int) -> None:
        """Start so many, and return when each is ready. Raises ChildError when one ends first."""
        self._children = [self._made(index) for index in range(workers)]
        for child in self._children:
            child.start()
        await asyncio.gather(*(child.wait_ready() for child in self._children))

    async def more(self, workers: int) -> None:
        """Start what is missing, one after the other. Those that run must know the new number
        already."""
        for index in range(len(self._children), workers):
            child = self._made(index)
            self._children.append(child)
            child.start()
            try:
                await child.wait_ready()
            except ChildError as error:
                log.error("%s; it is started again", error)  # noqa: TRY400 - no stack wanted

    async def fewer(self, workers: int, drain_s: float) -> None:
        """End those that are too many, one after the other, while the others still report to them
        how their requests end. ``drain_s``: see `stop`."""
        for child in self._children[workers:]:
            self._retiring = child
            self._on_change()
            await asyncio.sleep(_RETIRE_S)
            await _stopped(child, drain_s)
            self._retiring = None
        del self._children[workers:]

    def leave(self) -> None:
        """Have them say that they are not ready any more. They go on serving until `stop`."""
        self._signal(signal.SIGUSR1, ChildState.READY)

    def close_queues(self) -> None:
        """Have them refuse what waits for its pool, and what would have to."""
        self._signal(signal.SIGUSR2, ChildState.READY)

    def hurry(self) -> None:
        """Have those that `stop` waits for end what still runs."""
        self._signal(signal.SIGTERM, ChildState.STOPPING)

    async def stop(self, drain_s: float = 0.0) -> None:
        """End all of them; harmless when called again. ``drain_s``: time that they take for what
        runs on ports of their own."""
        await asyncio.gather(*(_stopped(child, drain_s) for child in self._children))

    def reopen_logs(self) -> None:
        """The request log's file was rotated; the pickers hold it open."""
        self._signal(signal.SIGHUP, ChildState.READY)

    def _signal(self, number: signal.Signals, state: ChildState) -> None:
        """To those in this state: one that starts has no handlers yet, and would end."""
        for child in self._children:
            if child.state is state and child.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    def _made(self, index: int) -> Child:
        name = f"picker-{index}"
        command = (
            *(sys.executable, "-m", "gateway.run.worker", "--run-dir", str(self._run.path)),
            *("--index", str(index)),
        )

        async def ready() -> bool:
            report = self._control.reports.get(name)
            return report is not None and report.pid == child.pid and report.ready

        child = Child(
            ChildSpec(
                name=name,
                launch=lambda: Launch(command, env=self._run.worker_environment()),
                ready=ready,
                ready_timeout_s=30.0,
                ready_interval_s=0.02,  # it looks at the last report
                grace_s=_GRACE_S,
                backoff=Backoff(initial_s=0.05, max_s=5.0, stable_after_s=5.0),
                log_file=self._run.logs / f"{name}.log",
            ),
            on_state=self._changed,
        )
        return child

    def _changed(self, child: Child) -> None:
        if child.state in (ChildState.BACKOFF, ChildState.STOPPED):
            for pid in self._pids.pop(child.spec.name, set()):
                worker_ended(pid, self._run.metrics)
            if child.state is ChildState.BACKOFF:
                self._control.picker_crashed()
        elif child.pid is not None:
            self._pids.setdefault(child.spec.name, set()).add(child.pid)
        self._on_change()


async def _stopped(child: Child, drain_s: float) -> None:
    child.spec = replace(child.spec, grace_s=_GRACE_S + drain_s)
    await child.stop()
