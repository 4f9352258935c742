"""Records as entries of the registry."""

from __future__ import annotations

from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.records import read_tenant
from gateway.tenancy.registry import START, Registry
from tests.gateway.tenancy.parts import WallClock, admin_of, config_of


async def test_records_survive_the_registry(registry: Registry) -> None:
    tokens = {"count": "total_tokens", "limit": 1000, "period": "minute", "by": ["key", "model"]}
    requests = {"count": "requests", "limit": 5, "period": "day", "window": "calendar"}
    document = {"name": "acme", "plan": None, "models": [], "limits": [tokens, requests]}
    follower = Follower(registry, Directory(config_of(identity={})))
    view = await admin_of(follower, WallClock()).create(document)
    page = await registry.changes(START)
    assert read_tenant(page.entries[0]).document == view.document
