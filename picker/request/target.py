"""A request's target as the servers of engines read it, and the spelling that they must get."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

_SLASHES: Final = re.compile("/{2,}")
_SAFE: Final = "/:@!$&'()*+,=~"
"""Characters of a path that need no escape, beside letters, digits and ``_.-`` (RFC 3986)."""
_TWO_READINGS: Final = re.compile(r"[\x00-\x1f\x7f\\;?#%]|/\.{1,2}(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request asks for, without the query."""

    path: str
    """Unescaped once, as ASGI servers do; repeated slashes count as one, and one at the end as
    none."""
    respelled: str | None = None
    """The whole target that reads as ``path`` to everybody, with the query as it came; None: it
    came so."""


def read_target(target: str) -> Target:
    """Read ``:path``. Whoever decides by the path must see to it that the replica gets
    ``respelled``: then both read one path, whatever servers in between make of escapes."""
    whole = target.partition("#")[0]
    raw, question, query = whole.partition("?")
    path = unquote(raw) if "%" in raw else raw
    if "//" in path:
        path = _SLASHES.sub("/", path)
    if path.endswith("/") and len(path) > 1:
        path = path[:-1]
    if path == raw and whole == target:
        return Target(path)
    spelled = quote(path, safe=_SAFE) + question + query
    return Target(path, None if spelled == target else spelled)


def has_two_readings(path: str) -> bool:
    """Whether servers differ in what an unescaped path means: where its query or parameters begin,
    what is escaped twice, what ends a string, what leads to a folder above."""
    return _TWO_READINGS.search(path) is not None
