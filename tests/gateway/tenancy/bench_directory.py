"""What many tenants cost a picker: memory, the time to read them, and to find one.

python -m tests.gateway.tenancy.bench_directory [TENANTS]
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.gate import TenantGate
from gateway.tenancy.keys import digest_of, make_key
from gateway.tenancy.records import KeyRecord, TenantRecord, key_entry, tenant_entry
from gateway.tenancy.registry import Entry
from gateway.tenancy.sqlite_registry import SqliteRegistry
from picker.request.head import RequestHead
from tests.gateway.tenancy.parts import NOW_S, config_of, head_of

_LIMIT = {"count": "total_tokens", "limit": 100_000, "period": "minute"}
_PLAN = {"name": "gold", "limits": [_LIMIT, _LIMIT | {"period": "day"}]}
_JWT = {"issuer": "https://login.example", "jwks_uri": "https://login.example/keys"}
_IDENTITY = {"jwt": _JWT, "trusted_headers": {"tenant": "x-tenant-id"}}


def _resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _time_us(call: Callable[[RequestHead], object], heads: Sequence[RequestHead]) -> float:
    """Mean of the best of five."""
    best = float("inf")
    for _ in range(5):
        heads_again = cycle(heads)
        began_s = time.perf_counter()
        for _ in range(20_000):
            call(next(heads_again))
        best = min(best, (time.perf_counter() - began_s) / 20_000)
    return best * 1e6


async def _main(count: int) -> None:
    config = config_of(identity=_IDENTITY, plans=[_PLAN])
    texts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "penstock.db"
        writer = SqliteRegistry(path)
        for start in range(0, count, 1_000):
            entries: list[Entry] = []
            for number in range(start, min(count, start + 1_000)):
                name, made = f"tenant-{number:06}", make_key()
                document = config_of(plans=[_PLAN], tenants=[{"name": name, "plan": "gold"}])
                digest = digest_of(made.text)
                entries += [
                    tenant_entry(TenantRecord(name, document.tenants[0])),
                    key_entry(KeyRecord(made.id, made.id, name, digest, "ci", NOW_S)),
                ]
                if number % max(1, count // 1_000) == 0:
                    texts.append(made.text)
            await writer.write(entries)
        await writer.close()

        registry, directory = SqliteRegistry(path), Directory(config)
        follower = Follower(registry, directory)
        before_mb, began_s = _resident_mb(), time.perf_counter()
        await follower.poll()
        took_s = time.perf_counter() - began_s
        known_mb = _resident_mb()
        print(f"{count} tenants with a key each: {known_mb - before_mb:.1f} MB")
        print(f"read in {took_s:.1f} s")
        began_s = time.perf_counter()
        for _ in range(100):
            await follower.poll()
        print(f"a look without news: {(time.perf_counter() - began_s) * 1e4:.0f} us")
        await registry.close()

    gate = TenantGate(directory, now_s=time.time)
    names = [f"tenant-{number:06}" for number in range(0, count, max(1, count // 1_000))]
    ways = {
        "API key": [head_of({"authorization": f"Bearer {text}"}) for text in texts],
        "token": [head_of(claims={"tenant": name, "sub": "ada"}) for name in names],
        "trusted header": [head_of({"x-tenant-id": name}) for name in names],
    }
    for way, heads in ways.items():
        print(f"a request by {way}: {_time_us(gate.identify, heads):.1f} us")
    for number in range(count):
        directory.policy(f"tenant-{number:06}")
    print(f"with all policies compiled: {_resident_mb() - before_mb:.1f} MB")


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
