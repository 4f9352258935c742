"""Free TCP ports for tests that run side by side."""

from __future__ import annotations

import os
from typing import Final

from loadtests.bench import ports

_RANGE: Final = range(10_000, 20_000)
"""Below the ports that Linux takes for outgoing connections, and below those of replicas that
Penstock starts itself."""


def free_port() -> int:
    """A port that nobody listens on, and that this process has not given away before. Each
    xdist worker takes them from a part of its own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return ports.free_port(_RANGE[int(worker) % 5 * 2000 :][:2000])
