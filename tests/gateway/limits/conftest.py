from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.limits.journal import Journal
from gateway.limits.memory import MemoryStore
from gateway.limits.redis_store import RedisStore, connect
from gateway.limits.store import LimitStore
from tests.gateway.limits.redis_server import RedisServer


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
    """One to kill and freeze."""
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    """Patient, so that a busy machine fails no test."""
    store = RedisStore(connect(redis_server.url, timeout_s=10), timeout_s=10)
    yield store
    await store.close()


@pytest.fixture(params=["memory", "journal", "redis"])
async def any_store(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[LimitStore]:
    """Each store in turn; none names more than 3 users of a tenant a day."""
    store: LimitStore
    if request.param == "redis":
        client = connect(redis_server.url, timeout_s=10)
        store = RedisStore(client, timeout_s=10, max_users_per_day=3)
    elif request.param == "journal":
        store = MemoryStore(journal=Journal(tmp_path / "penstock.db", max_users_per_day=3))
    else:
        store = MemoryStore(max_users_per_day=3)
    yield store
    await store.close()
