"""Keeps a process's directory in step with the registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from gateway.tenancy.directory import Directory
from gateway.tenancy.registry import (
    START,
    Conflict,
    Entry,
    EntryKind,
    Registry,
    RegistryUnavailable,
)

POLL_S: Final = 0.25
"""Time between two looks at the registry. A revocation must act within a second."""

_LOG: Final = logging.getLogger("penstock.tenancy")
_MAX_PAUSE_S: Final = 1.0
_PAGE: Final = 256
_ATTEMPTS: Final = 5
_RESTORED_AT_ONCE: Final = 256

T = TypeVar("T")


class Follower:
    """Reads new entries of the registry into a directory. Use it from one event loop.

    While the registry is away, the known entries stay in force. They also stay when the registry
    comes back without them. A *keeper* writes them back, each if its version is higher than the
    stored one, so several keepers complete each other. Supervisors are keepers.
    """

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        *,
        keeper: bool = False,
        written: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``written`` is called after each write."""
        self.directory = directory
        self.failures = 0
        """Looks that failed; only grows."""
        self.restored = 0
        """Entries that were written back; only grows."""
        self._registry = registry
        self._keeper = keeper
        self._written = written
        self._lock = asyncio.Lock()
        self._position = START
        self._seen: dict[tuple[EntryKind, str], int] | None = {}
        """Versions in the registry, while all of it is read; None: all of it was read."""
        self._failing = False
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all entries, if the registry answers, and follow it from now on."""
        try:
            await self.poll()
        except RegistryUnavailable as error:
            _LOG.error(
                "the registry of tenants and keys is away (%s): only those of the configuration"
                " are known until it is back",
                error,
            )
        self._following = asyncio.create_task(self.run(), name="registry")

    async def poll(self) -> None:
        """Read all new entries. Raises RegistryUnavailable."""
        async with self._lock:
            try:
                await self._read()
                if self._keeper and self._seen is not None:
                    await self._restore(self._seen)
            except RegistryUnavailable:
                self.failures += 1
                # When it is back it may be another one, or an older copy.
                self._again()
                raise
            self._seen = None

    async def write(self, entries: Sequence[Entry]) -> None:
        """Write to the registry and then to the directory. Raises Conflict and
        RegistryUnavailable."""
        async with self._lock:
            await self._registry.write(entries)
            self.directory.apply(entries)
        if self._written is not None:
            await self._written()

    async def insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Read all new entries and make the attempt; again if it raises Conflict, because somebody
        else has written the same entry first. Raises RegistryUnavailable."""
        for _ in range(_ATTEMPTS):
            await self.poll()
            try:
                return await attempt()
            except Conflict:
                continue
        raise RegistryUnavailable("others write the same all the time: try again")

    async def run(self, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Poll until cancelled. Failures are logged once, when they begin. ``pause`` waits for a
        number of seconds."""
        pause_s = POLL_S
        while True:
            try:
                await self.poll()
            except RegistryUnavailable as error:
                self._failed(
                    "the registry of tenants and keys is away: %s; what is known counts", error
                )
                pause_s = min(_MAX_PAUSE_S, 2 * pause_s)
            except Exception as error:  # noqa: BLE001 - later revocations must still be read
                self.failures += 1
                self._failed("the registry of tenants and keys cannot be read: %r", error)
                pause_s = min(_MAX_PAUSE_S, 2 * pause_s)
            else:
                pause_s = POLL_S
                if self._failing:
                    self._failing = False
                    _LOG.info("the registry of tenants and keys is back")
            await pause(pause_s)

    async def close(self) -> None:
        """Stop following, and let go of the registry."""
        if self._following is not None:
            self._following.cancel()
        await self._registry.close()

    def _failed(self, message: str, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            unexpected = not isinstance(error, RegistryUnavailable)
            _LOG.warning(message, error, exc_info=error if unexpected else None)

    def _again(self) -> None:
        if self._keeper:
            self._position, self._seen = START, {}

    async def _read(self) -> None:
        while True:
            page = await self._registry.changes(self._position, _PAGE)
            if page.restarted:
                self._seen = {}
            lost = self.directory.apply(page.entries)
            self._position = page.position
            if self._keeper and self._seen is not None:
                self._seen.update({(e.kind, e.id): e.version for e in page.entries})
            elif self._keeper and lost:
                self._again()
                continue
            if not page.more:
                return
            await asyncio.sleep(0)

    async def _restore(self, seen: dict[tuple[EntryKind, str], int]) -> None:
        missing = [e for e in self.directory.entries() if e.version > seen.get((e.kind, e.id), 0)]
        if not missing:
            return
        _LOG.warning("the registry has lost %d tenants and keys: writing them back", len(missing))
        for start in range(0, len(missing), _RESTORED_AT_ONCE):
            batch = missing[start : start + _RESTORED_AT_ONCE]
            await self._registry.merge(batch)
            self.restored += len(batch)
