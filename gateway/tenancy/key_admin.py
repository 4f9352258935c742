"""What operators do with API keys."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypedDict

from gateway.config.reading.documents import KeyRules, key_rules_from
from gateway.tenancy.follower import Follower
from gateway.tenancy.keys import MadeKey, digest_of, make_key
from gateway.tenancy.problems import (
    InConfiguration,
    Invalid,
    StaleVersion,
    UnknownKey,
    UnknownTenant,
    valid,
)
from gateway.tenancy.records import ALL_MODELS, LATEST_S, KeyRecord, KeyState, key_entry
from gateway.tenancy.registry import RegistryUnavailable

_LOG: Final = logging.getLogger("penstock.tenancy")
_AT_ONCE: Final = 200
"""Keys that one write revokes."""
_MAX_NAME: Final = 200
_LONGEST_OVERLAP_S: Final = 10 * 366 * 86_400.0


class KeyChanges(TypedDict, total=False):
    """What to replace of a key, in the form of `KeyAdmin.create`."""

    name: str
    expires_s: float | None
    models: Sequence[str]
    limits: Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; its text is not available again."""

    text: str = field(repr=False)
    """Give it to its user, and keep it nowhere."""
    record: KeyRecord


class KeyAdmin:
    """Reads and writes API keys. Every writing method raises RegistryUnavailable: nothing is done
    then or, after a time-out, it may be done. Use it from one event loop.
    """

    def __init__(self, follower: Follower, *, now_s: Callable[[], float]) -> None:
        """``now_s``: the wall clock, seconds since the epoch."""
        self._follower = follower
        self._directory = follower.directory
        self._now_s = now_s

    async def create(
        self,
        tenant: str,
        *,
        name: str = "",
        expires_s: float | None = None,
        models: Sequence[str] = ("*",),
        limits: Sequence[Mapping[str, object]] = (),
    ) -> NewKey:
        """Make a key for a tenant of the registry or the configuration.

        ``expires_s``: seconds since the epoch. ``limits``: in their JSON form.
        Raises UnknownTenant, Invalid.
        """
        rules = self._rules(name, expires_s, models, limits)

        async def attempt() -> NewKey:
            self._require_tenant(tenant)
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
            await self._follower.write(key_entry(record))
            return NewKey(made.text, record)

        new = await self._follower.insist(attempt)
        # Somebody may have deleted the tenant, and revoked its keys before this one was there.
        try:
            await self._follower.poll()
        except RegistryUnavailable as error:
            _LOG.warning("nobody could look whether tenant %r is still there: %s", tenant, error)
        if self._directory.policy(tenant) is None:
            await self.revoke(new.record.id)
            raise UnknownTenant(f"there is no tenant {tenant!r} any more")
        return new

    async def rotate(
        self,
        id: str,  # noqa: A002 - the key's
        *,
        overlap_s: float = 86_400.0,
        expires_s: float | None = None,
    ) -> NewKey:
        """Make a key that replaces this one, which expires after the overlap or earlier.

        Limits by key count both as one key. ``expires_s``: of the new key; None: it has the same
        lifetime as the old one. Raises UnknownKey, InConfiguration, and Invalid for a key that is
        not active.
        """
        if not 0 <= overlap_s <= _LONGEST_OVERLAP_S:
            expected = f"expected a number of seconds from 0 to {_LONGEST_OVERLAP_S:.0f}"
            raise Invalid([("overlap_s", expected)])
        self._check_expiry(expires_s)

        async def attempt() -> NewKey:
            old, now_s = self._writable(id), self._now_s()
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
            await self._follower.write(key_entry(record), key_entry(retired))
            return NewKey(made.text, record)

        return await self._follower.insist(attempt)

    async def update(
        self,
        id: str,  # noqa: A002 - the key's
        changes: KeyChanges,
        *,
        version: int | None = None,
    ) -> KeyRecord:
        """Replace the given properties; the key itself stays. It may have expired.

        ``version``: that the caller has read; StaleVersion if it is another one by now.
        Raises UnknownKey, InConfiguration, and Invalid, also for a revoked key.
        """
        rules = self._rules(
            changes.get("name", ""),
            changes.get("expires_s"),
            changes.get("models", ALL_MODELS),
            changes.get("limits", ()),
        )

        async def attempt() -> KeyRecord:
            old = self._writable(id)
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
            await self._follower.write(key_entry(key))
            return key

        return await self._follower.insist(attempt)

    async def revoke(self, id: str) -> KeyRecord:  # noqa: A002 - the key's
        """Refuse it from now on; every picker does within a second. A second call does nothing.

        Raises UnknownKey, InConfiguration.
        """

        async def attempt() -> KeyRecord:
            key = self._writable(id)
            if key.revoked_s is None:
                key = self._revoked(key)
                await self._follower.write(key_entry(key))
            return key

        return await self._follower.insist(attempt)

    async def revoke_all(self, tenant: str) -> int:
        """Revoke the tenant's keys of the registry. Returns how many these were."""

        async def attempt() -> int:
            keys = self.unrevoked(tenant)[:_AT_ONCE]
            if keys:
                await self._follower.write(*(key_entry(self._revoked(key)) for key in keys))
            return len(keys)

        revoked = 0
        while count := await self._follower.insist(attempt):
            revoked += count
        return revoked

    def unrevoked(self, tenant: str) -> list[KeyRecord]:
        """The tenant's keys of the registry that are not revoked."""
        keys = self._directory.keys(tenant)
        return [key for key in keys if not key.in_configuration and key.revoked_s is None]

    def get(self, id: str) -> KeyRecord:  # noqa: A002 - the key's
        """A key. Raises UnknownKey."""
        found = self._directory.key(id)
        if found is None:
            raise UnknownKey(f"there is no key {id!r}")
        return found

    def page(
        self, tenant: str | None = None, *, after: str = "", limit: int = 1_000
    ) -> list[KeyRecord]:
        """Keys by id, from the one after ``after``, expired and revoked ones too; None: of all
        tenants. Raises UnknownTenant."""
        if tenant is not None:
            self._require_tenant(tenant)
        return self._directory.keys(tenant, after=after, limit=limit)

    def _require_tenant(self, name: str) -> None:
        known = self._directory.tenant(name)
        if known is None or known.document is None:
            raise UnknownTenant(f"there is no tenant {name!r}")

    def _writable(self, key_id: str) -> KeyRecord:
        """Raises UnknownKey, InConfiguration."""
        key = self.get(key_id)
        if key.in_configuration:
            raise InConfiguration(
                f"the key {key_id!r} stands in the configuration: change it there"
            )
        return key

    def _successor(self, key: KeyRecord, now_s: float) -> KeyRecord | None:
        """The active key that has replaced it."""
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
        return valid(lambda: key_rules_from(models, limits, self._directory.config))

    def _check_expiry(self, expires_s: float | None) -> None:
        if expires_s is not None and not self._now_s() < expires_s < LATEST_S:
            raise Invalid([("expires", "expected a time that is still to come, before year 9999")])


def _lifetime(old: KeyRecord, now_s: float) -> float | None:
    """When its successor expires."""
    if old.expires_s is None or old.created_s is None:
        return old.expires_s
    return min(now_s + (old.expires_s - old.created_s), LATEST_S)
