"""What operators do with tenants; the admin API, and with it the command line, comes here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.reading.documents import tenant_from
from gateway.config.schema.tenancy import Tenant
from gateway.tenancy.follower import Follower
from gateway.tenancy.key_admin import KeyAdmin
from gateway.tenancy.problems import (
    AlreadyExists,
    InConfiguration,
    Invalid,
    StaleVersion,
    UnknownTenant,
    valid,
)
from gateway.tenancy.records import TenantRecord, tenant_entry, tenant_json


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant in force."""

    name: str
    document: Tenant
    """As it is written, without what its plan adds. ``keys`` are those of the configuration."""
    version: int
    """For `TenantAdmin.update`; 0: it stands in the configuration."""

    @property
    def in_configuration(self) -> bool:
        """Whether it stands in the configuration file, which the API cannot change."""
        return self.version == 0


class TenantAdmin:
    """Reads and writes tenants. Every writing method raises RegistryUnavailable: nothing is done
    then or, after a time-out, it may be done. Use it from one event loop.
    """

    def __init__(self, follower: Follower, keys: KeyAdmin) -> None:
        """``keys``: with the same follower."""
        self.keys = keys
        """What operators do with keys."""
        self._follower = follower

    async def create(self, document: Mapping[str, object]) -> TenantView:
        """Make a tenant from its JSON form, that of the configuration without ``keys``.

        Raises AlreadyExists, InConfiguration, Invalid.
        """
        tenant = self._checked(document)

        async def attempt() -> TenantView:
            known = self._record(tenant.name)
            if known is not None and known.document is not None:
                raise AlreadyExists(f"the tenant {tenant.name!r} exists")
            return await self._put(tenant, 1 if known is None else known.version + 1)

        return await self._follower.insist(attempt)

    async def update(
        self, name: str, changes: Mapping[str, object], *, version: int | None = None
    ) -> TenantView:
        """Replace the given keys of its JSON form; null sets a key's default.

        ``version``: that the caller has read; StaleVersion if it is another one by now.
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
            tenant = self._checked(tenant_json(known.document) | dict(changes) | {"name": name})
            return await self._put(tenant, known.version + 1)

        return await self._follower.insist(attempt)

    async def delete(self, name: str) -> int:
        """Delete it and revoke its keys. Returns how many keys these were.

        Raises UnknownTenant, InConfiguration. After RegistryUnavailable call it again: keys of a
        deleted tenant do not open the gate, but they would if the tenant was created again.
        """

        async def attempt() -> None:
            known = self._record(name)
            if known is None or (known.document is None and not self.keys.unrevoked(name)):
                raise UnknownTenant(f"there is no tenant {name!r}")
            if known.document is not None:
                await self._follower.write(
                    [tenant_entry(TenantRecord(name, None, known.version + 1))]
                )

        await self._follower.insist(attempt)
        return await self.keys.revoke_all(name)

    def get(self, name: str) -> TenantView:
        """A tenant. Raises UnknownTenant.

        This and the other reads are from this process's copy. They never wait and never fail, and
        learn of writes of other processes a moment later.
        """
        known = self._follower.directory.tenant(name)
        if known is None or known.document is None:
            raise UnknownTenant(f"there is no tenant {name!r}")
        return TenantView(name, known.document, known.version)

    def plan_of_unknown(self, name: str) -> str | None:
        """The plan of `identity.unknown_tenants` that applies to a tenant that is not configured;
        None: the tenant is configured, or such tenants are refused."""
        directory = self._follower.directory
        policy = None if directory.policy(name) else directory.unknown(name)
        return None if policy is None else policy.plan

    def page(self, *, after: str = "", limit: int = 1_000) -> list[TenantView]:
        """Tenants by name, from the one after ``after``."""
        return [
            TenantView(record.name, record.document, record.version)
            for record in self._follower.directory.tenants(after=after, limit=limit)
            if record.document is not None
        ]

    async def _put(self, tenant: Tenant, version: int) -> TenantView:
        await self._follower.write([tenant_entry(TenantRecord(tenant.name, tenant, version))])
        return TenantView(tenant.name, tenant, version)

    def _record(self, name: str) -> TenantRecord | None:
        """A tenant that may be written. Raises InConfiguration."""
        known = self._follower.directory.tenant(name)
        if known is not None and known.version == 0:
            raise InConfiguration(
                f"the tenant {name!r} stands in the configuration: change it there"
            )
        return known

    def _checked(self, document: Mapping[str, object]) -> Tenant:
        given = {key: value for key, value in document.items() if value is not None}
        return valid(lambda: tenant_from(given, self._follower.directory.config))
