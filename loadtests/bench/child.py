"""A process that ends with the one that has started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

_STOP_S: Final = 15.0

# The kernel ends the process when we are gone, even by SIGKILL.
_TIED: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this one is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Child:
    """One process, and those that it starts itself."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        piped: bool = False,
        environment: Mapping[str, str] | None = None,
        cores: Collection[int] = (),
    ) -> None:
        """Start it. What it prints goes to ``log``; when ``piped``, only what it writes to standard
        error, and its standard input and output are pipes. ``environment``: variables beside ours.
        ``cores``: those that it may use, and what it starts; none given: all."""
        self.name = name
        self._log = log
        tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
        with log.open("wb") as file:
            # A session of its own: Ctrl-C reaches us alone, and we end things in order.
            self._popen = subprocess.Popen(
                tied,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else file,
                stderr=file,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        if cores:
            os.sched_setaffinity(self._popen.pid, cores)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def output(self) -> str:
        """What it has written to the log so far."""
        return self._log.read_text(errors="replace")

    def terminate(self) -> None:
        """SIGTERM, if it still runs."""
        if self.exit_status is None:
            self._popen.send_signal(signal.SIGTERM)

    def reap(self) -> None:
        """Wait for its end, for some time; then SIGKILL, also for what it has left behind."""
        try:
            self._popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._kill_family()
            self._popen.wait()
        self._kill_family()

    def _kill_family(self) -> None:
        """Its process group, which keeps its number for as long as one of them is there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
