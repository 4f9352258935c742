"""What the registry keeps of tenants and API keys. A key itself is nowhere: only its digest."""

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
from gateway.tenancy.registry import Entry, Kind

ALL_MODELS: Final = ("*",)
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
    """Public: in lists, logs and usage."""
    line: str
    """Id of the first of the keys that it was rotated from; its own when it is the first."""
    tenant: str
    digest: bytes = field(repr=False)
    """SHA-256 of the whole key, 32 bytes."""
    name: str = ""
    """What an operator calls it."""
    created_s: float | None = None
    """None: it stands in the configuration."""
    expires_s: float | None = None
    """It is refused from here on; None: it does not expire."""
    revoked_s: float | None = None
    """Never taken back."""
    models: tuple[str, ...] = ALL_MODELS
    """Patterns of the models that it may use, within the tenant's."""
    limits: tuple[Limit, ...] = ()
    """Of this key alone, beside the tenant's."""
    version: int = 1
    """Counts the writes of this record; 0: it stands in the configuration."""

    def state(self, now_s: float) -> KeyState:
        """At a time."""
        if self.revoked_s is not None:
            return KeyState.REVOKED
        if self.expires_s is not None and now_s >= self.expires_s:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant, or that there is none any more."""

    name: str
    document: Tenant | None
    """None: deleted. The record stays, so that a lost write does not bring the tenant back."""
    version: int = 1
    """Counts the writes of this record; 0: it stands in the configuration."""


class _StoredKey(Section):
    """`KeyRecord` as JSON; the id and version are the entry's."""

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
    """For the registry."""
    stored = _StoredKey(
        line=record.line,
        tenant=record.tenant,
        sha256=record.digest.hex(),
        name=record.name,
        created_s=record.created_s,
        expires_s=record.expires_s,
        revoked_s=record.revoked_s,
        models=record.models,
        limits=record.limits,
    )
    content = stored.model_dump_json(exclude_defaults=True).encode()
    return Entry(Kind.KEY, record.id, record.version, content)


def tenant_entry(record: TenantRecord) -> Entry:
    """For the registry."""
    content = _DELETED
    if record.document is not None:
        content = record.document.model_dump_json(exclude_defaults=True).encode()
    return Entry(Kind.TENANT, record.name, record.version, content)


def read_key(entry: Entry) -> KeyRecord:
    """Raises Unreadable."""
    try:
        stored = _StoredKey.model_validate_json(entry.content)
    except ValidationError as error:
        raise Unreadable(_first(error)) from None
    return KeyRecord(
        id=entry.id,
        line=entry.id if stored.line == entry.id else stored.line,
        tenant=stored.tenant,
        digest=bytes.fromhex(stored.sha256),
        name=stored.name,
        created_s=stored.created_s,
        expires_s=stored.expires_s,
        revoked_s=stored.revoked_s,
        models=ALL_MODELS if stored.models == ALL_MODELS else stored.models,
        limits=stored.limits,
        version=entry.version,
    )


def read_tenant(entry: Entry) -> TenantRecord:
    """Raises Unreadable."""
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
    """What an operator has written of it."""
    parsed: dict[str, object] = orjson.loads(document.model_dump_json(exclude_defaults=True))
    return parsed


def _first(error: ValidationError) -> str:
    """Without the value, which may be longer than a log line should be."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
