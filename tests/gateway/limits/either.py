"""The stores that one set of tests runs against."""

from __future__ import annotations

from gateway.limits.memory.store import MemoryStore
from gateway.limits.redis.store import RedisStore

Store = MemoryStore | RedisStore
