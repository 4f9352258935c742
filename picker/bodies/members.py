"""Where the top-level members of a JSON object stand, without reading their values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import orjson

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},:]', re.DOTALL)
_OPENING: Final = frozenset((b"{", b"["))
_CLOSING: Final = frozenset((b"}", b"]"))


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the object."""

    key: str
    start: int
    """Of its key, with the quote."""
    end: int
    """Behind its value and white space that follows."""


def members(body: bytes) -> Iterator[Member]:
    """The members of a valid JSON object in their order, repeated keys too."""
    depth = 0
    key: bytes | None = None
    start = 0
    for token in _TOKEN.finditer(body):
        what = token.group()
        if what in _OPENING:
            depth += 1
        elif what in _CLOSING:
            depth -= 1
            if depth == 0 and key is not None:
                yield Member(orjson.loads(key), start, token.start())
        elif depth == 1:
            if what == b",":
                assert key is not None
                yield Member(orjson.loads(key), start, token.start())
                key = None
            elif key is None:
                key, start = what, token.start()
