"""Tenants and keys as operators see them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config.schema.tenancy import Tenant
from gateway.tenancy.records import KeyRecord


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant as it is in force."""

    name: str
    document: Tenant
    """As written: without what its plan adds. ``keys`` are those of the configuration only."""
    version: int
    """For `TenantAdmin.update_tenant`; 0: it stands in the configuration."""

    @property
    def in_configuration(self) -> bool:
        """Whether it stands in the configuration file, which the API cannot change."""
        return self.version == 0


@dataclass(frozen=True, slots=True)
class KeyView:
    """An API key, without its secret."""

    record: KeyRecord

    @property
    def in_configuration(self) -> bool:
        """Whether it stands in the configuration file, which the API cannot change."""
        return self.record.version == 0


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only time that it is told."""

    text: str = field(repr=False)
    """Give it to its user, and keep it nowhere."""
    record: KeyRecord
