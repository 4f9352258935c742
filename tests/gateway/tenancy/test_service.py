"""What operators do with tenants and keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.gate import TenantGate
from gateway.tenancy.keys import digest_of
from gateway.tenancy.records import KeyState
from gateway.tenancy.registry import Registry
from gateway.tenancy.service import (
    AlreadyExists,
    InConfiguration,
    Invalid,
    KeyChanges,
    RegistryUnavailable,
    StaleVersion,
    TenantAdmin,
    UnknownKey,
    UnknownTenant,
)
from picker.request.rejection import Rejection
from tests.gateway.tenancy.parts import NOW_S, WallClock, config_of, head_of, open_registry

PLANS = [{"name": "gold", "priority": 10}, {"name": "free"}]
FILE_TENANTS = [{"name": "infile", "keys": [{"id": "ci", "sha256": digest_of("ci").hex()}]}]
HOUR_S = 3_600.0


class Office:
    """An operator's desk with a gate beside it."""

    def __init__(self, registry: Registry, clock: WallClock) -> None:
        self.clock = clock
        self.config = config_of(identity={}, plans=PLANS, tenants=FILE_TENANTS)
        self.follower = Follower(registry, Directory(self.config), keeper=True)
        self.admin = TenantAdmin(self.follower, now_s=clock)
        self.gate = TenantGate(self.follower.directory, now_s=clock)
        self.gate.configure(self.config)

    def opens(self, key: str) -> bool:
        try:
            self.gate.identify(head_of({"x-api-key": key}))
        except Rejection:
            return False
        return True


@pytest.fixture
def offices(registries: Iterator[Registry]) -> Iterator[Office]:
    clock = WallClock()
    return (Office(registry, clock) for registry in registries)


@pytest.fixture
def office(offices: Iterator[Office]) -> Office:
    return next(offices)


# -- tenants


async def test_a_tenant_from_the_cradle_to_the_grave(office: Office) -> None:
    admin = office.admin
    made = await admin.create_tenant({"name": "acme", "plan": "gold", "weight": None})
    assert (made.name, made.document.plan, made.version) == ("acme", "gold", 1)
    assert not made.in_configuration
    changed = await admin.update_tenant("acme", {"plan": "free", "weight": 4})
    assert (changed.document.plan, changed.document.weight, changed.version) == ("free", 4, 2)
    changed = await admin.update_tenant("acme", {"plan": None, "name": "acme"})
    assert (changed.document.plan, changed.document.weight) == (None, 4)
    assert admin.get_tenant("acme") == changed
    assert [view.name for view in admin.list_tenants()] == ["acme", "infile"]
    assert [view.in_configuration for view in admin.list_tenants()] == [False, True]
    assert await admin.delete_tenant("acme") == 0
    with pytest.raises(UnknownTenant):
        admin.get_tenant("acme")
    with pytest.raises(UnknownTenant):
        await admin.update_tenant("acme", {"weight": 1})
    with pytest.raises(UnknownTenant):
        await admin.delete_tenant("acme")
    again = await admin.create_tenant({"name": "acme"})
    assert (again.version, again.document.weight) == (5, None)


async def test_a_tenant_exists_once(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    await here.admin.create_tenant({"name": "acme"})
    for office in (here, there):
        with pytest.raises(AlreadyExists, match="acme"):
            await office.admin.create_tenant({"name": "acme"})


async def test_what_is_in_the_file_is_changed_there(office: Office) -> None:
    with pytest.raises(InConfiguration, match="infile"):
        await office.admin.create_tenant({"name": "infile"})
    with pytest.raises(InConfiguration):
        await office.admin.update_tenant("infile", {"weight": 2})
    with pytest.raises(InConfiguration):
        await office.admin.delete_tenant("infile")
    with pytest.raises(InConfiguration):
        await office.admin.revoke_key("ci")
    with pytest.raises(InConfiguration):
        await office.admin.rotate_key("ci")
    with pytest.raises(InConfiguration):
        await office.admin.update_key("ci", {"name": "x"})
    assert office.admin.get_key("ci").in_configuration
    made = await office.admin.create_key("infile")
    assert office.opens(made.text), "a tenant of the file may have keys that are made"


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({}, "name"),
        ({"name": "Acme"}, "name"),
        ({"name": "acme", "plan": "silver"}, "plan"),
        ({"name": "acme", "colour": "red"}, "colour"),
        ({"name": "acme", "keys": [{"id": "x", "sha256": "0" * 64}]}, "keys"),
        ({"name": "acme", "limits": [{"count": "requests", "limit": 1}]}, "limits[0].period"),
        (
            {"name": "acme", "limits": [{"count": "cost", "limit": 1, "period": "day"}]},
            "limits[0].count",
        ),
        (
            {
                "name": "acme",
                "limits": [{"count": "concurrency", "limit": 1, "pools": ["nowhere"]}],
            },
            "limits[0].pools[0]",
        ),
    ],
)
async def test_an_unsound_tenant_is_refused(
    office: Office, document: dict[str, object], key: str
) -> None:
    with pytest.raises(Invalid) as caught:
        await office.admin.create_tenant(document)
    assert [at for at, _ in caught.value.problems] == [key]
    assert "expected" in str(caught.value)
    if "name" in document and document["name"] == "acme":
        await office.admin.create_tenant({"name": "acme"})
        with pytest.raises(Invalid):
            await office.admin.update_tenant("acme", document)


async def test_a_name_cannot_change(office: Office) -> None:
    await office.admin.create_tenant({"name": "acme"})
    with pytest.raises(Invalid, match="name"):
        await office.admin.update_tenant("acme", {"name": "other"})


async def test_an_update_on_what_is_old_is_refused(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    seen = await here.admin.create_tenant({"name": "acme"})
    await there.admin.update_tenant("acme", {"weight": 2}, version=seen.version)
    with pytest.raises(StaleVersion, match="version 2"):
        await here.admin.update_tenant("acme", {"weight": 3}, version=seen.version)
    assert here.admin.get_tenant("acme").document.weight == 2


async def test_updates_at_once_lose_nothing(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    await here.admin.create_tenant({"name": "acme"})
    await asyncio.gather(
        here.admin.update_tenant("acme", {"weight": 2}),
        there.admin.update_tenant("acme", {"priority": 3}),
    )
    await here.follower.poll()
    document = here.admin.get_tenant("acme").document
    assert (document.weight, document.priority) == (2, 3)


async def test_lists_come_in_pieces(office: Office) -> None:
    for name in ("d", "b", "c", "a"):
        await office.admin.create_tenant({"name": name})
    assert [view.name for view in office.admin.list_tenants(limit=2)] == ["a", "b"]
    assert [view.name for view in office.admin.list_tenants(after="b", limit=2)] == ["c", "d"]
    keys = sorted([(await office.admin.create_key("a")).record.id for _ in range(3)])
    listed = office.admin.list_keys("a", after=keys[0])
    assert [view.record.id for view in listed] == keys[1:]
    assert len(office.admin.list_keys()) == 4
    with pytest.raises(UnknownTenant):
        office.admin.list_keys("nobody")


async def test_a_deleted_tenant_takes_its_keys_along(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    await here.admin.create_tenant({"name": "acme"})
    keys = [await here.admin.create_key("acme") for _ in range(3)]
    assert await there.admin.delete_tenant("acme") == 3
    await here.follower.poll()
    assert not any(here.opens(key.text) for key in keys)
    await here.admin.create_tenant({"name": "acme"})
    assert not any(here.opens(key.text) for key in keys), "also when there is one of that name"


async def test_a_key_made_while_its_tenant_is_deleted_opens_nothing(
    offices: Iterator[Office],
) -> None:
    here, there = next(offices), next(offices)
    await here.admin.create_tenant({"name": "acme"})
    await asyncio.gather(
        there.admin.delete_tenant("acme"),
        *(here.admin.create_key("acme") for _ in range(5)),
        return_exceptions=True,
    )
    await here.admin.create_tenant({"name": "acme"})
    for view in here.admin.list_keys("acme"):
        assert view.record.state(NOW_S) is KeyState.REVOKED


# -- keys


async def test_a_key_from_the_cradle_to_the_grave(office: Office) -> None:
    admin = office.admin
    await admin.create_tenant({"name": "acme"})
    made = await admin.create_key("acme", name="the ci", expires_s=NOW_S + HOUR_S, models=["a-*"])
    record = made.record
    assert made.text.startswith(f"psk_{record.id}_")
    assert (record.line, record.tenant, record.name) == (record.id, "acme", "the ci")
    assert (record.created_s, record.expires_s, record.models) == (NOW_S, NOW_S + HOUR_S, ("a-*",))
    assert office.opens(made.text)
    assert admin.get_key(record.id).record == record
    revoked = await admin.revoke_key(record.id)
    assert revoked.record.state(NOW_S) is KeyState.REVOKED
    assert not office.opens(made.text)
    office.clock.now_s += 60
    assert (await admin.revoke_key(record.id)).record.revoked_s == NOW_S, "once is enough"
    assert [view.record.id for view in admin.list_keys("acme")] == [record.id]


async def test_rotation_overlaps(office: Office) -> None:
    admin, clock = office.admin, office.clock
    old = await admin.create_key("infile", name="ci", models=["a-*"])
    new = await admin.rotate_key(old.record.id, overlap_s=HOUR_S)
    assert new.record.id != old.record.id
    assert (new.record.line, new.record.name) == (old.record.id, "ci")
    assert (new.record.models, new.record.expires_s) == (("a-*",), None)
    assert office.opens(old.text)
    assert office.opens(new.text)
    caller = office.gate.identify(head_of({"x-api-key": new.text}))
    assert caller.line == old.record.id, "limits by key go on counting"
    clock.now_s += HOUR_S
    assert not office.opens(old.text)
    assert office.opens(new.text)
    newest = await admin.rotate_key(new.record.id, overlap_s=0)
    assert newest.record.line == old.record.id
    assert not office.opens(new.text)
    assert office.opens(newest.text)


async def test_a_key_is_changed_and_stays_the_same_key(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    limit = {"count": "concurrency", "limit": 2}
    made = await here.admin.create_key("infile", name="laptop", limits=[limit])
    key_id = made.record.id
    changed = await there.admin.update_key(
        key_id, {"models": ["small-*"], "expires_s": NOW_S + HOUR_S}
    )
    assert (changed.record.models, changed.record.expires_s) == (("small-*",), NOW_S + HOUR_S)
    assert (changed.record.name, len(changed.record.limits)) == ("laptop", 1)
    assert changed.record.version == 2
    await here.follower.poll()
    caller = here.gate.identify(head_of({"x-api-key": made.text}))
    assert caller.models == ("small-*",)

    with pytest.raises(StaleVersion, match="version 2"):
        await here.admin.update_key(key_id, {"name": "other"}, version=1)
    changed = await here.admin.update_key(
        key_id, {"name": "", "expires_s": None, "limits": ()}, version=2
    )
    record = changed.record
    assert (record.name, record.expires_s, record.limits) == ("", None, ())
    assert record.models == ("small-*",)


async def test_an_expired_key_may_live_on_and_a_revoked_one_not(office: Office) -> None:
    made = await office.admin.create_key("infile", expires_s=NOW_S + 10)
    office.clock.now_s += 20
    assert not office.opens(made.text)
    await office.admin.update_key(made.record.id, {"expires_s": NOW_S + HOUR_S})
    assert office.opens(made.text)
    await office.admin.revoke_key(made.record.id)
    with pytest.raises(Invalid, match="revoked"):
        await office.admin.update_key(made.record.id, {"expires_s": None})
    assert not office.opens(made.text)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"expires_s": NOW_S - 1}, "expires"),
        ({"name": "a\nb"}, "name"),
        ({"models": [""]}, "models[0]"),
        ({"limits": [{"count": "requests", "limit": 1}]}, "limits[0].period"),
    ],
)
async def test_a_key_is_not_changed_to_what_is_unsound(
    office: Office, changes: KeyChanges, key: str
) -> None:
    made = await office.admin.create_key("infile")
    with pytest.raises(Invalid) as caught:
        await office.admin.update_key(made.record.id, changes)
    assert [found for found, _ in caught.value.problems] == [key]
    assert office.admin.get_key(made.record.id).record == made.record


async def test_rotation_keeps_the_length_of_a_life(office: Office) -> None:
    admin, clock = office.admin, office.clock
    old = await admin.create_key("infile", expires_s=NOW_S + HOUR_S)
    clock.now_s += 600
    new = await admin.rotate_key(old.record.id, overlap_s=10 * HOUR_S)
    assert new.record.expires_s == clock.now_s + HOUR_S
    assert admin.get_key(old.record.id).record.expires_s == NOW_S + HOUR_S, "not put off"
    newest = await admin.rotate_key(new.record.id, expires_s=clock.now_s + 5)
    assert newest.record.expires_s == clock.now_s + 5


async def test_only_the_latest_active_key_is_rotated(office: Office) -> None:
    admin, clock = office.admin, office.clock
    old = await admin.create_key("infile")
    new = await admin.rotate_key(old.record.id)
    with pytest.raises(Invalid, match=f"rotate {new.record.id} instead"):
        await admin.rotate_key(old.record.id)
    await admin.revoke_key(new.record.id)
    with pytest.raises(Invalid, match="revoked"):
        await admin.rotate_key(new.record.id)
    short = await admin.create_key("infile", expires_s=NOW_S + 1)
    clock.now_s += 1
    with pytest.raises(Invalid, match="expired"):
        await admin.rotate_key(short.record.id)


async def test_what_is_not_there_is_unknown(office: Office) -> None:
    for doing in (
        office.admin.rotate_key("nothing"),
        office.admin.revoke_key("nothing"),
    ):
        with pytest.raises(UnknownKey, match="nothing"):
            await doing
    with pytest.raises(UnknownKey):
        office.admin.get_key("nothing")
    with pytest.raises(UnknownTenant):
        await office.admin.create_key("nobody")


async def test_an_unsound_key_is_refused(office: Office) -> None:
    limit = {"count": "requests", "limit": 5, "period": "minute"}
    create = office.admin.create_key
    for doing, key in (
        (create("infile", expires_s=NOW_S), "expires"),
        (create("infile", expires_s=float("nan")), "expires"),
        (create("infile", name="two\nlines"), "name"),
        (create("infile", models=[""]), "models[0]"),
        (create("infile", limits=[limit | {"period": "week"}]), "limits[0].period"),
        (create("infile", limits=[limit, limit]), "limits[1].name"),
        (office.admin.rotate_key("ci", overlap_s=-1), "overlap_s"),
    ):
        with pytest.raises(Invalid) as caught:
            await doing
        assert [at for at, _ in caught.value.problems] == [key]
    made = await create("infile", limits=[limit])
    assert [one.effective_name for one in made.record.limits] == ["requests-per-minute"]


async def test_a_made_key_is_told_once(office: Office) -> None:
    made = await office.admin.create_key("infile")
    assert made.text not in repr(made)
    assert made.text not in repr(office.admin.get_key(made.record.id))


async def test_without_the_registry_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    registry = open_registry(str(tmp_path / "state" / "penstock.db"))
    office = Office(registry, WallClock())
    for doing in (
        office.admin.create_tenant({"name": "acme"}),
        office.admin.create_key("infile"),
        office.admin.revoke_key("anything"),
    ):
        with pytest.raises(RegistryUnavailable):
            await doing
    assert office.opens("ci")
    assert [view.name for view in office.admin.list_tenants()] == ["infile"]
    await registry.close()
