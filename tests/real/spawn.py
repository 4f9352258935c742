"""Child processes of tests: ended when the test process ends, whatever ends it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)


def spawn(command: Sequence[str], output: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a command; what it prints is appended to a file."""

    def die_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    with output.open("ab") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            preexec_fn=die_with_parent,
        )


def tail(file: Path, lines: int = 60) -> str:
    """The last lines of a log."""
    if not file.exists():
        return "(nothing)"
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
