from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.limits.memory.journal import Journal
from gateway.limits.memory.store import MemoryStore
from gateway.limits.redis.client import connect
from gateway.limits.redis.store import RedisStore
from tests.gateway.limits.either import Store
from tests.redis_server import RedisServer


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    """Patient, so that a busy machine fails no test."""
    store = RedisStore(connect(redis_server.url, timeout_s=10), timeout_s=10)
    yield store
    await store.close()


@pytest.fixture(params=["memory", "journal", "redis"])
async def any_store(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[Store]:
    """Each store in turn; none names more than 3 users of a tenant a day."""
    store: Store
    if request.param == "redis":
        client = connect(redis_server.url, timeout_s=10)
        store = RedisStore(client, timeout_s=10, max_users_per_day=3)
    elif request.param == "journal":
        store = MemoryStore(journal=Journal(tmp_path / "penstock.db", max_users_per_day=3))
    else:
        store = MemoryStore(max_users_per_day=3)
    yield store
    await store.close()
