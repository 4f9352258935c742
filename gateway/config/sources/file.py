"""Following the configuration file and the files of its secrets while Penstock runs."""

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
"""Changes that never pause are looked at this often."""
_POLL_MS: Final = 1000
"""File systems that report nothing (some network mounts) are looked at this often."""

_Fingerprint = frozenset[tuple[Path, int, int, int]]


async def watch(
    path: Path, current: Config, *, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[Config | ConfigError, None]:
    """Yield each new configuration that is accepted, and a ConfigError for each that is not.

    After a ConfigError the old configuration stays in force; when the file is put back to it, it
    is yielded again, so that the error can be cleared. A change that changes no value (a comment,
    a touch) yields nothing. Follows edits in place, replaced files and swapped symbolic links
    (Kubernetes config maps), of the file and of `{file: PATH}` secrets.
    """
    latest: Config | ConfigError = current
    files = files_of(path, current)
    seen: _Fingerprint = frozenset()  # unlike any: a change before we watched is found at once
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
                if not change and now == seen:
                    continue
                seen = now
                result = await asyncio.to_thread(_attempt, path, environment)
                if not _same(latest, result):
                    latest = result
                    yield result
                needed = result.files if isinstance(result, ConfigError) else files_of(path, result)
                # While it is refused, the accepted one's secrets are still followed.
                files = (files | needed) if isinstance(result, ConfigError) else set(needed)
                if _folders(files) != watched:
                    break


def _attempt(path: Path, environment: Mapping[str, str] | None) -> Config | ConfigError:
    try:
        return accept(path, environment=environment)
    except ConfigError as error:
        return error


def _same(one: Config | ConfigError, other: Config | ConfigError) -> bool:
    if isinstance(one, ConfigError) and isinstance(other, ConfigError):
        return one.problems == other.problems
    return one == other


def _folders(files: set[Path]) -> set[Path]:
    """The existing folders of the files and of what they link to; the nearest one above if gone."""
    folders = set()
    for file in files:
        for folder in (file.parent, file.resolve().parent):
            while not folder.is_dir():
                folder = folder.parent
            folders.add(folder)
    return folders


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
