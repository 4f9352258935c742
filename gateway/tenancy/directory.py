"""All tenants and keys that a process knows: those of the configuration and of the registry."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hmac import compare_digest
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from gateway.config.config import Config
from gateway.config.schema.tenancy import Tenant, TenantKey
from gateway.config.schema.terms import Name
from gateway.tenancy.compile import Policies
from gateway.tenancy.records import (
    KeyRecord,
    TenantRecord,
    Unreadable,
    key_entry,
    read_key,
    read_tenant,
)
from gateway.tenancy.registry import Entry, EntryKind
from policies.limits.plan import TenantPolicy

_LOG: Final = logging.getLogger("penstock.tenancy")
_MAX_COMPILED: Final = 65_536
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)

K = TypeVar("K")
V = TypeVar("V")


class Directory:
    """Finds keys by digest and tenants by name. Where a tenant or key is in the configuration and
    in the registry, the one of the configuration counts.

    Policies are compiled when they are first needed. Until then a tenant of the registry is kept as
    it is written: 0.8 kB for a tenant with a key (`tests/gateway/tenancy/bench_directory.py`).
    """

    def __init__(self, config: Config) -> None:
        self.unreadable = 0
        """Entries of the registry that were ignored; only grows."""
        self._registered: dict[str, Entry] = {}
        """Tenants of the registry by name, deleted ones too."""
        self._keys: dict[str, KeyRecord] = {}
        """Keys of the registry by id, revoked ones too."""
        self._by_digest: dict[bytes, KeyRecord] = {}
        self._shadowed: set[tuple[str, str]] = set()
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Put another configuration into force."""
        self.config = config
        self._policies = Policies(config)
        self._static = {tenant.name: tenant for tenant in config.tenants}
        static_keys = [_static_key(tenant, key) for tenant in config.tenants for key in tenant.keys]
        self._static_keys = {key.id: key for key in static_keys}
        self._static_by_digest = {key.digest: key for key in static_keys}
        self._compiled: dict[str, TenantPolicy] = {}
        self._unknown: dict[str, TenantPolicy] = {}
        self._by_key: dict[bytes, tuple[TenantPolicy, TenantPolicy]] = {}
        """By digest: the tenant's policy, and the key's, which was made from it."""
        self._anonymous = self._policies.anonymous()
        for name in self._static.keys() & self._registered:
            if not _deleted(self._registered[name]):
                self._shadow("tenant", name)
        for key_id in self._static_keys.keys() & self._keys:
            self._shadow("key", key_id)

    @property
    def policies(self) -> Policies:
        """The compiled configuration, with its price list."""
        return self._policies

    # -- for the gate and the limiter

    def find_key(self, digest: bytes) -> KeyRecord | None:
        """The key of a digest, in any state."""
        found = self._static_by_digest.get(digest)
        if found is None:
            found = self._by_digest.get(digest)
            if found is None or found.id in self._static_keys:
                return None
        # The dictionaries leak at most some bits of a digest, which say nothing about a key.
        return found if compare_digest(found.digest, digest) else None

    def policy(self, tenant: str) -> TenantPolicy | None:
        """The policy of a tenant; None: it is not configured."""
        found = self._compiled.get(tenant)
        if found is None:
            record = self.tenant(tenant)
            if record is None or record.document is None:
                return None
            if self._policies.lacks_plan(record.document):
                plan = record.document.plan
                _LOG.error("tenant %r is disabled: its plan %r is not configured", tenant, plan)
            found = _kept(self._compiled, tenant, self._policies.of(record.document))
        return found

    def policy_of(self, key: KeyRecord) -> TenantPolicy | None:
        """The policy of a key's tenant, with the key's limits; None: the tenant is not
        configured."""
        policy = self.policy(key.tenant)
        if policy is None or not key.limits:
            return policy
        known = self._by_key.get(key.digest)
        if known is not None and known[0] is policy:
            return known[1]
        own = self._policies.for_key(policy, key.limits)
        return _kept(self._by_key, key.digest, (policy, own))[1]

    def unknown(self, tenant: str) -> TenantPolicy | None:
        """The policy of a tenant that is not configured; None: it is refused."""
        found = self._unknown.get(tenant)
        if found is None:
            found = self._policies.unknown(tenant) if _is_name(tenant) else None
            if found is not None:
                _kept(self._unknown, tenant, found)
        return found

    def policy_named(self, tenant: str) -> TenantPolicy | None:
        """The policy of a tenant, configured or not; None: it is refused."""
        return self.policy(tenant) or self.unknown(tenant)

    def policy_with(self, tenant: str, key_id: str) -> TenantPolicy | None:
        """The policy of a tenant's request with a key, "" for none; None: it is refused."""
        key = self.key(key_id) if key_id else None
        if key is not None and key.tenant == tenant:
            return self.policy_of(key)
        return self.policy_named(tenant)

    def anonymous(self) -> TenantPolicy | None:
        """The policy of requests without identity; None: they are refused."""
        return self._anonymous

    # -- for operators

    def tenant(self, name: str) -> TenantRecord | None:
        """A tenant in force, also a deleted one."""
        static = self._static.get(name)
        if static is not None:
            return TenantRecord(name, static, version=0)
        entry = self._registered.get(name)
        return None if entry is None else read_tenant(entry)

    def key(self, key_id: str) -> KeyRecord | None:
        """A key by id."""
        return self._static_keys.get(key_id) or self._keys.get(key_id)

    def tenants(self, *, after: str, limit: int) -> list[TenantRecord]:
        """Tenants that are not deleted, by name."""
        names = heapq.nsmallest(limit, (n for n in self._tenant_names() if n > after))
        return [record for record in map(self.tenant, names) if record is not None]

    def keys(
        self, tenant: str | None = None, *, after: str = "", limit: int | None = None
    ) -> list[KeyRecord]:
        """Keys by id; None: of all tenants."""
        found = (
            key
            for keys in (self._static_keys, self._keys)
            for key in keys.values()
            if key.id > after
            and (tenant is None or key.tenant == tenant)
            and (keys is self._static_keys or key.id not in self._static_keys)
        )
        if limit is None:
            return sorted(found, key=_id_of)
        return heapq.nsmallest(limit, found, key=_id_of)

    def _tenant_names(self) -> Iterator[str]:
        yield from self._static
        for name, entry in self._registered.items():
            if name not in self._static and not _deleted(entry):
                yield name

    # -- for the follower

    def apply(self, entries: Iterable[Entry]) -> bool:
        """Apply entries of the registry. True: the registry has lost an entry that is known here.

        An entry that cannot be read changes nothing. A version that is older than the known one is
        ignored, and a revoked key stays revoked.
        """
        behind = False
        for entry in entries:
            try:
                if entry.kind is EntryKind.TENANT:
                    behind |= self._apply_tenant(entry)
                else:
                    behind |= self._apply_key(read_key(entry))
            except Unreadable as error:
                self.unreadable += 1
                _LOG.error(
                    "%s %r of the registry is ignored: %s", entry.kind.value, entry.id, error
                )
        return behind

    def entries(self) -> Iterator[Entry]:
        """All known entries of the registry, to write them back."""
        yield from list(self._registered.values())
        for key in list(self._keys.values()):
            yield key_entry(key)

    def _apply_tenant(self, entry: Entry) -> bool:
        known = self._registered.get(entry.id)
        if known is not None and known.version > entry.version:
            return True
        read_tenant(entry)
        self._registered[entry.id] = entry
        if entry.id not in self._static:
            self._compiled.pop(entry.id, None)
            self._unknown.pop(entry.id, None)
        elif not _deleted(entry):
            self._shadow("tenant", entry.id)
        return False

    def _apply_key(self, key: KeyRecord) -> bool:
        known = self._keys.get(key.id)
        behind = False
        if known is not None:
            if known.version > key.version:
                return True
            if known.revoked_s is not None and key.revoked_s is None:
                # The registry has lost the write that revoked it, and another one has its version.
                key = replace(key, revoked_s=known.revoked_s, version=key.version + 1)
                behind = True
            if known.digest != key.digest:
                self._by_digest.pop(known.digest, None)
        self._keys[key.id] = key
        self._by_digest[key.digest] = key
        self._by_key.pop(key.digest, None)
        if key.id in self._static_keys:
            self._shadow("key", key.id)
        return behind

    def _shadow(self, kind: str, name: str) -> None:
        """Warn, once for each, that the configuration's one counts."""
        if (kind, name) not in self._shadowed:
            self._shadowed.add((kind, name))
            _LOG.warning(
                "%s %r is in the configuration and in the registry: the configuration's counts",
                kind,
                name,
            )


def _static_key(tenant: Tenant, key: TenantKey) -> KeyRecord:
    return KeyRecord(
        id=key.id,
        line=key.id,
        tenant=tenant.name,
        digest=key.digest,
        expires_s=None if key.expires is None else key.expires.timestamp(),
        models=key.models,
        limits=key.limits,
        version=0,
    )


def _kept(compiled: dict[K, V], key: K, value: V) -> V:
    """The value, kept among at most `_MAX_COMPILED` others."""
    if len(compiled) >= _MAX_COMPILED:
        compiled.clear()
    compiled[key] = value
    return value


def _is_name(text: str) -> bool:
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


def _deleted(entry: Entry) -> bool:
    return entry.content == b"null"


def _id_of(key: KeyRecord) -> str:
    return key.id
