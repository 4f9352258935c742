"""What operators do with tenants."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gateway.tenancy.problems import (
    AlreadyExists,
    InConfiguration,
    Invalid,
    StaleVersion,
    UnknownTenant,
)
from gateway.tenancy.records import KeyState
from tests.gateway.tenancy.parts import NOW_S, Office


async def test_a_tenant_from_the_cradle_to_the_grave(office: Office) -> None:
    admin = office.admin
    made = await admin.create({"name": "acme", "plan": "gold", "weight": None})
    assert (made.name, made.document.plan, made.version) == ("acme", "gold", 1)
    assert not made.in_configuration
    changed = await admin.update("acme", {"plan": "free", "weight": 4})
    assert (changed.document.plan, changed.document.weight, changed.version) == ("free", 4, 2)
    changed = await admin.update("acme", {"plan": None, "name": "acme"})
    assert (changed.document.plan, changed.document.weight) == (None, 4)
    assert admin.get("acme") == changed
    assert [view.name for view in admin.page()] == ["acme", "infile"]
    assert [view.in_configuration for view in admin.page()] == [False, True]
    assert await admin.delete("acme") == 0
    with pytest.raises(UnknownTenant):
        admin.get("acme")
    with pytest.raises(UnknownTenant):
        await admin.update("acme", {"weight": 1})
    with pytest.raises(UnknownTenant):
        await admin.delete("acme")
    again = await admin.create({"name": "acme"})
    assert (again.version, again.document.weight) == (5, None)


async def test_a_tenant_exists_once(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    await here.admin.create({"name": "acme"})
    for office in (here, there):
        with pytest.raises(AlreadyExists, match="acme"):
            await office.admin.create({"name": "acme"})


async def test_what_is_in_the_file_is_changed_there(office: Office) -> None:
    with pytest.raises(InConfiguration, match="infile"):
        await office.admin.create({"name": "infile"})
    with pytest.raises(InConfiguration):
        await office.admin.update("infile", {"weight": 2})
    with pytest.raises(InConfiguration):
        await office.admin.delete("infile")
    with pytest.raises(InConfiguration):
        await office.admin.keys.revoke("ci")
    with pytest.raises(InConfiguration):
        await office.admin.keys.rotate("ci")
    with pytest.raises(InConfiguration):
        await office.admin.keys.update("ci", {"name": "x"})
    assert office.admin.keys.get("ci").in_configuration
    made = await office.admin.keys.create("infile")
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
        await office.admin.create(document)
    assert [at for at, _ in caught.value.problems] == [key]
    assert "expected" in str(caught.value)
    if "name" in document and document["name"] == "acme":
        await office.admin.create({"name": "acme"})
        with pytest.raises(Invalid):
            await office.admin.update("acme", document)


async def test_a_name_cannot_change(office: Office) -> None:
    await office.admin.create({"name": "acme"})
    with pytest.raises(Invalid, match="name"):
        await office.admin.update("acme", {"name": "other"})


async def test_an_update_on_what_is_old_is_refused(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    seen = await here.admin.create({"name": "acme"})
    await there.admin.update("acme", {"weight": 2}, version=seen.version)
    with pytest.raises(StaleVersion, match="version 2"):
        await here.admin.update("acme", {"weight": 3}, version=seen.version)
    assert here.admin.get("acme").document.weight == 2


async def test_updates_at_once_lose_nothing(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    await here.admin.create({"name": "acme"})
    await asyncio.gather(
        here.admin.update("acme", {"weight": 2}),
        there.admin.update("acme", {"priority": 3}),
    )
    await here.follower.poll()
    document = here.admin.get("acme").document
    assert (document.weight, document.priority) == (2, 3)


async def test_lists_come_in_pieces(office: Office) -> None:
    for name in ("d", "b", "c", "a"):
        await office.admin.create({"name": name})
    assert [view.name for view in office.admin.page(limit=2)] == ["a", "b"]
    assert [view.name for view in office.admin.page(after="b", limit=2)] == ["c", "d"]
    keys = sorted([(await office.admin.keys.create("a")).record.id for _ in range(3)])
    listed = office.admin.keys.page("a", after=keys[0])
    assert [key.id for key in listed] == keys[1:]
    assert len(office.admin.keys.page()) == 4
    with pytest.raises(UnknownTenant):
        office.admin.keys.page("nobody")


async def test_a_deleted_tenant_takes_its_keys_along(offices: Iterator[Office]) -> None:
    here, there = next(offices), next(offices)
    await here.admin.create({"name": "acme"})
    keys = [await here.admin.keys.create("acme") for _ in range(3)]
    assert await there.admin.delete("acme") == 3
    await here.follower.poll()
    assert not any(here.opens(key.text) for key in keys)
    await here.admin.create({"name": "acme"})
    assert not any(here.opens(key.text) for key in keys), "also when there is one of that name"


async def test_a_key_made_while_its_tenant_is_deleted_opens_nothing(
    offices: Iterator[Office],
) -> None:
    here, there = next(offices), next(offices)
    await here.admin.create({"name": "acme"})
    await asyncio.gather(
        there.admin.delete("acme"),
        *(here.admin.keys.create("acme") for _ in range(5)),
        return_exceptions=True,
    )
    await here.admin.create({"name": "acme"})
    for key in here.admin.keys.page("acme"):
        assert key.state(NOW_S) is KeyState.REVOKED
