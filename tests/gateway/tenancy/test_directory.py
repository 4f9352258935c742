"""Tenants and keys of the configuration and of the registry together."""

from __future__ import annotations

import pytest

from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.keys import digest_of
from gateway.tenancy.records import KeyRecord, key_entry
from gateway.tenancy.registry import Entry, EntryKind, Registry
from tests.gateway.tenancy.parts import NOW_S, WallClock, admin_of, config_of


async def test_the_configuration_counts_where_both_have_it(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    digest = digest_of("from the file")
    tenants = [{"name": "acme", "priority": 1, "keys": [{"id": "ci", "sha256": digest.hex()}]}]
    directory = Directory(config_of(identity={}, tenants=tenants))
    await registry.write(
        [
            Entry(EntryKind.TENANT, "acme", 1, b'{"name":"acme","priority":2}'),
            key_entry(KeyRecord("ci", "ci", "acme", digest_of("other"), created_s=NOW_S)),
        ]
    )
    follower = Follower(registry, directory)
    await follower.poll()
    policy = directory.policy("acme")
    assert policy is not None
    assert policy.priority == 1
    assert directory.find_key(digest_of("other")) is None
    assert directory.find_key(digest) is not None
    assert len(directory.tenants(after="", limit=9)) == len(directory.keys()) == 1
    assert caplog.text.count("the configuration's counts") == 2

    directory.configure(config_of(identity={}))
    policy = directory.policy("acme")
    assert policy is not None
    assert policy.priority == 2
    found = directory.find_key(digest_of("other"))
    assert found is not None
    assert directory.find_key(digest) is None


async def test_a_new_configuration_changes_policies(registry: Registry) -> None:
    def config(priority: int) -> object:
        return [{"name": "gold", "priority": priority}]

    directory = Directory(config_of(plans=config(1)))
    follower = Follower(registry, directory)
    admin = admin_of(follower, WallClock())
    await admin.create({"name": "acme", "plan": "gold"})
    for priority in (1, 2):
        directory.configure(config_of(plans=config(priority)))
        policy = directory.policy("acme")
        assert policy is not None
        assert policy.priority == priority
    directory.configure(config_of(identity={}))
    policy = directory.policy("acme")
    assert policy is not None
    assert policy.disabled, "without its plan it would be unlimited"


@pytest.mark.parametrize("unknown", [None, "free"])
def test_the_policy_of_a_request_is_its_keys_or_its_tenants(unknown: str | None) -> None:
    limit = {"count": "concurrency", "limit": 2}
    keys = [{"id": "ci", "sha256": digest_of("ci").hex(), "limits": [limit]}]
    directory = Directory(
        config_of(
            identity={"trusted_headers": {"tenant": "x-tenant"}, "unknown_tenants": unknown},
            plans=[{"name": "free"}],
            tenants=[{"name": "acme", "keys": keys}],
        )
    )

    def rules(tenant: str, key_id: str) -> int | None:
        policy = directory.policy_with(tenant, key_id)
        return None if policy is None else len(policy.rules)

    assert (rules("acme", "ci"), rules("acme", ""), rules("acme", "gone")) == (1, 0, 0)
    assert rules("stranger", "ci") == (None if unknown is None else 0), "a key of another tenant"
