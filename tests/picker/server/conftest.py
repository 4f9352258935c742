from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from gateway.run.certificates import write_self_signed
from picker.server.health import Health
from picker.server.listen import Address, Certificate, Listeners, Servers
from tests.picker.fleet import Fleet, fleet
from tests.picker.server.edge import Edge
from tests.real.ports import free_port

TRANSPORTS = ("fast", "standard", "standard with TLS")


@dataclass
class Served:
    """A running picker and how to reach it."""

    fleet: Fleet
    health: Health
    servers: Servers
    socket: Path
    logs: Path
    port: int
    health_port: int
    tls: bool

    def unix_channel(self, path: Path) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{path}", options=_UNLIMITED)

    def channel(self) -> grpc.aio.Channel:
        if self.tls:
            credentials = grpc.ssl_channel_credentials(_certificate().chain)
            options = (*_UNLIMITED, ("grpc.ssl_target_name_override", "localhost"))
            return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options)
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=_UNLIMITED)


_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
_made: list[Certificate] = []


def _certificate() -> Certificate:
    if not _made:
        with tempfile.TemporaryDirectory() as folder:
            write_self_signed(Path(folder, "both.pem"))
            both = Path(folder, "both.pem").read_bytes()
        _made.append(Certificate(both, both))
    return _made[0]


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        yield Path(folder)


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str:
    chosen: str = getattr(request, "param", "standard")
    return chosen


@pytest.fixture
async def served(transport: str, run_dir: Path) -> AsyncIterator[Served]:
    """Three idle replicas behind a picker, which listens on all its sockets."""
    made = fleet()
    health = Health(made.picker)
    tls = transport == "standard with TLS"
    ports = free_port(), free_port()
    listeners = Listeners(
        socket=run_dir / "picker",
        access_logs=run_dir / "logs",
        ext_proc=Address("127.0.0.1", ports[0], _certificate() if tls else None),
        health=Address("127.0.0.1", ports[1]),
    )
    servers = Servers(made.picker, health, listeners)
    await servers.start()
    yield Served(made, health, servers, run_dir / "picker", run_dir / "logs", *ports, tls)
    await servers.stop(0)


@pytest.fixture
async def edge(transport: str, served: Served) -> AsyncIterator[Edge]:
    """The gateway's side, by default in the standard transport over TCP."""
    fast = transport == "fast"
    decisions = served.unix_channel(served.socket) if fast else served.channel()
    async with decisions, served.unix_channel(served.logs) as logs:
        yield Edge(transport, decisions, logs, served.fleet, fast=fast)
