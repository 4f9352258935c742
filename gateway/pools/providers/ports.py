"""TCP ports for replicas."""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import Container
from typing import Final

_RANGE: Final = range(20_000, 32_000)
"""Below the ports that Linux takes for outgoing connections (from 32768): a replica may need a
minute from its start until it listens, and the port must still be free then."""
_TRIES: Final = 500


def is_free(host: str, port: int) -> bool:
    """Whether a server can listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str, taken: Container[int], rng: random.Random) -> int:
    """A port that is free and not among those ``taken``. Raises OSError when none is found."""
    for _ in range(_TRIES):
        port = rng.choice(_RANGE)
        if port not in taken and is_free(host, port):
            return port
    raise OSError(f"no free port from {_RANGE.start} to {_RANGE.stop - 1} on {host}")


def reachable(host: str) -> str:
    """The address to connect to for a server that listens on this one."""
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"
