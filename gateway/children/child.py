"""One supervised child process: started, watched until ready, restarted, stopped, never leaked."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.children.output import ChildOutput

_LOG: Final = logging.getLogger("penstock.child")

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
Probe = Callable[[], Awaitable[bool]]

# Runs in the child before the command takes its place. It asks the kernel to signal the child when
# the thread that started it dies. A preexec_fn would have to fork a process full of gRPC threads.
_LAUNCHER: Final = """\
import ctypes, os, sys
death_signal, parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(death_signal), 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit("the parent process is gone")
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.exit(f"cannot execute {command[0]}: {error.strerror}")
"""


class ChildState(enum.Enum):
    """Where a child is in its life."""

    IDLE = "idle"
    """Never started."""
    STARTING = "starting"
    """Running, not ready yet."""
    READY = "ready"
    ENDED = "ended"
    """Ended by itself; what it left running is being ended too."""
    BACKOFF = "backoff"
    """Ended; will be started again after a wait."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """Stopped on request, or ended and not to be restarted."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What one start executes."""

    command: tuple[str, ...]
    env: Mapping[str, str] | None = field(default=None, repr=False)
    """The whole environment; None: this process's."""
    cwd: Path | None = None
    pass_fds: tuple[int, ...] = ()
    """Open files that it inherits, by number."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between restarts: doubled each time, up to a limit, times 0.5 to 1 at random."""

    initial_s: float = 0.5
    max_s: float = 30.0
    stable_after_s: float = 30.0
    """A child that was ready this long starts from the initial wait again."""

    def wait_s(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after the given number of failures in a row (from 1)."""
        full = min(self.max_s, self.initial_s * 2.0 ** min(failures - 1, 60))
        return full * rng.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How a child is run."""

    name: str
    """For logs and messages."""
    launch: Callable[[], Launch]
    """Called before every start, so that a restart can use another port."""
    ready: Probe | None = None
    """True when the child is ready; an OSError or TimeoutError counts as False. None: the child is
    ready at once."""
    ready_timeout_s: float = 60.0
    ready_interval_s: float = 0.1
    grace_s: float = 10.0
    """From SIGTERM to SIGKILL."""
    restart: bool = True
    backoff: Backoff = field(default_factory=Backoff)
    death_signal: signal.Signals = signal.SIGKILL
    """Signal to the child when this process dies. SIGTERM for one that has children itself."""
    log_file: Path | None = None
    """Output is appended here, beside the last lines kept in memory."""
    log_limit_bytes: int = 16 << 20
    """At this size the file is renamed to ``<name>.1`` and begun anew."""
    tail_lines: int = 50


@dataclass(frozen=True, slots=True)
class ChildExit:
    """How a run of the child ended."""

    reason: str
    """For example ``exit code 3``, ``killed by SIGSEGV``, ``not ready within 60 s``."""
    output: tuple[str, ...]
    """Its last lines."""

    def __str__(self) -> str:
        return "\n".join([self.reason, *(f"  {line}" for line in self.output)])


class ChildError(Exception):
    """A child could not be started, or ended when it should not have."""

    def __init__(self, name: str, ending: ChildExit) -> None:
        self.name = name
        self.ending = ending
        super().__init__(f"{name}: {ending}")


class Child:
    """Runs one command and keeps it running until `stop`. Use it from one event loop."""

    def __init__(
        self,
        spec: ChildSpec,
        *,
        on_state: Callable[[Child], None] | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        """``on_state`` is called after every change of `state`; it must not raise."""
        self.spec = spec
        self.state = ChildState.IDLE
        self.pid: int | None = None
        self.restarts = 0
        self.last_exit: ChildExit | None = None
        """How the last run ended that nobody had asked to stop."""
        self._on_state = on_state
        self._clock, self._sleep = clock, sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._output = ChildOutput(spec.log_file, spec.log_limit_bytes, spec.tail_lines)
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._endings = 0
        self._task: asyncio.Task[None] | None = None

    def output(self) -> tuple[str, ...]:
        """The last lines that it has written, stdout and stderr, over all its runs."""
        return self._output.tail()

    def start(self) -> None:
        """Begin to supervise; return at once. Raises RuntimeError when it was started before."""
        if self._task is not None:
            raise RuntimeError(f"{self.spec.name} was started before")
        self._task = asyncio.create_task(self._supervise(), name=f"child {self.spec.name}")

    async def wait_ready(self) -> None:
        """Return when it is ready. Raises ChildError when the run ends first; even then it is
        started again in the background, until `stop`."""
        endings = self._endings
        while self.state is not ChildState.READY:
            if self._endings > endings and self.last_exit is not None:
                raise ChildError(self.spec.name, self.last_exit)
            if self.state is ChildState.STOPPED or self._stop.is_set():
                ending = self.last_exit or ChildExit("stopped before it was ready", self.output())
                raise ChildError(self.spec.name, ending)
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL to the whole process group after the grace; return when nothing
        of it runs. Harmless when it was never started or is stopped already. When cancelled, it
        kills at once.
        """
        self._stop.set()
        self._changed.set()
        if self._task is None:
            self._set(ChildState.STOPPED)
            return
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self.kill()
            await asyncio.wait({self._task})
            raise

    def kill(self) -> None:
        """SIGKILL the whole process group and end the supervision; `stop` waits for it."""
        self._stop.set()
        self._changed.set()
        if self._task is not None:
            self._task.cancel()

    def _set(self, state: ChildState) -> None:
        if state is self.state:
            return
        self.state = state
        self._changed.set()
        if self._on_state is not None:
            self._on_state(self)

    async def _supervise(self) -> None:
        failures = 0
        try:
            while not self._stop.is_set():
                ready_s, ending = await self._run()
                if ending is None:  # asked to stop
                    break
                failures = 1 if ready_s >= self.spec.backoff.stable_after_s else failures + 1
                self.last_exit = ending
                self._endings += 1
                self._changed.set()
                _LOG.warning("%s ended: %s", self.spec.name, ending)
                if not self.spec.restart:
                    break
                self._set(ChildState.BACKOFF)
                wait = asyncio.ensure_future(
                    self._sleep(self.spec.backoff.wait_s(failures, self._rng))
                )
                try:
                    await self._first_of(wait)
                finally:
                    wait.cancel()
                if not self._stop.is_set():
                    self.restarts += 1
        except Exception:
            _LOG.exception("%s is no longer supervised", self.spec.name)
            raise
        finally:
            self._output.close()
            self._set(ChildState.STOPPED)

    async def _run(self) -> tuple[float, ChildExit | None]:
        """One run: seconds that it was ready, and how it ended (None: it was asked to stop)."""
        self._output.begin()
        try:
            process = await self._spawn()
        except OSError as error:
            return 0.0, ChildExit(f"cannot start: {error}", ())
        self.pid = process.pid
        ready_at_s: float | None = None
        exited = asyncio.create_task(process.wait())
        reason: str | None = None
        try:
            self._set(ChildState.STARTING)
            ready = asyncio.create_task(self._become_ready())
            try:
                await self._first_of(exited, ready)
                if ready.done() and not exited.done():
                    if ready.result():
                        ready_at_s = self._clock()
                        self._set(ChildState.READY)
                        await self._first_of(exited)
                    else:
                        reason = f"not ready within {self.spec.ready_timeout_s:g} s"
            finally:
                ready.cancel()
                await asyncio.gather(ready, return_exceptions=True)
            asked = self._stop.is_set()
            if asked:
                self._set(ChildState.STOPPING)
            elif exited.done():
                self._set(ChildState.ENDED)
            if not exited.done():
                await self._terminate(process, exited)
            reason = reason or _reason(process.returncode)
        finally:
            _signal_group(process.pid, signal.SIGKILL)
            await asyncio.shield(exited)
            self.pid = None
            await asyncio.shield(self._output.drain())
        ready_s = 0.0 if ready_at_s is None else self._clock() - ready_at_s
        return ready_s, None if asked else ChildExit(reason, self._output.tail_of_run())

    async def _spawn(self) -> asyncio.subprocess.Process:
        launch = self.spec.launch()
        program = launch.command[0]
        env = os.environ if launch.env is None else launch.env
        where = launch.cwd or Path()
        if not shutil.which(
            str(where / program) if "/" in program else program, path=env.get("PATH")
        ):
            raise FileNotFoundError(f"{program}: no such program, or not executable")
        if not where.is_dir():
            raise NotADirectoryError(f"working folder {where}: no such folder")
        arguments = (str(int(self.spec.death_signal)), str(os.getpid()), *launch.command)
        with self._output.pipe() as write_end:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _LAUNCHER, *arguments),
                env=dict(env),
                cwd=launch.cwd,
                pass_fds=launch.pass_fds,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
            )
        try:
            await self._output.follow()
        except BaseException:
            _signal_group(process.pid, signal.SIGKILL)
            raise
        return process

    async def _become_ready(self) -> bool:
        deadline_s = self._clock() + self.spec.ready_timeout_s
        while self.spec.ready is not None:
            try:
                async with asyncio.timeout(max(deadline_s - self._clock(), 0.01)):
                    if await self.spec.ready():
                        return True
            except (OSError, TimeoutError) as error:
                _LOG.debug("%s is not ready: %s", self.spec.name, error)
            if self._clock() >= deadline_s:
                return False
            await self._sleep(self.spec.ready_interval_s)
        return True

    async def _terminate(
        self, process: asyncio.subprocess.Process, exited: asyncio.Task[int]
    ) -> None:
        """SIGTERM the child, then whatever of its group is left; wait for both within the grace."""
        end_s = time.monotonic() + self.spec.grace_s
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await asyncio.wait({exited}, timeout=self.spec.grace_s)
        if exited.done() and _signal_group(process.pid, signal.SIGTERM):
            # The kernel does not report the end of a process that is not our child.
            while time.monotonic() < end_s and _signal_group(process.pid, 0):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _first_of(
        self, *tasks: asyncio.Future[int] | asyncio.Future[bool] | asyncio.Future[None]
    ) -> None:
        """Wait for one of the tasks or for `stop`."""
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; whether there was anything left in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _reason(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
