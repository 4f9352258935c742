"""Free TCP ports for tests that run side by side."""

from __future__ import annotations

import os
import random
import socket
from typing import Final

_RANGE: Final = range(10_000, 20_000)
"""Below the ports that Linux takes for outgoing connections, and below those of replicas that
Penstock starts itself."""
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that this process has not given away before. Each
    xdist worker takes them from a part of its own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    share = _RANGE[int(worker) % 10 * 1000 :][:1000]
    for port in random.sample(share, len(share)):
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise OSError("no free port")
