"""Tenants and keys over the admin API, kept in a real registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.gateway.admin.place import Place, place

ACME = {
    "name": "acme",
    "plan": "gold",
    "limits": [{"count": "requests", "limit": 5, "period": "second"}],
}


class Api:
    """The admin API as a program sees it."""

    def __init__(self, client: ClientSession, made: Place) -> None:
        self.client, self.place = client, made

    async def __call__(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any]:
        async with self.client.request(
            method, f"/api/{path}", json=body, headers=headers
        ) as answer:
            assert answer.headers["Content-Type"] == "application/json"
            return answer.status, await answer.json()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with place() as (made, url), ClientSession(url) as client:
        yield Api(client, made)


async def test_a_tenant_from_its_creation_to_its_end(api: Api) -> None:
    status, made = await api("POST", "tenants", ACME)
    assert status == 201
    assert (made["name"], made["plan"], made["version"]) == ("acme", "gold", 1)
    assert made["limits"][0]["limit"] == 5
    assert made["in_configuration"] is False
    assert "keys" not in made
    assert await api("GET", "tenants/acme") == (200, made)

    status, changed = await api("PATCH", "tenants/acme", {"disabled": True, "plan": None})
    assert (status, changed["disabled"], changed["plan"]) == (200, True, None)
    assert changed["limits"] == made["limits"]
    assert changed["version"] == 2

    await api("POST", "keys", {"tenant": "acme"})
    assert await api("DELETE", "tenants/acme") == (
        200,
        {"name": "acme", "deleted": True, "revoked_keys": 1},
    )
    status, gone = await api("GET", "tenants/acme")
    assert (status, gone["error"]["code"]) == (404, "unknown_tenant")


async def test_what_is_not_sound_is_told_key_by_key(api: Api) -> None:
    wrong = {"name": "acme", "plam": "gold", "limits": [{"count": "requests", "limit": 5}]}
    status, body = await api("POST", "tenants", wrong)
    assert (status, body["error"]["code"]) == (400, "invalid")
    problems = {one["key"]: one["problem"] for one in body["error"]["problems"]}
    assert "plam" in problems
    assert "minute" in problems["limits[0].period"]
    assert (await api("GET", "tenants/acme"))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "tenants", {"name": "fixed"}, 409, "in_configuration"),
        ("PATCH", "tenants/fixed", {"disabled": True}, 409, "in_configuration"),
        ("DELETE", "tenants/fixed", None, 409, "in_configuration"),
        ("PATCH", "tenants/nobody", {"disabled": True}, 404, "unknown_tenant"),
        ("DELETE", "tenants/nobody", None, 404, "unknown_tenant"),
        ("POST", "tenants", {"name": "acme", "plan": "silver"}, 400, "invalid"),
        ("POST", "tenants", {}, 400, "invalid"),
        ("POST", "tenants", [], 400, "bad_request"),
        ("GET", "tenants?limit=0", None, 400, "bad_request"),
        ("GET", "tenants?limit=many", None, 400, "bad_request"),
        ("GET", "tenants?offset=5", None, 400, "bad_request"),
        ("POST", "keys", {"tenant": "nobody"}, 404, "unknown_tenant"),
        ("POST", "keys", {}, 400, "bad_request"),
        ("POST", "keys", {"tenant": "fixed", "expires": "tomorrow"}, 400, "bad_request"),
        ("POST", "keys", {"tenant": "fixed", "expires": "2027-01-01T00:00"}, 400, "bad_request"),
        ("POST", "keys", {"tenant": "fixed", "expires": "1999-01-01T00:00Z"}, 400, "invalid"),
        ("POST", "keys", {"tenant": "fixed", "models": "*"}, 400, "bad_request"),
        ("POST", "keys", {"tenant": "fixed", "limits": [{"count": "cost"}]}, 400, "invalid"),
        ("POST", "keys", {"tenant": "fixed", "sha256": "0"}, 400, "bad_request"),
        ("PATCH", "keys/ci", {"name": "x"}, 409, "in_configuration"),
        ("PATCH", "keys/none", {"name": "x"}, 404, "unknown_key"),
        ("PATCH", "keys/none", {"tenant": "x"}, 400, "bad_request"),
        ("PATCH", "keys/none", {"expires": "soon"}, 400, "bad_request"),
        ("POST", "keys/ci/rotate", {}, 409, "in_configuration"),
        ("POST", "keys/ci/revoke", {}, 409, "in_configuration"),
        ("POST", "keys/none/rotate", {}, 404, "unknown_key"),
        ("POST", "keys/none/revoke", {}, 404, "unknown_key"),
        ("POST", "keys/ci/rotate", {"overlap_s": -1}, 400, "bad_request"),
        ("POST", "keys/ci/rotate", {"overlap_s": True}, 400, "bad_request"),
        ("GET", "keys/none", None, 404, "unknown_key"),
        ("GET", "keys?tenant=nobody", None, 404, "unknown_tenant"),
    ],
)
async def test_what_cannot_be_done(
    api: Api, method: str, path: str, body: object, status: int, code: str
) -> None:
    found, answer = await api(method, path, body)
    assert (found, answer["error"]["code"]) == (status, code)
    assert answer["error"]["message"]


async def test_a_tenant_is_made_once(api: Api) -> None:
    assert (await api("POST", "tenants", ACME))[0] == 201
    status, body = await api("POST", "tenants", ACME)
    assert (status, body["error"]["code"]) == (409, "already_exists")


async def test_two_who_change_one_tenant_do_not_overwrite_each_other(api: Api) -> None:
    await api("POST", "tenants", ACME)
    seen = {"If-Match": '"1"'}
    assert (await api("PATCH", "tenants/acme", {"priority": 5}, **seen))[0] == 200
    status, body = await api("PATCH", "tenants/acme", {"priority": 6}, **seen)
    assert (status, body["error"]["code"]) == (412, "stale_version")
    assert (await api("GET", "tenants/acme"))[1]["priority"] == 5
    assert (await api("PATCH", "tenants/acme", {}, **{"If-Match": "x"}))[0] == 400


async def test_many_tenants_come_in_pages(api: Api) -> None:
    for number in range(5):
        await api("POST", "tenants", {"name": f"t{number}"})
    names, cursor, pages = [], "", 0
    while cursor is not None:
        _, page = await api("GET", f"tenants?limit=2&cursor={cursor}")
        assert len(page["tenants"]) <= 2
        names += [one["name"] for one in page["tenants"]]
        cursor, pages = page["next"], pages + 1
    assert names == ["fixed", "t0", "t1", "t2", "t3", "t4"]
    assert pages == 3


async def test_a_key_is_told_once(api: Api) -> None:
    await api("POST", "tenants", ACME)
    wanted = {
        "tenant": "acme",
        "name": "laptop",
        "expires": "2040-01-01T01:00:00+01:00",
        "models": ["llama-*"],
        "limits": [{"count": "concurrency", "limit": 1}],
    }
    async with api.client.post("/api/keys", json=wanted) as answer:
        assert answer.status == 201
        assert answer.headers["Cache-Control"] == "no-store"
        made = await answer.json()
    key = made.pop("key")
    assert key.startswith(f"psk_{made['id']}_")
    assert (made["state"], made["expires"]) == ("active", "2040-01-01T00:00:00Z")
    assert (made["models"], made["limits"][0]["count"]) == (["llama-*"], "concurrency")

    assert await api("GET", f"keys/{made['id']}") == (200, made)
    assert await api("GET", "keys?tenant=acme") == (200, {"keys": [made], "next": None})
    _, everything = await api("GET", "keys")
    assert {one["id"] for one in everything["keys"]} == {"ci", made["id"]}
    assert key not in str(everything)


async def test_a_key_is_changed(api: Api) -> None:
    limit = {"count": "concurrency", "limit": 1}
    _, made = await api("POST", "keys", {"tenant": "fixed", "name": "laptop", "limits": [limit]})
    path = f"keys/{made['id']}"
    status, changed = await api(
        "PATCH", path, {"models": ["llama-*"], "expires": "2040-01-01T00:00:00Z"}
    )
    assert (status, changed["version"]) == (200, 2)
    assert (changed["models"], changed["expires"]) == (["llama-*"], "2040-01-01T00:00:00Z")
    assert (changed["name"], changed["limits"]) == ("laptop", made["limits"])
    assert "key" not in changed

    nothing = {"name": None, "models": None, "expires": None, "limits": None}
    status, body = await api("PATCH", path, nothing, **{"If-Match": '"1"'})
    assert (status, body["error"]["code"]) == (412, "stale_version")
    _, changed = await api("PATCH", path, nothing, **{"If-Match": '"2"'})
    assert (changed["name"], changed["models"], changed["limits"]) == ("", ["*"], [])
    assert changed["expires"] is None
    assert await api("GET", path) == (200, changed)


async def test_rotation_overlaps_and_revocation_does_not(api: Api) -> None:
    _, first = await api("POST", "keys", {"tenant": "fixed", "name": "laptop"})
    status, second = await api("POST", f"keys/{first['id']}/rotate", {"overlap_s": 3600})
    assert status == 201
    assert second["key"] != first["key"]
    assert (second["line"], second["name"]) == (first["id"], "laptop")
    _, old = await api("GET", f"keys/{first['id']}")
    assert old["state"] == "active"
    assert old["expires"] is not None

    status, revoked = await api("POST", f"keys/{first['id']}/revoke", {})
    assert (status, revoked["state"]) == (200, "revoked")
    assert revoked["revoked"] is not None
    assert (await api("GET", f"keys/{second['id']}"))[1]["state"] == "active"
    status, body = await api("POST", f"keys/{first['id']}/rotate", {})
    assert (status, body["error"]["code"]) == (400, "invalid")


async def test_a_registry_that_is_away_is_503(api: Api) -> None:
    await api("POST", "tenants", ACME)
    state = api.place.config.state_file
    for file in state.parent.glob(f"{state.name}*"):
        file.unlink()
    status, body = await api("POST", "tenants", {"name": "other"})
    assert (status, body["error"]["code"]) == (503, "registry_unavailable")
    assert (await api("GET", "tenants/acme"))[0] == 200


async def test_a_foreign_page_may_change_nothing(api: Api) -> None:
    evil = {"Origin": "https://evil.example"}
    for method, path in (("DELETE", "tenants/acme"), ("PATCH", "tenants/acme"), ("POST", "keys")):
        status, body = await api(method, path, {}, **evil)
        assert (status, body["error"]["code"]) == (403, "cross_origin")
    async with api.client.delete("/api/tenants/nobody") as answer:  # no body, so no content type
        assert answer.status == 404
