"""The picker's servers: unix sockets for our own Envoy, TCP for somebody else's gateway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from picker.core import Picker
from picker.server.access_log import AccessLogs
from picker.server.ext_proc import ExternalProcessor
from picker.server.fast import MAX_MESSAGE_BYTES, FastPath
from picker.server.health import Health
from picker.server.unix_server import UnixServer

_MAX_CHUNK_BYTES: Final = 16 << 20
"""A streamed body comes in chunks no larger than the gateway's buffers."""
_LAST_ENTRIES_S: Final = 2.0
"""Longest wait for an access log that does not fall silent."""
_DRAIN_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM certificate chain and private key."""

    chain: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Address:
    """Where a TCP server listens; several processes may share the port (SO_REUSEPORT)."""

    host: str
    port: int
    certificate: Certificate | None = None

    @property
    def target(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Listeners:
    """All the sockets of one picker process."""

    socket: Path | None
    """Unix socket where our own Envoy asks for decisions."""
    access_logs: Path | None
    """Unix socket for its access logs, by gRPC; health as well."""
    ext_proc: Address | None
    """The Endpoint Picker protocol, port 9002 by convention."""
    health: Address | None
    """gRPC health alone, port 9003 by convention."""


class Servers:
    """Starts and stops them together."""

    def __init__(self, picker: Picker, health: Health, listeners: Listeners) -> None:
        self._picker = picker
        self._health = health
        self._listeners = listeners
        self._access_logs = AccessLogs(picker)
        self._running: list[grpc.aio.Server] = []
        self._fast = FastPath(picker)
        self._unix = UnixServer(self._fast.exchange, max_message=MAX_MESSAGE_BYTES)
        self._standard: ExternalProcessor | None = None
        self._hurried = False

    async def start(self) -> None:
        """Listen. Raises RuntimeError when an address is taken."""
        try:
            await self._start()
        except BaseException:
            await self._close()
            raise

    async def _start(self) -> None:
        listeners = self._listeners
        if listeners.access_logs is not None:
            # Only our own Envoy is there, and it bounds what it sends.
            server = _server(max_message_bytes=-1)
            server.add_generic_rpc_handlers((self._access_logs.handler(),))
            listeners.access_logs.unlink(missing_ok=True)
            server.add_insecure_port(f"unix:{listeners.access_logs}")
            await self._run(server)
        if listeners.socket is not None:
            await self._unix.listen(listeners.socket)
        if listeners.ext_proc is not None:
            server = _server(max_message_bytes=_MAX_CHUNK_BYTES)
            self._standard = ExternalProcessor(self._picker)
            server.add_generic_rpc_handlers((self._standard.handler(),))
            _bind(server, listeners.ext_proc)
            await self._run(server)
        if listeners.health is not None:
            server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
            _bind(server, listeners.health)
            await self._run(server)

    async def stop(self, grace_s: float, *, standard_grace_s: float = 0.0) -> None:
        """Set the picker to draining before: what is running has ``grace_s`` to end, what comes
        in the meantime is refused, and then all streams are ended. A stream of the standard port
        lasts as long as the response, and a gateway breaks that off with it: those have
        ``standard_grace_s``."""
        self._fast.release()
        self._unix.drain()
        await self._until(lambda: not self._serves_standard, standard_grace_s)
        await self._until(lambda: not self._busy, grace_s)
        await self._until(lambda: not self._access_logs.may_have_more, _LAST_ENTRIES_S)
        await self._close()

    def hurry(self) -> None:
        """`stop` waits for nothing any more."""
        self._hurried = True

    async def _until(self, true: Callable[[], bool], timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not (self._hurried or true()):  # noqa: ASYNC110 - requests end anywhere
                    await asyncio.sleep(_DRAIN_POLL_S)

    @property
    def failed_entries(self) -> int:
        """Entries and messages of access logs that could not be used."""
        return self._access_logs.failed_entries

    @property
    def _serves_standard(self) -> bool:
        return self._standard is not None and self._standard.running > 0

    @property
    def serves(self) -> bool:
        """Some stream of ext_proc is open."""
        return self._serves_standard or self._unix.running > 0

    @property
    def _busy(self) -> bool:
        # Ends of the fast path's requests are still to come in access logs.
        return self.serves or len(self._picker.flights) > 0

    async def _close(self) -> None:
        self._unix.close()
        await self._fast.close()
        await asyncio.gather(*(server.stop(None) for server in self._running))
        self._running.clear()

    async def _run(self, server: grpc.aio.Server) -> None:
        self._health.add_to(server)
        await server.start()
        self._running.append(server)


def _server(*, max_message_bytes: int) -> grpc.aio.Server:
    return grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.http2.max_ping_strikes", 0),
        ]
    )


def _bind(server: grpc.aio.Server, address: Address) -> None:
    if address.certificate is None:
        server.add_insecure_port(address.target)
        return
    pair = (address.certificate.key, address.certificate.chain)
    server.add_secure_port(address.target, grpc.ssl_server_credentials([pair]))
