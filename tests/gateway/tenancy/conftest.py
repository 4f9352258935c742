from __future__ import annotations

import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.tenancy.registry import Registry
from tests.gateway.limits.redis_server import RedisServer
from tests.gateway.tenancy.parts import open_registry


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running, empty Redis that other tests use too: do not kill it."""
    shared_redis.ask("FLUSHALL")
    shared_redis.ask("SCRIPT", "FLUSH")
    return shared_redis


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """One to kill."""
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a registry is: all that is opened there is one."""
    if request.param == "sqlite":
        return str(tmp_path / "state" / "penstock.db")
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
async def registries(place: str) -> AsyncIterator[Iterator[Registry]]:
    """As many views of one registry as are asked for, each with a connection of its own."""
    opened: list[Registry] = []

    def more() -> Iterator[Registry]:
        for _ in itertools.count():
            opened.append(open_registry(place))
            yield opened[-1]

    yield more()
    for registry in opened:
        await registry.close()


@pytest.fixture
def registry(registries: Iterator[Registry]) -> Registry:
    return next(registries)
