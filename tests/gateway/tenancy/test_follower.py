"""Directories follow the registry; a registry that forgets is told again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.keys import digest_of
from gateway.tenancy.records import TenantRecord, key_entry, tenant_entry
from gateway.tenancy.registry import Entry, EntryKind, Registry, RegistryUnavailable
from tests.gateway.tenancy.parts import (
    NOW_S,
    WallClock,
    admin_of,
    all_of,
    config_of,
    open_registry,
)
from tests.redis_server import RedisServer


def follower_of(registry: Registry, *, keeper: bool = False) -> Follower:
    return Follower(registry, Directory(config_of(identity={})), keeper=keeper)


def names(follower: Follower) -> list[str]:
    return [record.name for record in follower.directory.tenants(after="", limit=100)]


@pytest.fixture
def followers(registries: Iterator[Registry]) -> Iterator[Follower]:
    """The first one is a supervisor's, the others are pickers'."""
    return (follower_of(r, keeper=number == 0) for number, r in enumerate(registries))


async def test_pickers_learn_of_what_operators_do(followers: Iterator[Follower]) -> None:
    supervisor, picker = next(followers), next(followers)
    admin = admin_of(supervisor, WallClock())
    await admin.create({"name": "acme", "priority": 3})
    made = await admin.keys.create("acme")
    await picker.poll()
    key = picker.directory.find_key(digest_of(made.text))
    assert key is not None
    policy = picker.directory.policy_of(key)
    assert policy is not None
    assert (policy.tenant, policy.priority) == ("acme", 3)

    await admin.keys.revoke(made.record.id)
    await admin.update("acme", {"priority": 5})
    await picker.poll()
    key = picker.directory.find_key(digest_of(made.text))
    assert key is not None
    assert key.revoked_s == NOW_S
    policy = picker.directory.policy("acme")
    assert policy is not None
    assert policy.priority == 5

    await admin.delete("acme")
    await picker.poll()
    assert picker.directory.policy("acme") is None
    assert names(picker) == []


async def test_many_are_read_page_by_page(registries: Iterator[Registry]) -> None:
    writer, reader = next(registries), next(registries)
    for start in range(0, 1_000, 250):
        some = range(start, start + 250)
        await writer.write(
            [Entry(EntryKind.TENANT, f"t{n}", 1, b'{"name":"t%d"}' % n) for n in some]
        )
    follower = follower_of(reader, keeper=True)
    await follower.poll()
    assert len(follower.directory.tenants(after="", limit=2_000)) == 1_000


async def test_an_entry_that_cannot_be_read_changes_nothing(
    followers: Iterator[Follower], registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one that a later Penstock has written."""
    follower = next(followers)
    await registry.write([Entry(EntryKind.TENANT, "acme", 1, b'{"name":"acme","priority":7}')])
    await follower.poll()
    await registry.write(
        [
            Entry(EntryKind.TENANT, "acme", 2, b'{"name":"acme","colour":"red"}'),
            Entry(EntryKind.TENANT, "other", 1, b'{"name":"somebody-else"}'),
            Entry(EntryKind.KEY, "k", 1, b"{"),
            Entry(EntryKind.TENANT, "good", 1, b'{"name":"good"}'),
        ]
    )
    await follower.poll()
    assert names(follower) == ["acme", "good"]
    policy = follower.directory.policy("acme")
    assert policy is not None
    assert policy.priority == 7
    assert follower.directory.unreadable == 3
    assert "'acme' of the registry is ignored: colour" in caplog.text


# -- a registry that loses what it had


async def test_a_redis_that_comes_back_empty_locks_nobody_out(own_redis: RedisServer) -> None:
    registries = [open_registry(own_redis.url) for _ in range(3)]
    picker = follower_of(registries[0])
    supervisors = [follower_of(registry, keeper=True) for registry in registries[1:]]
    admin = admin_of(supervisors[0], WallClock())
    await admin.create({"name": "acme"})
    await admin.create({"name": "gone"})
    kept, revoked = await admin.keys.create("acme"), await admin.keys.create("acme")
    await admin.keys.revoke(revoked.record.id)
    await admin.delete("gone")
    everybody = [picker, *supervisors]
    for follower in everybody:
        await follower.poll()
    before = {(entry.kind, entry.id): entry for entry in await all_of(registries[0])}

    own_redis.kill()
    with pytest.raises(RegistryUnavailable):
        await picker.poll()
    with pytest.raises(RegistryUnavailable):
        await admin.create({"name": "late"})
    own_redis.start()
    for _ in range(2):
        for follower in everybody:
            await follower.poll()

    found = picker.directory.find_key(digest_of(kept.text))
    assert found is not None
    assert found.revoked_s is None
    found = picker.directory.find_key(digest_of(revoked.text))
    assert found is not None
    assert found.revoked_s is not None
    assert picker.directory.policy("gone") is None
    after = {(entry.kind, entry.id): entry for entry in await all_of(registries[0])}
    assert after == before
    assert supervisors[0].restored + supervisors[1].restored == len(before), "once, by one of them"

    newcomer = follower_of(registries[0])
    await newcomer.poll()
    assert names(newcomer) == ["acme"]
    for registry in registries:
        await registry.close()


async def test_supervisors_complete_each_other(redis_server: RedisServer) -> None:
    """Each knows something that the other does not, and Redis has forgotten both."""
    registries = [open_registry(redis_server.url) for _ in range(2)]
    one, two = (follower_of(registry, keeper=True) for registry in registries)
    await admin_of(one, WallClock()).create({"name": "a"})
    await one.poll()
    await two.poll()
    redis_server.ask("FLUSHALL")
    two_alone = follower_of(registries[1], keeper=True)
    two_alone.directory.apply([Entry(EntryKind.TENANT, "a", 4, b'{"name":"a","priority":4}')])
    two_alone.directory.apply([Entry(EntryKind.TENANT, "b", 2, b'{"name":"b"}')])
    for follower in (one, two_alone, one):
        await follower.poll()
    assert names(one) == names(two_alone) == ["a", "b"]
    record = one.directory.tenant("a")
    assert record is not None
    assert record.version == 4, "the later version counts"
    for registry in registries:
        await registry.close()


@pytest.mark.parametrize("written_since", [False, True])
async def test_an_older_copy_of_redis_does_not_unrevoke(
    redis_server: RedisServer, *, written_since: bool
) -> None:
    """As when a replica takes over that lacks the last writes."""
    registry = open_registry(redis_server.url)
    supervisor = follower_of(registry, keeper=True)
    admin = admin_of(supervisor, WallClock())
    await admin.create({"name": "acme"})
    made = await admin.keys.create("acme")
    everything = ("entries", "order", "epoch")
    for name in everything:
        redis_server.ask("COPY", f"penstock:{{registry}}:{name}", f"{{registry}}copy-{name}")
    await admin.keys.revoke(made.record.id)
    await supervisor.poll()
    for name in everything:
        redis_server.ask(
            *("COPY", f"{{registry}}copy-{name}", f"penstock:{{registry}}:{name}", "REPLACE")
        )
    if written_since:
        await registry.write([key_entry(replace(made.record, name="renamed", version=2))])
    for _ in range(3):
        await supervisor.poll()
    newcomer = follower_of(registry)
    await newcomer.poll()
    found = newcomer.directory.find_key(digest_of(made.text))
    assert found is not None
    assert found.revoked_s == NOW_S
    assert found.name == ("renamed" if written_since else "")
    await registry.close()


async def test_a_picker_writes_nothing_back(redis_server: RedisServer) -> None:
    registry = open_registry(redis_server.url)
    await registry.write([tenant_entry(TenantRecord("acme", None))])
    picker = follower_of(registry)
    await picker.poll()
    redis_server.ask("FLUSHALL")
    await picker.poll()
    assert await all_of(registry) == []
    assert picker.directory.tenant("acme") == TenantRecord("acme", None)
    await registry.close()


# -- a registry that is away


async def test_a_look_that_fails_is_counted(tmp_path: Path) -> None:
    registry = open_registry(str(tmp_path / "state" / "penstock.db"))
    follower = follower_of(registry)
    await follower.poll()
    (tmp_path / "state" / "penstock.db").unlink()
    with pytest.raises(RegistryUnavailable):
        await follower.poll()
    assert follower.failures == 1
    await registry.close()


class Enough(Exception):  # noqa: N818
    """Ends a run."""


async def test_it_goes_on_through_an_outage_and_tells_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "penstock.tenancy")
    registry, writer = open_registry(own_redis.url), open_registry(own_redis.url)
    follower = follower_of(registry)
    pauses: list[float] = []

    async def pause(duration_s: float) -> None:
        pauses.append(duration_s)
        if len(pauses) == 1:
            own_redis.kill()
        elif len(pauses) == 4:
            own_redis.start()
            await writer.write([Entry(EntryKind.TENANT, "acme", 1, b'{"name":"acme"}')])
        elif len(pauses) == 5:
            raise Enough

    with pytest.raises(Enough):
        await follower.run(pause)
    assert pauses == [0.25, 0.5, 1.0, 1.0, 0.25]
    assert names(follower) == ["acme"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("the registry of tenants and keys is away")
    assert told[1] == "the registry of tenants and keys is back"
    for one in (registry, writer):
        await one.close()


class Broken:
    """Raises what nobody expects, once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._calls = 0

    def __getattr__(self, name: str) -> object:
        if name == "changes":
            self._calls += 1
            if self._calls == 1:
                raise ZeroDivisionError
        return getattr(self._registry, name)


async def test_nothing_ends_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "penstock.tenancy")
    broken = Broken(open_registry(str(tmp_path / "penstock.db")))
    follower = follower_of(broken)  # type: ignore[arg-type]  # it is one by __getattr__

    async def pause(duration_s: float) -> None:
        if "is back" in caplog.text:
            raise Enough

    with pytest.raises(Enough):
        await follower.run(pause)
    assert follower.failures == 1
    assert "ZeroDivisionError" in caplog.text
    await follower.close()
