"""What only Redis can get wrong: many processes, scripts forgotten, clusters, expiry of keys."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from datetime import date
from pathlib import Path

import pytest
import uvloop

from gateway.limits.buckets import DuplicateReservation, StoreUnavailable
from gateway.limits.redis.client import connect, connect_cluster
from gateway.limits.redis.store import RedisStore
from gateway.limits.usage import UsageRecord
from policies.limits.types import (
    MAX_AMOUNT,
    MAX_PERIOD_MS,
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Take,
)
from policies.limits.types import TokenBucket as Tokens
from policies.limits.verdict import Denied, Granted
from tests.gateway.limits.redis import script_clock
from tests.gateway.limits.redis.certificate import self_signed
from tests.real.ports import free_port
from tests.redis_server import RedisServer

DAY = date(2026, 3, 1)
TEN = Bucket("ten", Dimension.REQUESTS, CalendarWindow(10, Period.MONTH), "ten a month")
TOGETHER = Bucket("together", Dimension.CONCURRENCY, Concurrency(1_000), "at once")

_CLIENT = """
import asyncio, json, sys
from tests.gateway.limits.redis.test_store import many
print(json.dumps(asyncio.run(many(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
"""


async def many(url: str, name: str, count: int) -> int:
    """How many of so many simultaneous reservations are granted."""
    store = RedisStore(connect(url, timeout_s=60), timeout_s=60)
    verdicts = await asyncio.gather(
        *(
            store.reserve("acme", f"{name}-{i}", [Take(TEN, 1), Take(TOGETHER, 1)], 60)
            for i in range(count)
        )
    )
    await store.close()
    return sum(isinstance(verdict, Granted) for verdict in verdicts)


async def test_200_at_once_against_room_for_10(redis_server: RedisServer) -> None:
    assert await many(redis_server.url, "one", 200) == 10


def test_200_from_4_processes_against_room_for_10(redis_server: RedisServer) -> None:
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", _CLIENT, redis_server.url, f"p{i}", "50"], stdout=subprocess.PIPE
        )
        for i in range(4)
    ]
    granted = [json.loads(client.communicate()[0]) for client in clients]
    assert sum(granted) == 10


async def test_killed_client_leaves_its_hold_to_the_lease(
    redis_server: RedisServer, store: RedisStore
) -> None:
    held = (
        "import asyncio, os, signal; from tests.gateway.limits.redis.test_store import *\n"
        "async def main():\n"
        f" store = RedisStore(connect({redis_server.url!r}, timeout_s=60), timeout_s=60)\n"
        " await store.reserve('acme', 'crashed', [Take(TEN, 10)], 0.5)\n"
        " os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", held], check=False)
    async with asyncio.timeout(30):
        while not isinstance(  # noqa: ASYNC110 - a lease by Redis's own clock
            await store.reserve("acme", "next", [Take(TEN, 10)], 60), Granted
        ):
            await asyncio.sleep(0.01)
    # its completion is late, not lost: charged once, over what the next one holds
    usage = UsageRecord(DAY, "k", "u", "m", 3, 0, 0, 0)
    assert await store.settle("acme", "crashed", {"ten": 3}, usage)
    assert not await store.settle("acme", "crashed", {"ten": 3}, usage)
    assert [s.remaining for s in await store.standing("acme", [TEN])] == [0]
    await store.settle("acme", "next", {})
    assert [s.remaining for s in await store.standing("acme", [TEN])] == [7]
    assert [r.requests for r in await store.usage("acme", DAY, DAY)] == [1]


async def test_forgotten_scripts_are_sent_again(
    redis_server: RedisServer, store: RedisStore
) -> None:
    for i in range(3):
        assert isinstance(await store.reserve("acme", f"r{i}", [Take(TEN, 1)], 60), Granted)
        redis_server.ask("SCRIPT", "FLUSH")
        settled = [store.settle("acme", f"r{i}", {"ten": 1}) for _ in range(2)]
        assert list(await asyncio.gather(*settled)) == [True, False]
        redis_server.ask("SCRIPT", "FLUSH")
    assert [s.remaining for s in await store.standing("acme", [TEN])] == [7]


async def test_an_id_is_used_once(store: RedisStore) -> None:
    await store.reserve("acme", "r", [Take(TEN, 1)], 60)
    with pytest.raises(DuplicateReservation):
        await store.reserve("acme", "r", [Take(TEN, 1)], 60)


async def test_refusals_are_unavailability(redis_server: RedisServer) -> None:
    redis_server.ask("SET", "penstock:{t:acme}:t", "not a hash")
    store = RedisStore(connect(redis_server.url, timeout_s=10), timeout_s=10)
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await store.reserve("acme", "r", [Take(TEN, 1)], 60)
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await store.standing("acme", [TEN])
    await store.close()


@pytest.mark.parametrize("slot", ["acme", "", "}", "a}b", "{x}", "ü m"])
async def test_every_key_is_of_the_tenants_hash_slot_and_expires(
    slot: str, redis_server: RedisServer, store: RedisStore
) -> None:
    await store.reserve(slot, "r", [Take(TEN, 1), Take(TOGETHER, 1)], 60)
    await store.reserve(slot, "s", [Take(TEN, 1)], 60)
    await store.settle(slot, "s", {"ten": 1}, UsageRecord(DAY, "k", "u", "m", 3, 0, 0, 0))
    keys = redis_server.ask("KEYS", "*")
    assert isinstance(keys, list)
    listing = b"penstock:u:2026-03-01"  # of all tenants, and touched by no script
    assert int(str(redis_server.ask("TTL", listing.decode()))) > 31 * 86_400
    keys.remove(listing)
    assert len(keys) == 4
    tags = {re.findall(rb"\{(.*?)\}", key)[0] for key in keys}
    assert len(tags) == 1
    assert tags != {b""}
    left_ms = {key[-2:]: int(str(redis_server.ask("PTTL", key))) for key in keys}
    assert min(left_ms.values()) > 31 * 86_400_000
    assert min(left_ms[b":h"], left_ms[b":x"]) > left_ms[b":t"], "holds must outlive buckets"


async def test_idle_buckets_of_a_busy_tenant_are_forgotten(
    redis_server: RedisServer, store: RedisStore
) -> None:
    async def ask(i: int) -> None:
        bucket = Bucket(f"user {i}", Dimension.REQUESTS, Tokens(2, 1_000, 1), "fast")
        await store.reserve("acme", f"r{i}", [Take(bucket, 1)], 60)
        await store.settle("acme", f"r{i}", {bucket.key: 2})  # not full until the next millisecond

    for start in range(0, 3_000, 50):
        await asyncio.gather(*(ask(i) for i in range(start, start + 50)))
    kept = redis_server.ask("HLEN", "penstock:{t:acme}:t")
    assert isinstance(kept, int)
    assert kept < 600


@pytest.mark.parametrize(("old", "new"), [(10, 14), (14, 10)])
async def test_excess_of_an_old_reservation_after_a_rule_was_changed(
    old: int, new: int, store: RedisStore
) -> None:
    def bucket(capacity: int) -> Bucket:
        return Bucket("b", Dimension.REQUESTS, Tokens(capacity, 1, MAX_PERIOD_MS))

    await store.reserve("acme", "r", [Take(bucket(old), 0)], 60)
    await store.standing("acme", [bucket(new)])
    await store.settle("acme", "r", {"b": 1})
    assert [s.remaining for s in await store.standing("acme", [bucket(new)])] == [new - 1]


async def test_usage_by_day_key_user_and_model(store: RedisStore) -> None:
    later = date(2026, 3, 3)
    records = [
        UsageRecord(DAY, "k1", 'a"\n', "m", MAX_AMOUNT, 1, 2, 3),
        UsageRecord(DAY, "k1", 'a"\n', "m", MAX_AMOUNT, 1, 2, 3),
        UsageRecord(DAY, "k0", "", "m", 0, 0, 0, 0),
        UsageRecord(later, "k1", "ü", "m", 5, 0, 0, 0),
    ]
    for i, record in enumerate(records):
        await store.reserve("acme", f"r{i}", [], 60)
        assert await store.settle("acme", f"r{i}", {}, record)
    rows = await store.usage("acme", DAY, later)
    assert rows == [
        records[2],
        UsageRecord(DAY, "k1", 'a"\n', "m", 2 * MAX_AMOUNT, 2, 4, 6, requests=2),
        records[3],
    ]
    assert await store.usage("other", DAY, later) == []


@pytest.mark.parametrize("cause", ["a full sum", "another type"])
async def test_usage_that_cannot_be_counted_leaves_the_buckets_right(
    cause: str, redis_server: RedisServer, store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    key = "penstock:{t:acme}:u:2026-03-01"
    if cause == "a full sum":
        redis_server.ask("HSET", key, 'c["k","u","m"]', 2**63 - 5)
    else:
        redis_server.ask("SET", key, "not a hash")
    for i in range(2):
        await store.reserve("acme", f"r{i}", [Take(TEN, 2), Take(TOGETHER, 1)], 60)
        usage = UsageRecord(DAY, "k", "u", "m", 3, 0, 0, 4)
        assert await store.settle("acme", f"r{i}", {"ten": 1}, usage)
    standings = await store.standing("acme", [TEN, TOGETHER])
    assert [s.remaining for s in standings] == [8, 1_000]
    assert redis_server.ask("HLEN", "penstock:{t:acme}:h") == 0
    assert "cannot be counted in full" in caplog.text
    if cause == "a full sum":
        [row] = await store.usage("acme", DAY, DAY)
        assert (row.requests, row.input_tokens, row.cost_micros) == (2, 6, 2**63 - 1)
        assert store._usage.uncounted == 1
    else:
        assert store._usage.uncounted == 2


async def test_a_node_whose_clock_is_behind_stops_nothing(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_clock.install(redis_server, monkeypatch)
    client = connect(redis_server.url, timeout_s=10)
    store = RedisStore(client, timeout_s=10)
    minute = Bucket("m", Dimension.REQUESTS, Tokens(60, 60, 60_000))
    hour = Bucket("h", Dimension.REQUESTS, CalendarWindow(60, Period.HOUR))
    now_ms = 1_772_400_000_000
    await client.mset(script_clock.keys_at(now_ms))
    await store.reserve("acme", "all", [Take(minute, 60), Take(hour, 60)], 60)
    await store.settle("acme", "all", {"m": 60, "h": 60})
    now_ms -= 3_600_000
    await client.mset(script_clock.keys_at(now_ms))
    for name, bucket in (("a", minute), ("b", hour)):
        assert isinstance(await store.reserve("acme", name, [Take(bucket, 1)], 60), Denied)
    await client.mset(script_clock.keys_at(now_ms + 1_000))
    assert isinstance(await store.reserve("acme", "c", [Take(minute, 1)], 60), Granted)
    await client.mset(script_clock.keys_at(now_ms + 3_600_000))
    assert isinstance(await store.reserve("acme", "d", [Take(hour, 60)], 60), Granted)
    await store.close()


async def test_all_of_many_ended_leases_are_back_before_anybody_is_denied(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_clock.install(redis_server, monkeypatch)
    client = connect(redis_server.url, timeout_s=10)
    store = RedisStore(client, timeout_s=10)
    bucket = Bucket("m", Dimension.REQUESTS, CalendarWindow(3_500, Period.MONTH))
    now_ms = 1_772_400_000_000
    await client.mset(script_clock.keys_at(now_ms))
    for i in range(0, 3_500, 100):
        some = (store.reserve("acme", f"r{i + j}", [Take(bucket, 1)], 60) for j in range(100))
        assert all(isinstance(verdict, Granted) for verdict in await asyncio.gather(*some))
    assert not isinstance(await store.reserve("acme", "next", [Take(bucket, 1)], 60), Granted)
    await client.mset(script_clock.keys_at(now_ms + 60_000))
    assert isinstance(await store.reserve("acme", "next", [Take(bucket, 3_500)], 60), Granted)
    await client.mset(script_clock.keys_at(now_ms + 4 * 3_600_000))
    assert [s.remaining for s in await store.standing("acme", [bucket])] == [3_500]
    await store.close()


async def test_tenants_are_listed_anew_when_redis_comes_back_empty(own_redis: RedisServer) -> None:
    store = RedisStore(connect(own_redis.url, timeout_s=10), timeout_s=10)
    usage = UsageRecord(DAY, "k", "u", "m", 3, 0, 0, 0)
    for attempt in ("before", "after"):
        await store.reserve("acme", attempt, [], 60)
        assert await store.settle("acme", attempt, {}, usage)
        assert await store.usage_slots(DAY, DAY) == ["acme"]
        own_redis.kill()
        with pytest.raises(StoreUnavailable):
            await store.settle("acme", attempt, {}, usage)
        own_redis.start()
    await store.close()


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("scheme", ["unix", "redis", "rediss"])
def test_connects_with_a_password_to_a_database_on_every_kind_of_url(
    scheme: str, runner: Callable[[Coroutine[None, None, None]], None], tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        port = free_port()
        options = ["--requirepass", "secret"]
        if scheme == "rediss":
            certificate, key = self_signed(tmp_path)
            options += ["--tls-port", str(port), "--tls-auth-clients", "no"]
            options += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
            url = f"rediss://:secret@127.0.0.1:{port}/3?ssl_ca_certs={certificate}"
        elif scheme == "redis":
            options += ["--port", str(port)]
            url = f"redis://:secret@127.0.0.1:{port}/3"
        else:
            url = f"unix://:secret@{folder}/redis.sock?db=3"
        server = RedisServer(Path(folder), options=options, password="secret")
        server.start()

        async def use() -> None:
            store = RedisStore(connect(url, timeout_s=10), timeout_s=10)
            some = (store.reserve("acme", f"r{i}", [Take(TEN, 1)], 60) for i in range(20))
            granted = [isinstance(verdict, Granted) for verdict in await asyncio.gather(*some)]
            assert sum(granted) == 10
            assert await store.renew("acme", [f"r{i}" for i in range(20)], 60) == 10
            assert await store.settle("acme", "r0", {"ten": 1})
            await store.close()
            wrong = url.replace("secret", "wrong")
            stranger = RedisStore(connect(wrong, timeout_s=10), timeout_s=10)
            with pytest.raises(StoreUnavailable, match="invalid username-password"):
                await stranger.reserve("acme", "s", [Take(TEN, 1)], 60)
            await stranger.close()

        try:
            runner(use())
            assert "db3" in str(server.ask("INFO", "keyspace"))
        finally:
            server.kill()


async def test_runs_in_a_cluster() -> None:
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        server = RedisServer(Path(folder), cluster=True)
        server.start()
        try:
            server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            async with asyncio.timeout(60):
                while "cluster_state:ok" not in str(server.ask("CLUSTER", "INFO")):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            client = connect_cluster(f"redis://127.0.0.1:{server.port}", timeout_s=10)
            store = RedisStore(client, timeout_s=10)
            for tenant in ("a", "b", "c"):
                assert isinstance(await store.reserve(tenant, "r", [Take(TEN, 4)], 60), Granted)
                assert await store.renew(tenant, ["r", "s"], 60) == 1
            server.ask("SCRIPT", "FLUSH")
            record = UsageRecord(DAY, "k", "u", "m", 3, 0, 0, 0)
            settled = [store.settle(tenant, "r", {"ten": 1}, record) for tenant in ("a", "b", "c")]
            assert await asyncio.gather(*settled) == [True] * 3
            assert [s.remaining for s in await store.standing("b", [TEN])] == [9]
            assert [r.input_tokens for r in await store.usage("c", DAY, DAY)] == [3]
            assert await store.usage_slots(DAY, DAY) == ["a", "b", "c"]
            together = [
                store.reserve(tenant, f"t{i}", [Take(TEN, 3)], 60)
                for i in range(5)
                for tenant in ("a", "b", "c")
            ]
            verdicts = await asyncio.gather(*together)
            assert sum(isinstance(verdict, Granted) for verdict in verdicts) == 9
            server.kill()
            for _ in range(2):  # the connection breaks; then the cluster cannot be found
                with pytest.raises(StoreUnavailable) as caught:
                    await store.reserve("a", "s", [Take(TEN, 4)], 60)
                assert caught.value.lost
                with pytest.raises(StoreUnavailable):
                    await store.settle("a", "r", {"ten": 1}, record)
            await store.close()
        finally:
            server.kill()
