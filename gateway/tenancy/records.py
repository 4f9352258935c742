"""The records of tenants and API keys, and their entries in the registry. Of a key itself only the
digest is kept."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, Final

import orjson
from pydantic import Field, ValidationError

from gateway.config.schema.limit import Limit
from gateway.config.schema.section import Section
from gateway.config.schema.tenancy import Tenant
from gateway.config.schema.terms import ModelPattern, Name
from gateway.tenancy.registry import Entry, EntryKind

ALL_MODELS: Final = ("*",)
LATEST_S: Final = 253_370_764_800.0
"""The year 9999: no key expires later, for no calendar can write it."""
_DELETED: Final = b"null"

Time = Annotated[float, Field(ge=0)]


class Unreadable(Exception):  # noqa: N818 - reads as what it is
    """An entry that this version of Penstock does not understand."""


class KeyState(enum.Enum):
    """Whether a key opens the gate."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key. Times are seconds since the epoch."""

    id: str
    """Public: it is in lists, logs and usage."""
    line: str
    """Id of the first key of those from which it was rotated; its own id if it is the first."""
    tenant: str
    digest: bytes = field(repr=False)
    """SHA-256 of the whole key, 32 bytes."""
    name: str = ""
    """For people."""
    created_s: float | None = None
    """None: it stands in the configuration."""
    expires_s: float | None = None
    """It is refused from then on; None: it does not expire."""
    revoked_s: float | None = None
    """None: it is not revoked. A revoked key stays revoked."""
    models: tuple[str, ...] = ALL_MODELS
    """Patterns of the models that it may use, within the tenant's."""
    limits: tuple[Limit, ...] = ()
    """Of this key alone, beside the tenant's."""
    version: int = 1
    """Number of writes of this record; 0: it stands in the configuration."""

    @property
    def in_configuration(self) -> bool:
        """Whether it stands in the configuration file, which the API cannot change."""
        return self.version == 0

    @property
    def sha256(self) -> str:
        """The digest as 64 hexadecimal digits."""
        return self.digest.hex()

    def state(self, now_s: float) -> KeyState:
        """Its state at a time."""
        if self.revoked_s is not None:
            return KeyState.REVOKED
        if self.expires_s is not None and now_s >= self.expires_s:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant, also a deleted one."""

    name: str
    document: Tenant | None
    """None: it is deleted. The record stays, so that a lost write does not bring the tenant
    back."""
    version: int = 1
    """Number of writes of this record; 0: it stands in the configuration."""


class _StoredKey(Section):
    """`KeyRecord` as JSON; its id and version are those of the entry."""

    line: Name
    tenant: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    name: str = ""
    created_s: Time | None
    expires_s: Time | None = None
    revoked_s: Time | None = None
    models: tuple[ModelPattern, ...] = ALL_MODELS
    limits: tuple[Limit, ...] = ()


def key_entry(record: KeyRecord) -> Entry:
    """The registry's entry of a key."""
    stored = _StoredKey.model_validate(record, from_attributes=True)
    content = stored.model_dump_json(exclude_defaults=True).encode()
    return Entry(EntryKind.KEY, record.id, record.version, content)


def tenant_entry(record: TenantRecord) -> Entry:
    """The registry's entry of a tenant."""
    content = _DELETED
    if record.document is not None:
        content = record.document.model_dump_json(exclude_defaults=True).encode()
    return Entry(EntryKind.TENANT, record.name, record.version, content)


def read_key(entry: Entry) -> KeyRecord:
    """The key of an entry. Raises Unreadable."""
    try:
        stored = _StoredKey.model_validate_json(entry.content)
    except ValidationError as error:
        raise Unreadable(_first(error)) from None
    kept = {name: getattr(stored, name) for name in stored.model_fields_set - {"sha256", "line"}}
    return KeyRecord(
        id=entry.id,
        line=entry.id if stored.line == entry.id else stored.line,
        digest=bytes.fromhex(stored.sha256),
        version=entry.version,
        **kept,
    )


def read_tenant(entry: Entry) -> TenantRecord:
    """The tenant of an entry. Raises Unreadable."""
    if entry.content == _DELETED:
        return TenantRecord(entry.id, None, entry.version)
    try:
        document = Tenant.model_validate_json(entry.content)
    except ValidationError as error:
        raise Unreadable(_first(error)) from None
    if document.name != entry.id or document.keys:
        raise Unreadable("it is of another tenant, or has keys")
    return TenantRecord(entry.id, document, entry.version)


def tenant_json(document: Tenant) -> dict[str, object]:
    """The parts of a tenant that an operator has written."""
    parsed: dict[str, object] = orjson.loads(document.model_dump_json(exclude_defaults=True))
    return parsed


def _first(error: ValidationError) -> str:
    """The first problem, without the value, which may be too long for a log line."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
