"""Keeping a process's directory in step with the registry."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.tenancy.directory import Directory
from gateway.tenancy.registry import START, Entry, Kind, Registry, RegistryUnavailable

POLL_S: Final = 0.25
"""Time between two looks. A revocation must act within a second."""

_LOG: Final = logging.getLogger("penstock.tenancy")
_MAX_PAUSE_S: Final = 1.0
_PAGE: Final = 256
_RESTORED_AT_ONCE: Final = 256


class Follower:
    """Reads what is new in the registry, and applies it. Use it from one event loop.

    While the registry is away, what is known stays in force. A registry that comes back without
    entries that are known takes none of them away; a *keeper* writes them back. Supervisors are
    keepers: it goes by version, so several of them complete each other.
    """

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        *,
        keeper: bool = False,
        written: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``written``: called after each write. ``clock``: monotonic, seconds."""
        self.directory = directory
        self.failures = 0
        """Looks that failed; only grows."""
        self.restored = 0
        """Entries that were written back; only grows."""
        self._registry = registry
        self._keeper = keeper
        self._written = written
        self._clock = clock
        self._lock = asyncio.Lock()
        self._place = START
        self._seen: dict[tuple[Kind, str], int] | None = {}
        """Versions that the registry has, while all of it is read; None: it is in step."""
        self._current_s = clock()
        self._failing = False

    @property
    def behind_s(self) -> float:
        """How old what is known may be, seconds: since the last look that succeeded, or since the
        start."""
        return self._clock() - self._current_s

    async def poll(self) -> None:
        """Apply all that is new. Raises RegistryUnavailable."""
        async with self._lock:
            began_s = self._clock()
            try:
                await self._read()
                if self._keeper and self._seen is not None:
                    await self._restore(self._seen)
            except RegistryUnavailable:
                self.failures += 1
                # It may be another one, or an older copy, when it is back.
                self._again()
                raise
            self._seen = None
            self._current_s = began_s

    async def write(self, entries: Sequence[Entry]) -> None:
        """Write to the registry and, if it takes them, apply here. Raises Conflict and
        RegistryUnavailable."""
        async with self._lock:
            await self._registry.write(entries)
            self.directory.apply(entries)
        if self._written is not None:
            await self._written()

    async def run(self, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Poll until cancelled. Failures are logged once, when they begin. ``pause`` waits for so
        many seconds."""
        pause_s = POLL_S
        while True:
            try:
                await self.poll()
            except RegistryUnavailable as error:
                self._failed(
                    "the registry of tenants and keys is away: %s; what is known counts", error
                )
                pause_s = min(_MAX_PAUSE_S, 2 * pause_s)
            except Exception as error:  # noqa: BLE001 - revocations must go on being heard of
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
        """Let go of the registry."""
        await self._registry.close()

    def _failed(self, message: str, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            unexpected = not isinstance(error, RegistryUnavailable)
            _LOG.warning(message, error, exc_info=error if unexpected else None)

    def _again(self) -> None:
        if self._keeper:
            self._place, self._seen = START, {}

    async def _read(self) -> None:
        while True:
            page = await self._registry.changes(self._place, _PAGE)
            if page.restarted:
                self._seen = {}
            lost = self.directory.apply(page.entries)
            self._place = page.place
            if self._keeper and self._seen is not None:
                self._seen.update({(e.kind, e.id): e.version for e in page.entries})
            elif self._keeper and lost:
                self._again()
                continue
            if not page.more:
                return
            await asyncio.sleep(0)

    async def _restore(self, seen: dict[tuple[Kind, str], int]) -> None:
        missing = [e for e in self.directory.entries() if e.version > seen.get((e.kind, e.id), 0)]
        if not missing:
            return
        _LOG.warning("the registry has lost %d tenants and keys: writing them back", len(missing))
        for start in range(0, len(missing), _RESTORED_AT_ONCE):
            batch = missing[start : start + _RESTORED_AT_ONCE]
            await self._registry.merge(batch)
            self.restored += len(batch)
