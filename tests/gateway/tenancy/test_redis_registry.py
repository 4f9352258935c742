"""The registry in Redis: outages, keys, clusters."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from gateway.limits.redis.client import connect, connect_cluster
from gateway.tenancy.redis_registry import RedisRegistry
from gateway.tenancy.registry import START, RegistryUnavailable
from tests.gateway.tenancy.parts import PATIENT_S, all_of, key, open_registry, tenant
from tests.redis_server import RedisServer


async def test_redis_that_is_gone_is_unavailable(own_redis: RedisServer) -> None:
    registry = open_registry(own_redis.url)
    await registry.write([tenant("a")])
    own_redis.kill()
    with pytest.raises(RegistryUnavailable):
        await registry.write([tenant("b")])
    with pytest.raises(RegistryUnavailable):
        await registry.changes(START)
    own_redis.start()
    assert await all_of(registry) == []
    await registry.close()


async def test_redis_that_says_nothing_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    server = await asyncio.start_unix_server(lambda reader, writer: None, path)
    registry = RedisRegistry(connect(f"unix://{path}", timeout_s=0.05), timeout_s=0.05)
    with pytest.raises(RegistryUnavailable):
        await registry.changes(START)
    await registry.close()
    server.close()


async def test_redis_keys_are_in_one_hash_slot(redis_server: RedisServer) -> None:
    registry = RedisRegistry(connect(redis_server.url, timeout_s=PATIENT_S), prefix="mine:")
    await registry.write([tenant("a")])
    await registry.close()
    names = redis_server.ask("KEYS", "*")
    assert isinstance(names, list)
    assert len(names) == 3
    assert all(name.startswith(b"mine:{registry}:") for name in names)
    with pytest.raises(ValueError, match="braces"):
        RedisRegistry(connect(redis_server.url), prefix="{x}")


async def test_redis_may_be_a_cluster() -> None:
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        server = RedisServer(Path(folder), cluster=True)
        server.start()
        try:
            server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            async with asyncio.timeout(60):
                while "cluster_state:ok" not in str(server.ask("CLUSTER", "INFO")):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            client = connect_cluster(f"redis://127.0.0.1:{server.port}", timeout_s=PATIENT_S)
            registry = RedisRegistry(client, timeout_s=PATIENT_S)
            await registry.write([tenant("a"), key("k")])
            await registry.merge([tenant("a", 3)])
            assert await all_of(registry) == [key("k"), tenant("a", 3)]
            server.kill()
            with pytest.raises(RegistryUnavailable):
                await registry.changes(START)
            await registry.close()
        finally:
            server.kill()
