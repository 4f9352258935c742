"""Tenants and their keys in the admin API."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Protocol

from aiohttp import web

from gateway.admin.answers import (
    BadRequest,
    TenantsOff,
    answer,
    document,
    fields,
    instant,
    page,
    time_of,
    whole,
)
from gateway.control.accounts import AccountsClient
from gateway.tenancy.key_admin import KeyChanges, NewKey
from gateway.tenancy.records import ALL_MODELS, KeyRecord
from gateway.tenancy.tenant_admin import TenantAdmin, TenantView


class TenantSource(Protocol):
    """What the admin API needs for tenants; the supervisor implements it. It is asked at each
    request, because a new configuration may bring tenants."""

    @property
    def tenants(self) -> TenantAdmin | None:
        """None: the configuration has no tenants."""
        ...

    @property
    def accounts(self) -> AccountsClient:
        """Limits and usage, from the pickers."""
        ...

    @property
    def currency(self) -> str:
        """Of prices."""
        ...


class TenantHandlers:
    """Handlers under /api/tenants and /api/keys."""

    def __init__(self, source: TenantSource) -> None:
        self._source = source

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        routes = app.router
        routes.add_get("/api/tenants", self.tenants)
        routes.add_post("/api/tenants", self.create_tenant)
        routes.add_get("/api/tenants/{name}", self.tenant)
        routes.add_patch("/api/tenants/{name}", self.update_tenant)
        routes.add_delete("/api/tenants/{name}", self.delete_tenant)
        routes.add_get("/api/keys", self.keys)
        routes.add_post("/api/keys", self.create_key)
        routes.add_get("/api/keys/{id}", self.key)
        routes.add_patch("/api/keys/{id}", self.update_key)
        routes.add_post("/api/keys/{id}/rotate", self.rotate_key)
        routes.add_post("/api/keys/{id}/revoke", self.revoke_key)

    async def tenants(self, request: web.Request) -> web.Response:
        """Query: limit, cursor."""
        admin = admin_of(self._source)
        after, size = page(request)
        found = admin.page(after=after, limit=size + 1)
        following = found[size - 1].name if len(found) > size else None
        return answer({"tenants": [tenant_json(one) for one in found[:size]], "next": following})

    async def create_tenant(self, request: web.Request) -> web.Response:
        """Body: a tenant as in the configuration, without ``keys``."""
        admin = admin_of(self._source)
        return answer(tenant_json(await admin.create(await document(request))), status=201)

    async def tenant(self, request: web.Request) -> web.Response:
        return answer(tenant_json(admin_of(self._source).get(request.match_info["name"])))

    async def update_tenant(self, request: web.Request) -> web.Response:
        """Body: the keys to replace. If-Match: the version that the caller has seen."""
        admin = admin_of(self._source)
        changed = await admin.update(
            request.match_info["name"], await document(request), version=_version(request)
        )
        return answer(tenant_json(changed))

    async def delete_tenant(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        revoked = await admin_of(self._source).delete(name)
        return answer({"name": name, "deleted": True, "revoked_keys": revoked})

    async def keys(self, request: web.Request) -> web.Response:
        """Query: tenant, limit, cursor."""
        admin = admin_of(self._source)
        after, size = page(request, "tenant")
        tenant = request.query.get("tenant") or None
        found = admin.keys.page(tenant, after=after, limit=size + 1)
        following = found[size - 1].id if len(found) > size else None
        return answer({"keys": [key_json(one) for one in found[:size]], "next": following})

    async def create_key(self, request: web.Request) -> web.Response:
        """Body: {"tenant": NAME, "name", "expires", "models", "limits"}, all but the first
        optional."""
        admin = admin_of(self._source)
        given = await fields(request, ("tenant", "name", "expires", "models", "limits"))
        made = await admin.keys.create(
            _text(given, "tenant"),
            name=_text(given, "name", ""),
            expires_s=instant(given.get("expires"), "expires"),
            models=_texts(given, "models", ALL_MODELS),
            limits=_objects(given, "limits"),
        )
        return _told_once(made)

    async def key(self, request: web.Request) -> web.Response:
        return answer(key_json(admin_of(self._source).keys.get(request.match_info["id"])))

    async def update_key(self, request: web.Request) -> web.Response:
        """Body: what to replace of name, expires, models, limits; null brings back the default.
        If-Match: the version that the caller has seen."""
        admin = admin_of(self._source)
        given = await fields(request, ("name", "expires", "models", "limits"))
        changes = KeyChanges()
        if "name" in given:
            changes["name"] = "" if given["name"] is None else _text(given, "name")
        if "expires" in given:
            changes["expires_s"] = instant(given["expires"], "expires")
        if "models" in given:
            changes["models"] = _texts(given, "models", ALL_MODELS)
        if "limits" in given:
            changes["limits"] = _objects(given, "limits")
        changed = await admin.keys.update(
            request.match_info["id"], changes, version=_version(request)
        )
        return answer(key_json(changed))

    async def rotate_key(self, request: web.Request) -> web.Response:
        """Body: {"overlap_s": 86400, "expires"}, both optional."""
        admin = admin_of(self._source)
        given = await fields(request, ("overlap_s", "expires"))
        overlap_s = given.get("overlap_s", 86_400)
        if (
            isinstance(overlap_s, bool)
            or not isinstance(overlap_s, int | float)
            or not (math.isfinite(overlap_s) and overlap_s >= 0)
        ):
            raise BadRequest(f"overlap_s must be a number of seconds from 0, got {overlap_s!r}")
        made = await admin.keys.rotate(
            request.match_info["id"],
            overlap_s=float(overlap_s),
            expires_s=instant(given.get("expires"), "expires"),
        )
        return _told_once(made)

    async def revoke_key(self, request: web.Request) -> web.Response:
        admin = admin_of(self._source)
        await fields(request, ())
        return answer(key_json(await admin.keys.revoke(request.match_info["id"])))


def admin_of(source: TenantSource) -> TenantAdmin:
    """Raises TenantsOff."""
    if source.tenants is None:
        raise TenantsOff
    return source.tenants


def tenant_json(view: TenantView) -> dict[str, object]:
    """A tenant as the API shows it."""
    document = view.document.model_dump(mode="json")
    document.pop("keys", None)
    return {**document, "in_configuration": view.in_configuration, "version": view.version}


def key_json(record: KeyRecord) -> dict[str, object]:
    """A key as the API shows it, without its digest."""
    return {
        "id": record.id,
        "line": record.line,
        "tenant": record.tenant,
        "name": record.name,
        "state": record.state(time.time()).value,
        "created": time_of(record.created_s),
        "expires": time_of(record.expires_s),
        "revoked": time_of(record.revoked_s),
        "models": list(record.models),
        "limits": [limit.model_dump(mode="json") for limit in record.limits],
        "in_configuration": record.in_configuration,
        "version": record.version,
    }


def _told_once(made: NewKey) -> web.Response:
    return answer({"key": made.text, **key_json(made.record)}, status=201)


def _version(request: web.Request) -> int | None:
    given = request.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    version = whole(given.strip().strip('"'))
    if version is None:
        raise BadRequest(f"If-Match must be the version that was read, got {given!r}")
    return version


def _text(given: dict[str, object], key: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str):
        raise BadRequest(f"{key} must be a string, got {value!r}")
    return value


def _texts(given: dict[str, object], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = given.get(key)
    if value is None:
        return default
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise BadRequest(f"{key} must be a list of strings, got {value!r}")
    return tuple(value)


def _objects(given: dict[str, object], key: str) -> tuple[Mapping[str, object], ...]:
    value = given.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRequest(f"{key} must be a list of objects, got {value!r}")
    return tuple(value)
