"""What operators do with API keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.tenancy.key_admin import KeyChanges
from gateway.tenancy.problems import (
    Invalid,
    StaleVersion,
    UnknownKey,
    UnknownTenant,
)
from gateway.tenancy.records import KeyState
from gateway.tenancy.registry import RegistryUnavailable
from tests.gateway.tenancy.parts import NOW_S, Office, WallClock, head_of, open_registry

HOUR_S = 3_600.0


async def test_a_key_from_the_cradle_to_the_grave(office: Office) -> None:
    admin = office.admin
    await admin.create({"name": "acme"})
    made = await admin.keys.create("acme", name="the ci", expires_s=NOW_S + HOUR_S, models=["a-*"])
    record = made.record
    assert made.text.startswith(f"psk_{record.id}_")
    assert (record.line, record.tenant, record.name) == (record.id, "acme", "the ci")
    assert (record.created_s, record.expires_s, record.models) == (NOW_S, NOW_S + HOUR_S, ("a-*",))
    assert office.opens(made.text)
    assert admin.keys.get(record.id) == record
    revoked = await admin.keys.revoke(record.id)
    assert revoked.state(NOW_S) is KeyState.REVOKED
    assert not office.opens(made.text)
    office.clock.now_s += 60
    assert (await admin.keys.revoke(record.id)).revoked_s == NOW_S, "once is enough"
    assert [key.id for key in admin.keys.page("acme")] == [record.id]


async def test_rotation_overlaps(office: Office) -> None:
    admin, clock = office.admin, office.clock
    old = await admin.keys.create("infile", name="ci", models=["a-*"])
    new = await admin.keys.rotate(old.record.id, overlap_s=HOUR_S)
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
    newest = await admin.keys.rotate(new.record.id, overlap_s=0)
    assert newest.record.line == old.record.id
    assert not office.opens(new.text)
    assert office.opens(newest.text)


async def test_a_key_is_changed_and_stays_the_same_key(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    limit = {"count": "concurrency", "limit": 2}
    made = await here.admin.keys.create("infile", name="laptop", limits=[limit])
    key_id = made.record.id
    changed = await there.admin.keys.update(
        key_id, {"models": ["small-*"], "expires_s": NOW_S + HOUR_S}
    )
    assert (changed.models, changed.expires_s) == (("small-*",), NOW_S + HOUR_S)
    assert (changed.name, len(changed.limits)) == ("laptop", 1)
    assert changed.version == 2
    await here.follower.poll()
    caller = here.gate.identify(head_of({"x-api-key": made.text}))
    assert caller.models == ("small-*",)

    with pytest.raises(StaleVersion, match="version 2"):
        await here.admin.keys.update(key_id, {"name": "other"}, version=1)
    changed = await here.admin.keys.update(
        key_id, {"name": "", "expires_s": None, "limits": ()}, version=2
    )
    record = changed
    assert (record.name, record.expires_s, record.limits) == ("", None, ())
    assert record.models == ("small-*",)


async def test_an_expired_key_may_live_on_and_a_revoked_one_not(office: Office) -> None:
    made = await office.admin.keys.create("infile", expires_s=NOW_S + 10)
    office.clock.now_s += 20
    assert not office.opens(made.text)
    await office.admin.keys.update(made.record.id, {"expires_s": NOW_S + HOUR_S})
    assert office.opens(made.text)
    await office.admin.keys.revoke(made.record.id)
    with pytest.raises(Invalid, match="revoked"):
        await office.admin.keys.update(made.record.id, {"expires_s": None})
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
    made = await office.admin.keys.create("infile")
    with pytest.raises(Invalid) as caught:
        await office.admin.keys.update(made.record.id, changes)
    assert [found for found, _ in caught.value.problems] == [key]
    assert office.admin.keys.get(made.record.id) == made.record


async def test_rotation_keeps_the_length_of_a_life(office: Office) -> None:
    admin, clock = office.admin, office.clock
    old = await admin.keys.create("infile", expires_s=NOW_S + HOUR_S)
    clock.now_s += 600
    new = await admin.keys.rotate(old.record.id, overlap_s=10 * HOUR_S)
    assert new.record.expires_s == clock.now_s + HOUR_S
    assert admin.keys.get(old.record.id).expires_s == NOW_S + HOUR_S, "not put off"
    newest = await admin.keys.rotate(new.record.id, expires_s=clock.now_s + 5)
    assert newest.record.expires_s == clock.now_s + 5


async def test_only_the_latest_active_key_is_rotated(office: Office) -> None:
    admin, clock = office.admin, office.clock
    old = await admin.keys.create("infile")
    new = await admin.keys.rotate(old.record.id)
    with pytest.raises(Invalid, match=f"rotate {new.record.id} instead"):
        await admin.keys.rotate(old.record.id)
    await admin.keys.revoke(new.record.id)
    with pytest.raises(Invalid, match="revoked"):
        await admin.keys.rotate(new.record.id)
    short = await admin.keys.create("infile", expires_s=NOW_S + 1)
    clock.now_s += 1
    with pytest.raises(Invalid, match="expired"):
        await admin.keys.rotate(short.record.id)


async def test_what_is_not_there_is_unknown(office: Office) -> None:
    for doing in (
        office.admin.keys.rotate("nothing"),
        office.admin.keys.revoke("nothing"),
    ):
        with pytest.raises(UnknownKey, match="nothing"):
            await doing
    with pytest.raises(UnknownKey):
        office.admin.keys.get("nothing")
    with pytest.raises(UnknownTenant):
        await office.admin.keys.create("nobody")


async def test_an_unsound_key_is_refused(office: Office) -> None:
    limit = {"count": "requests", "limit": 5, "period": "minute"}
    create = office.admin.keys.create
    for doing, key in (
        (create("infile", expires_s=NOW_S), "expires"),
        (create("infile", expires_s=float("nan")), "expires"),
        (create("infile", name="two\nlines"), "name"),
        (create("infile", models=[""]), "models[0]"),
        (create("infile", limits=[limit | {"period": "fortnight"}]), "limits[0].period"),
        (create("infile", limits=[limit, limit]), "limits[1].name"),
        (office.admin.keys.rotate("ci", overlap_s=-1), "overlap_s"),
    ):
        with pytest.raises(Invalid) as caught:
            await doing
        assert [at for at, _ in caught.value.problems] == [key]
    made = await create("infile", limits=[limit])
    assert [one.effective_name for one in made.record.limits] == ["requests-per-minute"]


async def test_a_made_key_is_told_once(office: Office) -> None:
    made = await office.admin.keys.create("infile")
    assert made.text not in repr(made)
    assert made.text not in repr(office.admin.keys.get(made.record.id))


async def test_without_the_registry_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    registry = open_registry(str(tmp_path / "state" / "penstock.db"))
    office = Office(registry, WallClock())
    for doing in (
        office.admin.create({"name": "acme"}),
        office.admin.keys.create("infile"),
        office.admin.keys.revoke("anything"),
    ):
        with pytest.raises(RegistryUnavailable):
            await doing
    assert office.opens("ci")
    assert [view.name for view in office.admin.page()] == ["infile"]
    await registry.close()
