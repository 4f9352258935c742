"""Free TCP ports for what is started here."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from typing import Final

_RANGE: Final = range(12_000, 32_000)
"""Below the ports that Linux takes for outgoing connections."""
_TRIES: Final = 1_000
_given: set[int] = set()


def free_port(among: Sequence[int] = _RANGE) -> int:
    """One that nobody listens on, and that this process has not given away before. Raises
    OSError."""
    for port in random.sample(among, min(_TRIES, len(among))):
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
    raise OSError(f"no free port from {min(among)} to {max(among)}")
