"""Clients of redis-py as the stores and the registry need them, and the meaning of their errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.limits.buckets import StoreUnavailable

_LOST: Final = (
    *(RedisConnectionError, RedisClusterException, OSError),
    *(ReadOnlyError, ClusterDownError, AskError),  # MASTERDOWN and MOVED are kinds of these
)

Client = Redis | RedisCluster
T = TypeVar("T")


def connect(url: str, *, timeout_s: float = 0.05, max_connections: int = 32) -> Redis:
    """A client of a single Redis or Valkey: without retries, because they would hide how long a
    call takes, with answers in bytes, and with a bounded pool, whose callers wait within their own
    timeouts.

    ``timeout_s``: of a call; redis-py's own timeouts are longer, so that connecting fits in.
    ``url``: ``redis://``, ``rediss://`` or ``unix://``. Raises ValueError for another one.
    """
    patience_s = connect_timeout_s(timeout_s)
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=None,
        socket_timeout=patience_s,
        socket_connect_timeout=patience_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        protocol=2,
    )
    return Redis.from_pool(pool)


def connect_cluster(url: str, *, timeout_s: float = 0.05) -> RedisCluster:
    """The same for a Redis Cluster. ``url``: of any of its nodes."""
    patience_s = connect_timeout_s(timeout_s)
    return RedisCluster.from_url(
        url,
        socket_timeout=patience_s,
        socket_connect_timeout=patience_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        protocol=2,
    )


def connect_timeout_s(timeout_s: float) -> float:
    """The timeout for connecting, where a call has ``timeout_s``: 20 times as long, but at least 1
    s, and at most 5 s unless ``timeout_s`` is longer."""
    return max(timeout_s, 1.0, min(20 * timeout_s, 5.0))


async def in_time(asked: Awaitable[T], timeout_s: float) -> T:
    """The answer of redis-py. Raises StoreUnavailable."""
    try:
        async with asyncio.timeout(timeout_s):
            return await asked
    except (RedisError, RedisClusterException, OSError) as error:  # TimeoutError is an OSError
        raise unavailable(error, timeout_s) from error


def unavailable(error: Exception, timeout_s: float) -> StoreUnavailable:
    """What an error of redis-py or asyncio means."""
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return StoreUnavailable(f"no answer within {timeout_s * 1_000:g} ms")
    if isinstance(error, _LOST):
        return StoreUnavailable(f"no connection: {error}", lost=True)
    return StoreUnavailable(f"refused: {error}")
