"""What limits cost: `python -m tests.gateway.limits.bench_stores`. Needs redis-server.

CPU is this process's own, by reservation and settlement together, with 4 buckets and usage.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import uvloop
from rich.console import Console

from gateway.limits.buckets import BucketStore
from gateway.limits.memory.journal import Journal
from gateway.limits.memory.store import MemoryStore
from gateway.limits.redis.client import connect
from gateway.limits.redis.store import RedisStore
from gateway.limits.usage import UsageRecord
from loadtests.bench.rows import Row, below, table
from loadtests.bench.stats import spread
from policies.limits.plan import OnStoreFailure
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Period,
    Rule,
    Take,
    TokenBucket,
)
from tests.gateway.limits.outage.parts import fallback
from tests.redis_server import RedisServer

PAIRS = 10_000
TENANTS = 100_000
RULES: tuple[tuple[Dimension, Rule], ...] = (
    (Dimension.REQUESTS, TokenBucket.per(Period.MINUTE, 10**6)),
    (Dimension.TOTAL_TOKENS, TokenBucket.per(Period.MINUTE, 10**9)),
    (Dimension.MONEY, CalendarWindow(10**12, Period.MONTH)),
    (Dimension.CONCURRENCY, Concurrency(1_000)),
)


IN_USE: tuple[tuple[Dimension, Rule], ...] = (
    (Dimension.REQUESTS, TokenBucket.per(Period.MONTH, 10_000)),
    (Dimension.INPUT_TOKENS, TokenBucket.per(Period.MONTH, 100_000)),
    (Dimension.TOTAL_TOKENS, CalendarWindow(10**9, Period.MONTH)),
    (Dimension.MONEY, CalendarWindow(10**12, Period.MONTH)),
)
"""None of these is idle, and so forgotten, while the benchmark runs."""


def takes_of(tenant: str, rules: tuple[tuple[Dimension, Rule], ...] = RULES) -> list[Take]:
    amounts = (1, 1_500, 2_000, 1)
    return [
        Take(Bucket(f"{tenant}:{dimension.value}", dimension, rule), amount)
        for (dimension, rule), amount in zip(rules, amounts, strict=True)
    ]


async def pairs(store: BucketStore, count: int, at_once: int) -> tuple[float, list[float]]:
    """CPU µs by pair, and how long reservations took, ms."""
    takes = takes_of("acme")
    charges = {take.bucket.key: take.amount - 1 for take in takes}
    usage = UsageRecord(datetime.now(UTC).date(), "key", "user", "model", 1_000, 200, 300, 1_900)
    waits_ms: list[float] = []

    async def client(name: int) -> None:
        for i in range(count // at_once):
            start_s = time.perf_counter()
            await store.reserve("acme", f"{name}-{i}", takes, 600)
            waits_ms.append((time.perf_counter() - start_s) * 1e3)
            await store.settle("acme", f"{name}-{i}", charges, usage)

    start_s = time.process_time()
    await asyncio.gather(*(client(name) for name in range(at_once)))
    return (time.process_time() - start_s) / len(waits_ms) * 1e6, waits_ms


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def tenants_in(store: MemoryStore) -> float:
    """CPU µs by request, of tenants that each bring 4 buckets into use."""
    start_s = time.process_time()
    for i in range(TENANTS):
        takes = takes_of(f"t{i}", IN_USE)
        await store.reserve(f"tenant {i}", "r", takes, 600)
        await store.settle(f"tenant {i}", "r", {take.bucket.key: take.amount for take in takes})
        if i % 100 == 0:
            await asyncio.sleep(0)
    return (time.process_time() - start_s) / TENANTS * 1e6


async def in_memory(rows: list[Row]) -> None:
    gc.collect()
    before = resident_bytes()
    store = MemoryStore()
    await tenants_in(store)
    gc.collect()
    size_mb = (resident_bytes() - before) / 1e6
    rows.append(Row("memory store, resident", size_mb, "MB", f"{TENANTS:,} tenants x 4"))
    cpu_us, _ = await pairs(MemoryStore(), PAIRS, 1)
    rows.append(Row("memory store, CPU", cpu_us, "µs", "reserve + settle"))


async def journalled(rows: list[Row], folder: Path) -> None:
    path = folder / "penstock.db"
    store = MemoryStore(journal=Journal(path))
    await tenants_in(store)
    closing_s = time.perf_counter()
    await store.close()
    closing_s = time.perf_counter() - closing_s
    rows.append(Row("journal, last flush", closing_s, "s", f"of {TENANTS:,} tenants x 4"))
    rows.append(Row("journal, file", path.stat().st_size / 1e6, "MB", "the same"))
    start_s = time.perf_counter()
    store = MemoryStore(journal=Journal(path))
    rows.append(Row("journal, start", time.perf_counter() - start_s, "s", "the same"))
    cpu_us, _ = await pairs(store, PAIRS, 1)
    await store.close()
    rows.append(Row("memory store + journal, CPU", cpu_us, "µs", "reserve + settle, all threads"))


async def measure(server: RedisServer, folder: Path) -> list[Row]:
    rows: list[Row] = []
    await in_memory(rows)
    await journalled(rows, folder)
    for at_once in (1, 32):
        plain = RedisStore(connect(server.url, timeout_s=5), timeout_s=5)
        wrapped = fallback(plain, OnStoreFailure.OPEN)
        for name, store in (("Redis store", plain), ("with fallback", wrapped)):
            await pairs(store, 1_000, at_once)
            server.ask("CONFIG", "RESETSTAT")
            cpu_us, waits_ms = await pairs(store, PAIRS, at_once)
            aim, met = below(cpu_us, 150, "µs")
            how = f"reserve + settle, {at_once} at once, unix socket"
            rows.append(Row(f"{name}, CPU", cpu_us, "µs", how, aim=aim, met=met))
            rows.append(Row(f"{name}, reserve p50", spread(waits_ms).p50, "ms", "round trip"))
        await wrapped.close()
        stats = cast("dict[str, dict[str, float]]", server.ask("INFO", "commandstats"))
        script_us = float(stats["cmdstat_evalsha"]["usec_per_call"])
        rows.append(Row("Redis, in the server", script_us, "µs", "one script call, mean"))
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pk") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            rows = uvloop.run(measure(server, Path(folder)))
        finally:
            server.kill()
    Console().print(table(rows, "Limit stores"))


if __name__ == "__main__":
    main()
