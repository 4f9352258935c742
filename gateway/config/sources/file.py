"""The configuration file, followed while Penstock runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

from watchfiles import awatch

from gateway.config.config import Config
from gateway.config.reading.accept import accept, files_of
from gateway.config.reading.problems import ConfigError

_QUIET_MS: Final = 100
"""A change counts when nothing has followed it for this long."""
_DEBOUNCE_MS: Final = 1000
"""While changes never pause, the files are read this often."""
_POLL_MS: Final = 1000
"""Files on file systems that report nothing (some network mounts) are read this often."""

_Fingerprint = frozenset[tuple[Path, int, int, int]]


class ConfigFile:
    """A ConfigSource: a file, and the files of its secrets.

    A change that changes no value (a comment, a touch) yields nothing. Follows edits in place,
    replaced files and swapped symbolic links (Kubernetes config maps), of the file and of
    `{file: PATH}` secrets.
    """

    def __init__(
        self, path: Path, accepted: Config, *, environment: Mapping[str, str] | None = None
    ) -> None:
        """``accepted``: what the file held when Penstock started. ``environment``: where
        ``{env: NAME}`` secrets come from; None: this process's."""
        self._path = path
        self._accepted = accepted
        self._environment = environment

    async def changes(self) -> AsyncGenerator[Config | ConfigError, None]:
        """See ConfigSource."""
        latest: Config | ConfigError = self._accepted
        files = files_of(self._path, self._accepted)
        seen: _Fingerprint = frozenset()  # unlike any: an earlier change is found at once
        while True:
            watched = _folders(files)
            changes = awatch(
                *watched,
                recursive=False,
                debounce=_DEBOUNCE_MS,
                step=_QUIET_MS,
                rust_timeout=_POLL_MS,
                yield_on_timeout=True,
            )
            async with aclosing(changes):
                async for change in changes:
                    now = _fingerprint(files)
                    if now == seen and not _touches({name for _, name in change}, files):
                        continue  # other files in the same folders, a log that grows for instance
                    seen = now
                    result = await asyncio.to_thread(self._read)
                    if not _same(latest, result):
                        latest = result
                        yield result
                    if isinstance(result, ConfigError):
                        files |= result.files  # the accepted one's secrets are still followed
                    else:
                        files = files_of(self._path, result)
                    if _folders(files) != watched:
                        break

    def _read(self) -> Config | ConfigError:
        try:
            return accept(self._path, environment=self._environment)
        except ConfigError as error:
            return error


def _same(one: Config | ConfigError, other: Config | ConfigError) -> bool:
    if isinstance(one, ConfigError) and isinstance(other, ConfigError):
        return one.problems == other.problems
    return one == other


def _folders(files: set[Path]) -> set[Path]:
    """The folders of the files and of what they link to; of a folder that is gone, the nearest
    one above it."""
    folders = set()
    for file in files:
        for folder in (file.parent, file.resolve().parent):
            while not folder.is_dir():
                folder = folder.parent
            folders.add(folder)
    return folders


def _touches(names: set[str], files: set[Path]) -> bool:
    """Some of the changed paths are those of the files, or of what they link to. Two changes within
    a tick of the file system's clock may leave the same fingerprint."""
    return any(str(one) in names for file in files for one in (file, file.resolve()))


def _fingerprint(files: set[Path]) -> _Fingerprint:
    marks = set()
    for file in files:
        try:
            status = file.stat()
        except OSError:
            marks.add((file, -1, -1, -1))
        else:
            marks.add((file, status.st_ino, status.st_mtime_ns, status.st_size))
    return frozenset(marks)
