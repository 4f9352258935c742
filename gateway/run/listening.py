"""The ports that Penstock's own parts will listen on."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from gateway.config.config import Config
from gateway.run.supervisor import StartError


def require_free(config: Config) -> None:
    """Raise StartError when a port is taken. To be called before anything is started, because the
    parts' own messages name neither the key nor a remedy."""
    for key, address, port in _listeners(config):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise StartError(
                    f"cannot listen on {address}:{port} ({error.strerror}): end what listens"
                    f" there, or set {key}.port to a free one"
                ) from error


def _listeners(config: Config) -> Iterator[tuple[str, str, int]]:
    if config.envoy.enabled:
        yield "listen", config.listen.address, config.listen.port
    yield "admin", config.admin.address, config.admin.port
    picker = config.picker
    for key, optional in (
        ("picker.ext_proc", picker.ext_proc),
        ("picker.health", picker.health),
        ("picker.metrics", picker.metrics),
    ):
        if optional.port is not None:
            yield key, optional.address, optional.port
