"""The line to Redis: connecting, and a Redis that cannot serve."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import pytest

from gateway.limits.buckets import StoreUnavailable
from gateway.limits.redis.client import connect
from gateway.limits.redis.store import RedisStore
from policies.limits.types import Bucket, CalendarWindow, Dimension, Period, Take
from tests.gateway.limits.redis.slow_line import SlowLine
from tests.redis_server import RedisServer

TAKES = [Take(Bucket("t", Dimension.TOTAL_TOKENS, CalendarWindow(10**6, Period.MONTH)), 10)]


async def test_connecting_may_take_longer_than_a_call() -> None:
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        server = RedisServer(Path(folder), options=["--requirepass", "secret"], password="secret")
        server.start()
        try:
            line = SlowLine(server, Path(folder) / "slow")
            line.delay_s = 0.3
            async with line.open() as url:
                redis = RedisStore(
                    connect(url.replace("unix://", "unix://:secret@") + "?db=3", timeout_s=0.5),
                    timeout_s=0.5,
                )
                with pytest.raises(StoreUnavailable, match="no answer within 500 ms"):
                    await redis.reserve("acme", "first", TAKES, 60)
                async with asyncio.timeout(60):
                    while True:
                        with contextlib.suppress(StoreUnavailable):
                            await redis.check()
                            break
                await redis.close()
        finally:
            server.kill()


@pytest.mark.parametrize(
    "refusal",
    [
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "LOADING Redis is loading the dataset in memory",
        "NOAUTH Authentication required.",
        "MOVED 3999 127.0.0.1:6381",
        "ASK 3999 127.0.0.1:6381",
        "CLUSTERDOWN Hash slot not served",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL.",
        "UNKILLABLE Sorry the script already executed write commands.",
    ],
)
async def test_a_redis_that_cannot_serve_is_not_stuck_to(
    refusal: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    line = SlowLine(redis_server, tmp_path / "line")
    async with line.open() as url:
        losses = 0

        def lost() -> None:
            nonlocal losses
            losses += 1

        redis = RedisStore(connect(url, timeout_s=10), timeout_s=10, lost=lost)
        await redis.check()
        line.refusal = f"-{refusal}\r\n".encode()
        calls = await asyncio.gather(redis.check(), redis.check(), return_exceptions=True)
        assert [isinstance(e, StoreUnavailable) and e.lost for e in calls] == [True, True]
        assert losses == 1
        line.refusal = None
        await redis.check()
        await redis.close()
