"""What the tests of tenancy are made with; run as a program it is a process that writes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from gateway.config.config import Config
from gateway.limits.redis.client import connect
from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.gate import TenantGate
from gateway.tenancy.key_admin import KeyAdmin
from gateway.tenancy.keys import digest_of
from gateway.tenancy.redis_registry import RedisRegistry
from gateway.tenancy.registry import START, Conflict, Entry, EntryKind, Registry
from gateway.tenancy.sqlite_registry import SqliteRegistry
from gateway.tenancy.tenant_admin import TenantAdmin
from picker.request.head import RequestHead
from picker.request.rejection import Rejection

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


def tenant(name: str, version: int = 1, content: str = "{}") -> Entry:
    return Entry(EntryKind.TENANT, name, version, content.encode())


def key(name: str, version: int = 1, content: str = "{}") -> Entry:
    return Entry(EntryKind.KEY, name, version, content.encode())


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
    return TenantAdmin(follower, KeyAdmin(follower, now_s=clock))


PLANS = [{"name": "gold", "priority": 10}, {"name": "free"}]
FILE_TENANTS = [{"name": "infile", "keys": [{"id": "ci", "sha256": digest_of("ci").hex()}]}]


class Office:
    """An operator's desk with a gate beside it."""

    def __init__(self, registry: Registry, clock: WallClock) -> None:
        self.clock = clock
        config = config_of(identity={}, plans=PLANS, tenants=FILE_TENANTS)
        self.follower = Follower(registry, Directory(config), keeper=True)
        self.admin = admin_of(self.follower, clock)
        self.gate = TenantGate(self.follower.directory, now_s=clock)

    def opens(self, key: str) -> bool:
        try:
            self.gate.identify(head_of({"x-api-key": key}))
        except Rejection:
            return False
        return True


async def _count(place: str, own: str, times: int) -> None:
    """Add to a counter that others add to as well, and write an entry of one's own each time."""
    registry = open_registry(place)
    counter = Entry(EntryKind.TENANT, "counter", 0, b"0")
    for number in range(times):
        while True:
            for entry in await all_of(registry):
                if entry.id == "counter":
                    counter = entry
            total = str(int(counter.content) + 1).encode()
            mine = Entry(EntryKind.KEY, own, number + 1, str(number).encode())
            try:
                await registry.write(
                    [mine, Entry(EntryKind.TENANT, "counter", counter.version + 1, total)]
                )
                break
            except Conflict:
                continue
    await registry.close()


if __name__ == "__main__":
    asyncio.run(_count(sys.argv[1], sys.argv[2], int(sys.argv[3])))
