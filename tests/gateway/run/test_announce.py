"""What `penstock up` says: what is missing, that it is ready, and what to do next."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from gateway.admin.status import (
    ConfigStatus,
    EndpointStatus,
    EnvoyStatus,
    GatewayStatus,
    PoolStatus,
    ReplicaStatus,
)
from gateway.config.config import Config
from gateway.run.announce import Announcement, first_key


def config_of(**sections: object) -> Config:
    return Config.model_validate_json(json.dumps({"identity": {}, **sections}))


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::", "http://[::1]:9000"),
        ("10.0.0.5", "http://10.0.0.5:9000"),
        ("fd00::5", "http://[fd00::5]:9000"),
    ],
)
def test_the_first_key_is_made_where_somebody_answers(address: str, url: str) -> None:
    config = config_of(
        admin={"address": address, "port": 9000, "token": {"env": "TOKEN"}},
        tenants=[{"name": "acme"}],
    )
    assert first_key(config) == [
        f'  KEY=$(PENSTOCK_ADMIN_TOKEN="$TOKEN" penstock keys create acme --quiet --url {url})'
    ]


def test_without_a_tenant_one_is_made_first() -> None:
    assert first_key(config_of()) == [
        "  penstock tenants create demo",
        "  KEY=$(penstock keys create demo --quiet)",
    ]


GOOD = EndpointStatus("10.0.0.1:80", healthy=True, models=("served", "more"))
BAD = EndpointStatus("10.0.0.2:80", healthy=False, reason="GET /v1/models: status 401")
UNKNOWN = replace(GOOD, address="10.0.0.3:80", warning="GET /metrics: status 404")
NAME = ReplicaStatus("gone.example:80", "unresolved", detail="gone.example cannot be resolved")


@dataclass
class Console:
    """A gateway of which only the status changes, and what was said of it."""

    status: GatewayStatus
    said: list[str] = field(default_factory=list)

    def announcement(self) -> Announcement:
        return Announcement(lambda: self.status, Config, self._say)

    def show(self, *endpoints: EndpointStatus) -> None:
        pool = PoolStatus("p", "static", replicas=(NAME,), endpoints=endpoints)
        missing = () if any(one.healthy for one in endpoints) else ("no replica", "why")
        self.status = replace(self.status, pools=(pool,), not_ready=missing)

    def _say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def console() -> Console:
    now = datetime.now(UTC)
    config = ConfigStatus(1, now, "penstock.yaml")
    return Console(GatewayStatus("1", now, 0.0, (), config, EnvoyStatus("ready")))


async def test_what_is_missing_is_said_until_it_is_ready(console: Console) -> None:
    console.show(BAD)
    following = asyncio.create_task(console.announcement().follow())
    async with asyncio.timeout(10):
        while not console.said:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert console.said == ["\nNot ready yet:\n  no replica\n  why\n"]
    console.show(GOOD, BAD, UNKNOWN)
    await following
    (_, ready) = console.said
    assert ready.startswith("\nReady in ")
    assert "Not used:\n  pool p: gone.example:80 is unresolved: gone.example cannot" in ready
    assert "\n  pool p: 10.0.0.2:80: GET /v1/models: status 401\n" in ready
    assert "\n  pool p: 10.0.0.3:80: GET /metrics: status 404\n" in ready
    assert '"model": "served"' in ready


async def test_nothing_is_said_of_replicas_that_nobody_has_looked_at(console: Console) -> None:
    console.show(replace(BAD, reason="no answer yet"))
    looking = asyncio.create_task(console.announcement().first_look())
    await asyncio.sleep(0)
    assert not looking.done()
    console.show(BAD)
    async with asyncio.timeout(10):
        await looking
    assert not console.said
