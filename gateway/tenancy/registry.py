"""Where tenants and keys are kept when they are made at run time. The same tests run against each
implementation.

A registry keeps the last version of every entry, deleted ones too, in the order in which they were
written; it never forgets one by itself. What stands in an entry is not its business: `records`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol


class Kind(enum.Enum):
    """What an entry is about."""

    TENANT = "tenant"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of one thing."""

    kind: Kind
    id: str
    """Name of the tenant, id of the key."""
    version: int
    """From 1, one more with each write."""
    content: bytes = field(repr=False)
    """JSON."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader has come."""

    epoch: str = ""
    """A registry that lost everything has another one; "": it is empty, or was never read."""
    sequence: int = 0
    """Of the last entry that was read."""


START: Final = Place()


@dataclass(frozen=True, slots=True)
class Page:
    """What was written since a place, oldest first."""

    entries: tuple[Entry, ...]
    place: Place
    """To read on from."""
    more: bool
    """There may be more to read now."""
    restarted: bool
    """The registry is another one than the place is of, or it has gone back in time: this page is
    the first of all that it has."""


class RegistryUnavailable(Exception):  # noqa: N818 - a state of the world
    """The registry did not answer in time or refused; a write may or may not have taken effect."""


class Conflict(Exception):  # noqa: N818 - reads as what it is
    """Somebody else has written the entry, and nothing of what was to be written is."""

    def __init__(self, kind: str, id: str) -> None:  # noqa: A002 - the entry's
        super().__init__(f"{kind} {id!r} has been written by somebody else meanwhile")


class Registry(Protocol):
    """Entries with versions. Every method raises RegistryUnavailable."""

    async def write(self, entries: Sequence[Entry]) -> None:
        """Write all or, raising Conflict, none: each entry's version must be one more than that
        which is there, 1 for a new one."""
        ...

    async def merge(self, entries: Sequence[Entry]) -> None:
        """Write those whose version is higher than that which is there: a copy, to a registry that
        has lost them."""
        ...

    async def changes(self, since: Place, limit: int = 256) -> Page:
        """Up to ``limit`` entries written after the place. An entry that was written several times
        comes once, as it is now."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...
