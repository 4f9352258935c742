"""The interface to the registry, which keeps the tenants and keys that are made at run time. The
same tests run against each implementation.

A registry keeps the last version of every entry, in the order in which they were written, and never
forgets one by itself. It does not look into entries: `gateway.tenancy.records` does.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol


class EntryKind(enum.Enum):
    """The kind of thing that an entry describes."""

    TENANT = "tenant"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of a tenant or key."""

    kind: EntryKind
    id: str
    """Name of the tenant, id of the key."""
    version: int
    """From 1, one more with each write."""
    content: bytes = field(repr=False)
    """JSON."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reader has read."""

    epoch: str = ""
    """Another one after a registry has lost everything; "": it is empty, or was never read."""
    sequence: int = 0
    """That of the last entry that was read."""


START: Final = Position()


@dataclass(frozen=True, slots=True)
class Page:
    """What was written since a position, the oldest first."""

    entries: tuple[Entry, ...]
    position: Position
    """Where to read on."""
    more: bool
    """There may be more to read now."""
    restarted: bool
    """The position was of another registry or of a later time: this page is the first of all
    entries."""


class RegistryUnavailable(Exception):  # noqa: N818 - a state of the world
    """The registry did not answer in time or refused; a write may or may not have taken effect."""


class Conflict(Exception):  # noqa: N818 - reads as what it is
    """Somebody else has written an entry first, and nothing is written."""

    def __init__(self, kind: str, id: str) -> None:  # noqa: A002 - the entry's
        super().__init__(f"{kind} {id!r} has been written by somebody else meanwhile")


class Registry(Protocol):
    """Entries with versions. Every method raises RegistryUnavailable."""

    async def write(self, entries: Sequence[Entry]) -> None:
        """Write all or, raising Conflict, none. The version of each entry must be the stored one
        plus 1, or 1 for a new entry."""
        ...

    async def merge(self, entries: Sequence[Entry]) -> None:
        """Write the entries whose versions are higher than the stored ones: for a registry that has
        lost them."""
        ...

    async def changes(self, since: Position, limit: int = 256) -> Page:
        """Up to ``limit`` entries that were written after the position. An entry that was written
        several times is there once, in its last version."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...
