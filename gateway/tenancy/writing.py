"""How operators' requests are written to the registry, and checked before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gateway.config.reading.problems import ConfigError
from gateway.tenancy.directory import Directory
from gateway.tenancy.follower import Follower
from gateway.tenancy.problems import Invalid
from gateway.tenancy.registry import Conflict, Entry, RegistryUnavailable

_ATTEMPTS: Final = 5

T = TypeVar("T")


class Writer:
    """Writes entries that depend on those that are there."""

    def __init__(self, follower: Follower) -> None:
        """``follower``: of this process."""
        self._follower = follower

    @property
    def directory(self) -> Directory:
        """What this process knows."""
        return self._follower.directory

    async def write(self, *entries: Entry) -> None:
        """Write all or, raising Conflict, none. Raises RegistryUnavailable."""
        await self._follower.write(entries)

    async def poll(self) -> None:
        """Read what is new. Raises RegistryUnavailable."""
        await self._follower.poll()

    async def insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Read what is new and make the attempt; again if it raises Conflict, because somebody else
        wrote the same entry first. Raises RegistryUnavailable."""
        for _ in range(_ATTEMPTS):
            await self.poll()
            try:
                return await attempt()
            except Conflict:
                continue
        raise RegistryUnavailable("others write the same all the time: try again")


def valid(read: Callable[[], T]) -> T:
    """The value that is read from an operator's request. Raises Invalid."""
    try:
        return read()
    except ConfigError as error:
        raise Invalid.of(error) from None
    except (TypeError, ValueError):
        raise Invalid([("", "expected what JSON can say")]) from None
