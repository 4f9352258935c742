from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.tenancy.registry import Registry
from tests.gateway.tenancy.parts import Office, WallClock, open_registry
from tests.redis_server import RedisServer


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


@pytest.fixture
def offices(registries: Iterator[Registry]) -> Iterator[Office]:
    clock = WallClock()
    return (Office(registry, clock) for registry in registries)


@pytest.fixture
def office(offices: Iterator[Office]) -> Office:
    return next(offices)
