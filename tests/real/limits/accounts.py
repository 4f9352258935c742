"""Tenants in a configuration, and what the admin API tells of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from tests.real.gateway import Gateway, Json, eventually
from tests.redis_server import RedisServer


@dataclass(frozen=True, slots=True)
class Used:
    """A row of the usage ledger."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_micros: int


@dataclass(frozen=True, slots=True)
class Left:
    """A limit as the admin API shows it."""

    name: str
    count: str
    limit: float
    burst: float
    used: float
    remaining: float
    reset_s: float
    period_s: float

    @property
    def level(self) -> float:
        """Of a rolling limit; below 0 it is in debt. Off by what a millisecond refills."""
        return self.burst - self.reset_s * self.limit / self.period_s

    @property
    def idle(self) -> bool:
        """Nothing is taken."""
        return self.used == 0


_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}


def key_of(tenant: str, number: int = 0) -> str:
    """The text of a tenant's API key."""
    return f"psk_{tenant}{number}_{hashlib.md5(tenant.encode()).hexdigest()}"


def tenant(name: str, *limits: Json, keys: int = 1, **others: object) -> Json:
    """A tenant of the configuration, its keys named ``NAME-0``, ``NAME-1``, ..."""
    made = [
        {"id": f"{name}-{i}", "sha256": hashlib.sha256(key_of(name, i).encode()).hexdigest()}
        for i in range(keys)
    ]
    return {"name": name, "limits": list(limits), "keys": made, **others}


def limit(count: str, amount: float, period: str | None = None, **others: object) -> Json:
    """A limit of the configuration."""
    return {"count": count, "limit": amount, "period": period, **others}


def redis_store(url: str, **others: object) -> Json:
    """The section that has limits counted in this Redis."""
    return {"redis": {"url": url, **others}}


async def used(gateway: Gateway, *by: str) -> dict[tuple[str, ...], Used]:
    """GET /api/usage: rows by what they are grouped by."""
    async with (
        aiohttp.ClientSession(gateway.admin) as session,
        session.get("/api/usage", params={"by": ",".join(by)}) as answer,
    ):
        assert answer.status == 200, await answer.text()
        rows = (await answer.json())["rows"]
    return {
        tuple(row[name] for name in by): Used(
            row["requests"], row["input_tokens"], row["output_tokens"], round(row["cost"] * 1e6)
        )
        for row in rows
    }


async def left(gateway: Gateway, **whose: str) -> dict[str, Left]:
    """GET /api/limits, by name; {} while nobody can tell."""
    async with (
        aiohttp.ClientSession(gateway.admin) as session,
        session.get("/api/limits", params=whose) as answer,
    ):
        if answer.status == 503:
            return {}
        assert answer.status == 200, await answer.text()
        found = (await answer.json())["limits"]
    return {
        one["name"]: Left(
            name=one["name"],
            count=one["count"],
            limit=one["limit"],
            burst=one["burst"],
            used=one["used"],
            remaining=one["remaining"],
            reset_s=one["reset_s"],
            period_s=_PERIODS.get(one["period"], 0.0),
        )
        for one in found
    }


async def settled(gateway: Gateway, requests: int, **group: str) -> Used:
    """Returns the sum of the rows whose groups have these values, as soon as it has so many
    requests; AssertionError when it never does, or goes beyond."""
    found = Used(0, 0, 0, 0)

    async def there() -> bool:
        nonlocal found
        rows = (await used(gateway, *group)).items()
        mine = [row for key, row in rows if key == tuple(group.values())]
        found = mine[0] if mine else Used(0, 0, 0, 0)
        assert found.requests <= requests, f"{group}: {found}, expected {requests} requests"
        return found.requests == requests

    try:
        await eventually(there, f"{requests} requests of {group} in the ledger")
    except AssertionError:
        print(f"in the ledger: {found}")
        raise
    return found


def held(server: RedisServer, tenants: Sequence[str]) -> dict[str, int]:
    """Reservations that Redis keeps, by tenant, of those that have any."""
    counts = {name: server.ask("HLEN", f"penstock:{{t:{name}}}:h") for name in tenants}
    return {name: count for name, count in counts.items() if isinstance(count, int) and count}
