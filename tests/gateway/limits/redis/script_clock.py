"""The production scripts, but for their clock: two keys in the place of TIME."""

from __future__ import annotations

import pytest

from gateway.limits.redis import store as redis_store
from gateway.limits.redis.scripts import Script
from tests.redis_server import RedisServer


def install(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have new stores run them until the test ends."""
    for name in ("reserve", "settle", "renew", "standing"):
        source = Script.load(name).source
        ours = source.replace("redis.call('TIME')", "redis.call('MGET', 'clock:s', 'clock:us')")
        assert ours != source
        sha = server.ask("SCRIPT", "LOAD", ours)
        assert isinstance(sha, bytes)
        monkeypatch.setattr(redis_store, f"_{name.upper()}", Script(ours, sha.decode()))


def keys_at(now_ms: int) -> dict[str, int]:
    """What tells them the time; of the last microsecond of a millisecond."""
    seconds, ms = divmod(now_ms, 1_000)
    return {"clock:s": seconds, "clock:us": ms * 1_000 + 999}
