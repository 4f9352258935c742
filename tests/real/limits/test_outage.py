"""Redis is killed, frozen, slow, or comes back empty: what each plan does meanwhile, and that
what was used meanwhile is counted once."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.limits.accounts import Used, key_of, left, limit, redis_store, settled, tenant
from tests.real.limits.asking import Api, Ask, Outcome, send
from tests.real.limits.redis_proxy import RedisProxy
from tests.real.replicas import STEADY, Replica
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

WORKERS: Final = 2
TIMEOUT_MS: Final = 50
PATIENCE: Final = 60
"""No request takes longer than so many store timeouts: a busy machine's slack, and still far from
every other timeout in the gateway."""
SLOW_S: Final = 0.2
LIMIT: Final = 12
SHARE: Final = LIMIT // WORKERS
DURING: Final = 30
MODES: Final = ("open", "closed", "share")
INPUT, OUTPUT = 10, 4
ASK: Final = Ask(Api.COMPLETIONS, tuple(range(1, INPUT + 1)), max_tokens=OUTPUT, stream=False)
_users = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(server: RedisServer) -> AsyncIterator[RedisProxy]:
    async with RedisProxy(server.socket) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replica]:
    async with Replica(tmp_path_factory.mktemp("outage"), *STEADY) as running:
        yield running


def configuration(url: str, replica: Replica) -> Json:
    """A tenant for each mode; each user has buckets of its own, so tests do not share any."""
    limits = (limit("requests", LIMIT, "hour", by=["user"]), limit("concurrency", 100, by=["user"]))
    return {
        "picker": {"workers": WORKERS},
        "limits": {"store": redis_store(url, timeout_ms=TIMEOUT_MS), "lease_s": 60},
        "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
        "plans": [{"name": mode, "on_store_failure": mode} for mode in MODES],
        "tenants": [tenant(mode, *limits, plan=mode) for mode in MODES],
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def direct(
    server: RedisServer, replica: Replica, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    config = configuration(server.url, replica)
    async with Gateway(tmp_path_factory.mktemp("direct"), config) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxied(
    proxy: RedisProxy, replica: Replica, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    config = configuration(proxy.url, replica)
    async with Gateway(tmp_path_factory.mktemp("proxied"), config) as running:
        yield running


async def ask_many(gateway: Gateway, mode: str, user: str, count: int) -> list[Outcome]:
    """Ten at a time, each on a connection of its own."""
    outcomes: list[Outcome] = []
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(gateway.url, connector=connector) as session:
        ask = replace(ASK, user=user)
        while len(outcomes) < count:
            batch = min(10, count - len(outcomes))
            sent = (send(session, ask, key_of(mode)) for _ in range(batch))
            outcomes += await asyncio.gather(*sent)
    return outcomes


async def works(gateway: Gateway) -> None:
    """Returns when every picker has its store: new connections reach one or the other."""
    streak = 0

    async def so() -> bool:
        nonlocal streak
        (one,) = await ask_many(gateway, "closed", f"probe-{next(_users)}", 1)
        streak = streak + 1 if one.status == 200 else 0
        return streak >= 5 * WORKERS

    await eventually(so, "the limit store works", timeout_s=30)


def check(mode: str, outcomes: Sequence[Outcome]) -> int:
    """What the documentation says of the mode; the number of requests that were served."""
    longest_ms = 1e3 * max(one.ended_s - one.started_s for one in outcomes)
    served = [one for one in outcomes if one.status == 200]
    refused = [one for one in outcomes if one.status != 200]
    print(f"{mode}: {len(served)} served, {len(refused)} refused, longest {longest_ms:.0f} ms")
    assert longest_ms <= PATIENCE * TIMEOUT_MS
    codes = [(one.status, one.error["error"]["code"]) for one in refused]  # type: ignore[index]
    if mode == "open":
        assert not refused
    elif mode == "closed":
        assert set(codes) == {(503, "limits_unavailable")}
        assert not served
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    else:
        assert set(codes) <= {(429, "rate_limit_exceeded")}
        assert SHARE <= len(served) <= WORKERS * SHARE
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    return len(served)


async def check_accounts(gateway: Gateway, mode: str, user: str, requests: int) -> None:
    """The ledger and the bucket have so many requests, and nothing is held."""
    row = await settled(gateway, requests, tenant=mode, user=user)
    assert row == Used(requests, requests * INPUT, requests * OUTPUT, 0)

    async def idle() -> bool:
        told = await left(gateway, tenant=mode, user=user)
        return bool(told) and told["concurrency-by-user"].idle

    await eventually(idle, "nothing is held")
    bucket = (await left(gateway, tenant=mode, user=user))["requests-per-hour-by-user"]
    # An hour gives back 12, so this test gives back less than one.
    assert LIMIT - requests <= bucket.level < LIMIT - requests + 1


async def outage(
    gateway: Gateway,
    mode: str,
    begin: Callable[[], None],
    end: Callable[[], None],
    *,
    loses: bool,
) -> None:
    """Two requests before, many during it, all accounted for after it, but for those before it
    if it ``loses`` them."""
    user = f"user-{next(_users)}"
    await works(gateway)
    before = await ask_many(gateway, mode, user, 2)
    assert [one.status for one in before] == [200, 200]
    await check_accounts(gateway, mode, user, 2)
    begin()
    try:
        served = check(mode, await ask_many(gateway, mode, user, DURING))
    finally:
        end()
    await works(gateway)
    await check_accounts(gateway, mode, user, served if loses else served + 2)


@pytest.mark.parametrize("mode", MODES)
async def test_killed(direct: Gateway, server: RedisServer, mode: str) -> None:
    """What was counted before is gone with it: this Redis keeps nothing on a disk."""
    await outage(direct, mode, server.kill, server.start, loses=True)


@pytest.mark.parametrize("mode", MODES)
async def test_frozen(direct: Gateway, server: RedisServer, mode: str) -> None:
    """What was asked of it before anybody knew is done when it thaws, and is not done twice."""
    await outage(
        direct,
        mode,
        lambda: server.signal(signal.SIGSTOP),
        lambda: server.signal(signal.SIGCONT),
        loses=False,
    )


@pytest.mark.parametrize("mode", MODES)
async def test_slow(proxied: Gateway, proxy: RedisProxy, mode: str) -> None:
    """It does everything, and nobody hears of it in time."""

    def slow(delay_s: float) -> None:
        proxy.delay_s = delay_s

    await outage(proxied, mode, lambda: slow(SLOW_S), lambda: slow(0.0), loses=False)


@pytest.mark.parametrize("mode", MODES)
async def test_restarted_empty_while_requests_run(
    direct: Gateway, server: RedisServer, mode: str
) -> None:
    """They are held again, and counted when they end."""
    streams, tokens = 6, 300
    user = f"user-{next(_users)}"
    ask = replace(ASK, user=user, stream=True, max_tokens=tokens)
    await works(direct)
    async with aiohttp.ClientSession(direct.url) as session:
        running = [asyncio.create_task(send(session, ask, key_of(mode))) for _ in range(streams)]

        async def all_held() -> bool:
            told = await left(direct, tenant=mode, user=user)
            return bool(told) and told["concurrency-by-user"].used == streams

        await eventually(all_held, "all streams are held")
        server.kill()
        server.start()
        await works(direct)
        await eventually(all_held, "all streams are held again")
        outcomes = await asyncio.gather(*running)
    assert all(one.whole for one in outcomes)
    row = await settled(direct, streams, tenant=mode, user=user)
    assert row == Used(streams, streams * INPUT, streams * tokens, 0)
