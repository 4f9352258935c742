"""What the composition root chooses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.config.config import Config
from gateway.limits.buckets import StoreUnavailable
from gateway.limits.memory.store import MemoryStore
from gateway.limits.outage.fallback import FallbackStore
from gateway.limits.outage.states import StoreMode
from gateway.run import compose
from gateway.tenancy.directory import Directory
from gateway.tenancy.redis_registry import RedisRegistry
from gateway.tenancy.sqlite_registry import SqliteRegistry
from policies.limits.types import Bucket, Concurrency, Dimension, Take
from policies.limits.verdict import Granted
from tests.gateway.tenancy.parts import config_of
from tests.redis_server import RedisServer

TAKES = [Take(Bucket("c", Dimension.CONCURRENCY, Concurrency(8)), 1)]


async def test_without_redis_all_is_in_the_states_file(tmp_path: Path) -> None:
    config = config_of(identity={}, state_dir=str(tmp_path / "state"))
    compose.require_state(config)
    store, outage = compose.limit_store(config, Directory(config))
    registry = compose.registry(config)
    assert isinstance(store, MemoryStore)
    assert store.volatile, "a worker's orphans are adopted"
    assert outage is None
    assert isinstance(registry, SqliteRegistry)
    await registry.close()
    await store.close()
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["penstock.db"]


def test_state_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(OSError, match="state"):
        compose.require_state(config_of(identity={}, state_dir=str(tmp_path / "state")))
    compose.require_state(config_of(state_dir=str(tmp_path / "state")))  # nothing is kept


async def test_with_redis_each_tenants_limits_fail_as_configured(own_redis: RedisServer) -> None:
    def config(workers: int) -> Config:
        return config_of(
            limits={"store": {"redis": {"url": own_redis.url, "timeout_ms": 5_000}}},
            tenants=[
                {"name": "acme", "on_store_failure": "share"},
                {"name": "strict", "on_store_failure": "closed"},
            ],
            picker={"workers": workers},
        )

    directory = Directory(config(workers=4))
    store, outage = compose.limit_store(directory.config, directory)
    registry = compose.registry(directory.config)
    assert isinstance(store, FallbackStore)
    assert outage is store.counters
    assert isinstance(registry, RedisRegistry)
    await registry.close()

    async def granted(tenant: str, name: str = "first") -> int:
        verdicts = [await store.reserve(tenant, f"{name}{i}", TAKES, 60) for i in range(8)]
        return sum(isinstance(verdict, Granted) for verdict in verdicts)

    assert isinstance(await store.reserve("acme", "before", TAKES, 60), Granted)
    own_redis.kill()
    while not store.mode.down:  # noqa: ASYNC110 - the lost connection tells, before any call
        await asyncio.sleep(0.01)
    assert await granted("acme") == 2
    directory.configure(config(workers=2))
    assert await granted("acme", "again") == 2, "the share is that of the configuration"
    with pytest.raises(StoreUnavailable, match="fail closed"):
        await granted("strict")
    assert await granted("stranger") == 8, "who is not configured is refused elsewhere"
    own_redis.start()
    while store.mode is not StoreMode.UP:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    standings = await store.standing("acme", [take.bucket for take in TAKES])
    assert [one.remaining for one in standings] == [8 - 1 - 4], "what was granted is adopted"
    await store.close()
