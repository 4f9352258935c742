"""A limit is changed, and changed back: on every store what was used stays used."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from gateway.limits.memory.journal import Journal
from gateway.limits.memory.store import MemoryStore
from gateway.limits.outage.fallback import FallbackStore
from gateway.limits.redis.client import connect, connect_cluster
from gateway.limits.redis.store import RedisStore
from policies.limits.plan import By, LimitRule, OnStoreFailure, Subject
from policies.limits.types import (
    CalendarWindow,
    Dimension,
    Lifetime,
    Period,
    Rule,
    Take,
    TokenBucket,
)
from policies.limits.verdict import Granted
from tests.gateway.limits.either import Store
from tests.gateway.limits.outage.parts import fallback
from tests.redis_server import RedisServer

HOUR = Period.HOUR
PER_HOUR = TokenBucket.per(HOUR, 1_000)
BURST = TokenBucket.per(HOUR, 1_000, burst=500)
CALENDAR = CalendarWindow(1_000, Period.MONTH)
BERLIN = CalendarWindow(1_000, Period.MONTH, "Europe/Berlin")
LIFETIME = Lifetime(1_000, 86_400_000)
LARGE: list[Rule] = [
    PER_HOUR,
    TokenBucket.per(Period.DAY, 1_000),
    CALENDAR,
    BERLIN,
    CalendarWindow(1_000, Period.WEEK),
    LIFETIME,
]
SMALL: list[Rule] = [
    TokenBucket.per(HOUR, 100),
    TokenBucket.per(HOUR, 1_000, burst=100),
    TokenBucket.per(Period.MONTH, 100),
    CalendarWindow(100, Period.MONTH),
    CalendarWindow(100, Period.MONTH, "Asia/Kolkata"),
    Lifetime(100, 86_400_000),
]

Anything = Store | FallbackStore


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        server = RedisServer(Path(folder), cluster=True)
        server.start()
        server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        while "cluster_state:ok" not in str(server.ask("CLUSTER", "INFO")):
            pass
        yield server
        server.kill()


@pytest.fixture(params=["memory", "journal", "redis", "cluster", "outage"])
async def gateways(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[Callable[[], Anything]]:
    """Gives the store of the next call, as one of two gateways on Redis; in turn."""
    if request.param == "redis":
        make = [RedisStore(connect(redis_server.url, timeout_s=10), timeout_s=10) for _ in "ab"]
        stores: list[Anything] = [*make]
    elif request.param == "cluster":
        server = request.getfixturevalue("cluster")
        server.ask("FLUSHALL")
        url = f"redis://127.0.0.1:{server.port}"
        stores = [RedisStore(connect_cluster(url, timeout_s=10), timeout_s=10) for _ in "ab"]
    elif request.param == "outage":
        nowhere = RedisStore(connect(f"unix://{tmp_path}/none", timeout_s=10), timeout_s=10)
        stores = [fallback(nowhere, OnStoreFailure.SHARE, close_s=0)]
    elif request.param == "journal":
        stores = [MemoryStore(journal=Journal(tmp_path / "penstock.db"))]
    else:
        stores = [MemoryStore()]
    turns = itertools.cycle(stores)
    yield lambda: next(turns)
    for store in stores:
        await store.close()


NAMES = itertools.count()


async def use(store: Anything, rule: Rule, amount: int, *, charge: int | None = None) -> bool:
    """A request of the tenant; whether it was granted."""
    bucket = LimitRule(f"of-{rule}", Dimension.TOTAL_TOKENS, rule, thing="t").bucket(Subject("a"))
    name = f"r{next(NAMES)}"
    verdict = await store.reserve("a", name, [Take(bucket, amount)], 60)
    if not isinstance(verdict, Granted):
        return False
    await store.settle("a", name, {bucket.key: amount if charge is None else charge})
    return True


async def left(store: Anything, rule: Rule) -> int:
    bucket = LimitRule(f"of-{rule}", Dimension.TOTAL_TOKENS, rule, thing="t").bucket(Subject("a"))
    [standing] = await store.standing("a", [bucket])
    return standing.remaining


@pytest.mark.parametrize("large", LARGE, ids=str)
async def test_lowered_and_raised_again(gateways: Callable[[], Anything], large: Rule) -> None:
    assert await use(gateways(), large, 900, charge=800)
    for small in SMALL:
        assert await left(gateways(), small) <= 3
        assert not await use(gateways(), small, 50)
        assert 200 <= await left(gateways(), large) <= 203, "a token bucket fills by itself"
    for other in LARGE:
        assert 200 <= await left(gateways(), other) <= 203
    assert await use(gateways(), LARGE[-1], 150)
    assert not await use(gateways(), large, 60)
    for other in LARGE:
        assert 50 <= await left(gateways(), other) <= 53


async def test_rules_in_turn_grant_no_more_than_the_largest(
    gateways: Callable[[], Anything],
) -> None:
    """Two gateways during a roll-out, or a key and the one that it was rotated to."""
    rng, granted = random.Random(9), 0
    for _ in range(250):
        rule = rng.choice([*LARGE, *SMALL])
        amount = rng.choice([1, 7, 30, 90])
        charge = rng.randint(0, amount)
        granted += charge if await use(gateways(), rule, amount, charge=charge) else 0
    assert granted <= 1_000 + Fraction(60 * 1_000, 3_600), "with a minute of refill"
    assert granted > 900


async def test_what_is_in_flight_is_given_back_under_the_new_rule(
    gateways: Callable[[], Anything],
) -> None:
    old, new = (
        LimitRule("r", Dimension.TOTAL_TOKENS, rule).bucket(Subject("a"))
        for rule in (BURST, BERLIN)
    )
    store = gateways()
    assert isinstance(await store.reserve("a", "long", [Take(old, 400)], 600), Granted)
    assert [one.remaining for one in await store.standing("a", [new])] == [600]
    assert await store.settle("a", "long", {new.key: 30}), "settled under the new configuration"
    assert [one.remaining for one in await store.standing("a", [new])] == [970]
    [standing] = await store.standing("a", [old])
    assert 470 <= standing.remaining <= 475


async def test_limits_that_hold_together_do_not_replace_each_other(
    gateways: Callable[[], Anything],
) -> None:
    minute, month, changed = (
        LimitRule(name, Dimension.TOTAL_TOKENS, rule, (By.USER,), thing="t").bucket(
            Subject("a", user="u|v")
        )
        for name, rule in (
            ("minute", TokenBucket.per(Period.MINUTE, 100)),
            ("month", CALENDAR),
            ("minute", TokenBucket.per(Period.MINUTE, 200)),
        )
    )
    for i, part in enumerate((60, 30)):
        store = gateways()
        takes = [Take(minute, part), Take(month, part)]
        assert isinstance(await store.reserve("a", f"r{i}", takes, 60), Granted)
        await store.settle("a", f"r{i}", {minute.key: part, month.key: part})
    standings = await gateways().standing("a", [changed, month])
    assert 110 <= standings[0].remaining <= 140
    assert standings[1].remaining == 910


@pytest.mark.parametrize("kinds", [(CALENDAR, BERLIN), (PER_HOUR, LIFETIME), (BERLIN, PER_HOUR)])
async def test_a_restart_between_changes_forgets_nothing(
    kinds: tuple[Rule, Rule], tmp_path: Path
) -> None:
    one, other = kinds
    for rule, before in ((one, 1_000), (other, 700), (one, 400)):
        store = MemoryStore(journal=Journal(tmp_path / "penstock.db"))
        assert before <= await left(store, rule) <= before + 3
        assert await use(store, rule, 400, charge=300)
        await store.close()
