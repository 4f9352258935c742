"""What the tests of tenancy are made with; run as a program it is a process that writes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from gateway.config.config import Config
from gateway.limits.redis.store import connect
from gateway.tenancy.follower import Follower
from gateway.tenancy.redis_registry import RedisRegistry
from gateway.tenancy.registry import START, Conflict, Entry, Kind, Registry
from gateway.tenancy.service import TenantAdmin
from gateway.tenancy.sqlite import SqliteRegistry
from picker.request.head import RequestHead

PATIENT_S = 20.0
"""So that a busy machine fails no test."""
NOW_S = 1_800_000_000.0


class WallClock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def open_registry(place: str) -> Registry:
    if place.startswith("unix:"):
        return RedisRegistry(connect(place, timeout_s=PATIENT_S), timeout_s=PATIENT_S)
    return SqliteRegistry(Path(place), timeout_s=PATIENT_S)


def config_of(**sections: object) -> Config:
    return Config.model_validate_json(json.dumps(sections))


def head_of(
    headers: Mapping[str, str] | None = None,
    *,
    claims: Mapping[str, object] | None = None,
    claims_error: str = "",
) -> RequestHead:
    return RequestHead(
        "POST", "/v1/chat/completions", headers or {}, None, 0.0, claims or {}, claims_error
    )


async def all_of(registry: Registry) -> list[Entry]:
    page = await registry.changes(START, 10_000)
    return list(page.entries)


def admin_of(follower: Follower, clock: WallClock) -> TenantAdmin:
    return TenantAdmin(follower, now_s=clock)


async def _count(place: str, own: str, times: int) -> None:
    """Add to a counter that others add to as well, and write an entry of one's own each time."""
    registry = open_registry(place)
    counter = Entry(Kind.TENANT, "counter", 0, b"0")
    for number in range(times):
        while True:
            for entry in await all_of(registry):
                if entry.id == "counter":
                    counter = entry
            total = str(int(counter.content) + 1).encode()
            mine = Entry(Kind.KEY, own, number + 1, str(number).encode())
            try:
                await registry.write(
                    [mine, Entry(Kind.TENANT, "counter", counter.version + 1, total)]
                )
                break
            except Conflict:
                continue
    await registry.close()


if __name__ == "__main__":
    asyncio.run(_count(sys.argv[1], sys.argv[2], int(sys.argv[3])))
