"""What operators do with tenants and keys: the one door of the admin API and the command line."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypedDict, TypeVar

from gateway.config.reading.documents import KeyRules, key_rules_from, tenant_from
from gateway.config.reading.problems import ConfigError
from gateway.config.schema.tenancy import Tenant
from gateway.tenancy.follower import Follower
from gateway.tenancy.keys import MadeKey, digest_of, make_key
from gateway.tenancy.problems import (
    AlreadyExists,
    InConfiguration,
    Invalid,
    StaleVersion,
    TenancyError,
    UnknownKey,
    UnknownTenant,
)
from gateway.tenancy.records import (
    ALL_MODELS,
    KeyRecord,
    KeyState,
    TenantRecord,
    key_entry,
    tenant_entry,
    tenant_json,
)
from gateway.tenancy.registry import Conflict, RegistryUnavailable
from gateway.tenancy.views import KeyView, NewKey, TenantView

__all__ = [
    "AlreadyExists",
    "InConfiguration",
    "Invalid",
    "KeyChanges",
    "KeyView",
    "NewKey",
    "RegistryUnavailable",
    "StaleVersion",
    "TenancyError",
    "TenantAdmin",
    "TenantView",
    "UnknownKey",
    "UnknownTenant",
]

_LOG: Final = logging.getLogger("penstock.tenancy")
_ATTEMPTS: Final = 5
_AT_ONCE: Final = 200
"""Keys that one write revokes."""
_MAX_NAME: Final = 200
_LATEST_S: Final = 253_370_764_800.0
"""The year 9999."""

T = TypeVar("T")


class KeyChanges(TypedDict, total=False):
    """What to replace of a key, as `TenantAdmin.create_key` takes it."""

    name: str
    expires_s: float | None
    models: Sequence[str]
    limits: Sequence[Mapping[str, object]]


class TenantAdmin:
    """Tenants and keys, read and written. Every writing method raises RegistryUnavailable, with
    nothing done or, after a time-out, with it perhaps done. Use it from one event loop.
    """

    def __init__(self, follower: Follower, *, now_s: Callable[[], float]) -> None:
        """``follower``: of this process; ``now_s``: the wall clock, seconds since the epoch."""
        self._follower = follower
        self._directory = follower.directory
        self._now_s = now_s

    # -- tenants

    async def create_tenant(self, document: Mapping[str, object]) -> TenantView:
        """A new tenant from its JSON form, that of the configuration without ``keys``.

        Raises AlreadyExists, InConfiguration, Invalid.
        """
        tenant = self._sound(document)

        async def attempt() -> TenantView:
            known = self._record(tenant.name)
            if known is not None and known.document is not None:
                raise AlreadyExists(f"the tenant {tenant.name!r} exists")
            version = 1 if known is None else known.version + 1
            return await self._put(TenantRecord(tenant.name, tenant, version))

        return await self._insisting(attempt)

    async def update_tenant(
        self, name: str, changes: Mapping[str, object], *, version: int | None = None
    ) -> TenantView:
        """Replace the given keys of its JSON form; null brings back a key's default.

        ``version``: what the caller has seen; StaleVersion when it is not that any more.
        Raises UnknownTenant, InConfiguration, Invalid.
        """
        if changes.get("name", name) != name:
            raise Invalid([("name", f"it cannot change: {name!r} as it is, or not at all")])

        async def attempt() -> TenantView:
            known = self._record(name)
            if known is None or known.document is None:
                raise UnknownTenant(f"there is no tenant {name!r}")
            if version is not None and version != known.version:
                raise StaleVersion(f"the tenant {name!r} is at version {known.version} by now")
            tenant = self._sound(tenant_json(known.document) | dict(changes) | {"name": name})
            return await self._put(TenantRecord(name, tenant, known.version + 1))

        return await self._insisting(attempt)

    async def delete_tenant(self, name: str) -> int:
        """Delete it and revoke its keys; how many those were.

        Raises UnknownTenant, InConfiguration. After RegistryUnavailable call it again: keys of a
        tenant that is deleted do not open the gate, but they would if it were created again.
        """

        async def delete() -> None:
            known = self._record(name)
            if known is None or (known.document is None and not self._unrevoked(name)):
                raise UnknownTenant(f"there is no tenant {name!r}")
            if known.document is not None:
                await self._follower.write(
                    [tenant_entry(TenantRecord(name, None, known.version + 1))]
                )

        async def revoke() -> int:
            keys = self._unrevoked(name)[:_AT_ONCE]
            if keys:
                await self._follower.write([key_entry(self._revoked(key)) for key in keys])
            return len(keys)

        await self._insisting(delete)
        revoked = 0
        while count := await self._insisting(revoke):
            revoked += count
        return revoked

    def get_tenant(self, name: str) -> TenantView:
        """Raises UnknownTenant. Reads are from this process's copy: they never wait and never fail,
        and know of other processes' writes a moment later."""
        known = self._directory.tenant(name)
        if known is None or known.document is None:
            raise UnknownTenant(f"there is no tenant {name!r}")
        return TenantView(name, known.document, known.version)

    def plan_of_unknown(self, name: str) -> str | None:
        """The plan of `identity.unknown_tenants` that would apply to a tenant that is not
        configured; None for one that is, or where such ones are refused."""
        policy = None if self._directory.policy(name) else self._directory.unknown(name)
        return None if policy is None else policy.plan

    def list_tenants(self, *, after: str = "", limit: int = 1_000) -> list[TenantView]:
        """By name, from the one after ``after``."""
        return [
            TenantView(record.name, record.document, record.version)
            for record in self._directory.tenants(after=after, limit=limit)
            if record.document is not None
        ]

    # -- keys

    async def create_key(
        self,
        tenant: str,
        *,
        name: str = "",
        expires_s: float | None = None,
        models: Sequence[str] = ("*",),
        limits: Sequence[Mapping[str, object]] = (),
    ) -> NewKey:
        """A key for a tenant of the registry or the configuration.

        ``expires_s``: seconds since the epoch. ``limits``: in their JSON form.
        Raises UnknownTenant, Invalid.
        """
        rules = self._rules(name, expires_s, models, limits)

        async def attempt() -> NewKey:
            self.get_tenant(tenant)
            made = self._make()
            record = KeyRecord(
                id=made.id,
                line=made.id,
                tenant=tenant,
                digest=digest_of(made.text),
                name=name,
                created_s=self._now_s(),
                expires_s=expires_s,
                models=rules.models,
                limits=rules.limits,
            )
            await self._follower.write([key_entry(record)])
            return NewKey(made.text, record)

        new = await self._insisting(attempt)
        # Somebody may have deleted the tenant, and looked for its keys before this one was there.
        try:
            await self._follower.poll()
        except RegistryUnavailable as error:
            _LOG.warning("nobody could look whether tenant %r is still there: %s", tenant, error)
        if self._directory.policy(tenant) is None:
            await self.revoke_key(new.record.id)
            raise UnknownTenant(f"there is no tenant {tenant!r} any more")
        return new

    async def rotate_key(
        self,
        id: str,  # noqa: A002 - the key's
        *,
        overlap_s: float = 86_400.0,
        expires_s: float | None = None,
    ) -> NewKey:
        """A new key in the place of this one, which expires after the overlap if not before.

        Limits by key go on counting as for one key. ``expires_s`` of the new key; None: it lives
        as long as the old one was meant to. Raises UnknownKey, InConfiguration, and Invalid for a
        key that is over.
        """
        if not (math.isfinite(overlap_s) and overlap_s >= 0):
            raise Invalid([("overlap_s", "expected a number of seconds from 0")])
        self._check_expiry(expires_s)

        async def attempt() -> NewKey:
            old, now_s = self._key(id), self._now_s()
            state = old.state(now_s)
            if state is not KeyState.ACTIVE:
                raise Invalid([("id", f"the key {id} is {state.value}: create a new one")])
            if (successor := self._successor(old, now_s)) is not None:
                raise Invalid([("id", f"the key {id} was rotated: rotate {successor.id} instead")])
            end_s = now_s + overlap_s
            retired = replace(
                old,
                expires_s=end_s if old.expires_s is None else min(old.expires_s, end_s),
                version=old.version + 1,
            )
            made = self._make()
            record = replace(
                old,
                id=made.id,
                digest=digest_of(made.text),
                created_s=now_s,
                expires_s=_lifetime(old, now_s) if expires_s is None else expires_s,
                version=1,
            )
            await self._follower.write([key_entry(record), key_entry(retired)])
            return NewKey(made.text, record)

        return await self._insisting(attempt)

    async def update_key(
        self,
        id: str,  # noqa: A002 - the key's
        changes: KeyChanges,
        *,
        version: int | None = None,
    ) -> KeyView:
        """Replace what is given of a key; the key itself stays, also for one that has expired.

        ``version``: what the caller has seen; StaleVersion when it is not that any more.
        Raises UnknownKey, InConfiguration, and Invalid, also for a key that was revoked.
        """
        rules = self._rules(
            changes.get("name", ""),
            changes.get("expires_s"),
            changes.get("models", ALL_MODELS),
            changes.get("limits", ()),
        )

        async def attempt() -> KeyView:
            old = self._key(id)
            if version is not None and version != old.version:
                raise StaleVersion(f"the key {id!r} is at version {old.version} by now")
            if old.revoked_s is not None:
                raise Invalid([("id", f"the key {id} is revoked: create a new one")])
            key = replace(
                old,
                name=changes.get("name", old.name),
                expires_s=changes.get("expires_s", old.expires_s),
                models=rules.models if "models" in changes else old.models,
                limits=rules.limits if "limits" in changes else old.limits,
                version=old.version + 1,
            )
            await self._follower.write([key_entry(key)])
            return KeyView(key)

        return await self._insisting(attempt)

    async def revoke_key(self, id: str) -> KeyView:  # noqa: A002 - the key's
        """Refuse it from now on: every picker within a second. Again: nothing happens.

        Raises UnknownKey, InConfiguration.
        """

        async def attempt() -> KeyView:
            key = self._key(id)
            if key.revoked_s is None:
                key = self._revoked(key)
                await self._follower.write([key_entry(key)])
            return KeyView(key)

        return await self._insisting(attempt)

    def get_key(self, id: str) -> KeyView:  # noqa: A002 - the key's
        """Raises UnknownKey."""
        found = self._directory.key(id)
        if found is None:
            raise UnknownKey(f"there is no key {id!r}")
        return KeyView(found)

    def list_keys(
        self, tenant: str | None = None, *, after: str = "", limit: int = 1_000
    ) -> list[KeyView]:
        """By id, from the one after ``after``: also expired and revoked ones. Raises UnknownTenant
        for a tenant that is not there."""
        if tenant is not None:
            self.get_tenant(tenant)
        return [KeyView(key) for key in self._directory.keys(tenant, after=after, limit=limit)]

    # -- inside

    async def _insisting(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do it with what the registry has now, and again when somebody was faster."""
        for _ in range(_ATTEMPTS):
            await self._follower.poll()
            try:
                return await attempt()
            except Conflict:
                continue
        raise RegistryUnavailable("others write the same all the time: try again")

    async def _put(self, record: TenantRecord) -> TenantView:
        assert record.document is not None
        await self._follower.write([tenant_entry(record)])
        return TenantView(record.name, record.document, record.version)

    def _record(self, name: str) -> TenantRecord | None:
        """Of a tenant that may be written; raises InConfiguration."""
        known = self._directory.tenant(name)
        if known is not None and known.version == 0:
            raise InConfiguration(
                f"the tenant {name!r} stands in the configuration: change it there"
            )
        return known

    def _key(self, key_id: str) -> KeyRecord:
        """A key that may be written; raises UnknownKey, InConfiguration."""
        key = self.get_key(key_id)
        if key.in_configuration:
            raise InConfiguration(
                f"the key {key_id!r} stands in the configuration: change it there"
            )
        return key.record

    def _unrevoked(self, tenant: str) -> list[KeyRecord]:
        """Its keys in the registry."""
        keys = self._directory.keys(tenant)
        return [key for key in keys if key.version > 0 and key.revoked_s is None]

    def _successor(self, key: KeyRecord, now_s: float) -> KeyRecord | None:
        """An active key that has taken its place."""
        return next(
            (
                other
                for other in self._directory.keys(key.tenant)
                if other.line == key.line
                and other.id != key.id
                and (other.created_s or 0.0) >= (key.created_s or 0.0)
                and other.state(now_s) is KeyState.ACTIVE
            ),
            None,
        )

    def _revoked(self, key: KeyRecord) -> KeyRecord:
        return replace(key, revoked_s=self._now_s(), version=key.version + 1)

    def _make(self) -> MadeKey:
        while True:
            made = make_key()
            if self._directory.key(made.id) is None:
                return made

    def _sound(self, document: Mapping[str, object]) -> Tenant:
        """Raises Invalid."""
        given = {key: value for key, value in document.items() if value is not None}
        return _valid(lambda: tenant_from(given, self._directory.config))

    def _rules(
        self,
        name: str,
        expires_s: float | None,
        models: Sequence[str],
        limits: Sequence[Mapping[str, object]],
    ) -> KeyRules:
        """Raises Invalid."""
        self._check_expiry(expires_s)
        if len(name) > _MAX_NAME or not name.isprintable():
            raise Invalid([("name", f"expected at most {_MAX_NAME} printable characters")])
        return _valid(lambda: key_rules_from(models, limits, self._directory.config))

    def _check_expiry(self, expires_s: float | None) -> None:
        if expires_s is not None and not self._now_s() < expires_s < _LATEST_S:
            raise Invalid([("expires", "expected a time that is still to come, before year 9999")])


def _lifetime(old: KeyRecord, now_s: float) -> float | None:
    """When its successor expires."""
    if old.expires_s is None or old.created_s is None:
        return old.expires_s
    return now_s + (old.expires_s - old.created_s)


def _valid(read: Callable[[], T]) -> T:
    """Raises Invalid."""
    try:
        return read()
    except ConfigError as error:
        raise Invalid.of(error) from None
    except (TypeError, ValueError):
        raise Invalid([("", "expected what JSON can say")]) from None
