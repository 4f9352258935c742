"""The ports that Penstock's own parts will listen on."""

from __future__ import annotations

import socket

from gateway.config.config import Config
from gateway.config.schema.fault import key_path
from gateway.run.supervisor import StartError


def require_free(config: Config) -> None:
    """Raise StartError when a port is taken. To be called before anything is started, because the
    parts' own messages name neither the key nor a remedy."""
    for at, address, port in config.listeners():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise StartError(
                    f"cannot listen on {address}:{port} ({error.strerror}): end what listens"
                    f" there, or set {key_path(at)}.port to a free one"
                ) from error
