"""The command `penstock`, as a process."""

from __future__ import annotations

import subprocess
import sys


def penstock(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = [sys.executable, "-m", "gateway.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
