"""Members of a JSON object, found in its text: they can be changed and the rest stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import orjson

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SIGN: Final = re.compile(_STRING + rb"|[{}\[\],:]", re.DOTALL)
_NESTED: Final = re.compile(_STRING + rb"|[{}\[\]]", re.DOTALL)
_SCALAR: Final = re.compile(_STRING + rb"|[^,}\s\"]++", re.DOTALL)
_SPACE: Final = re.compile(rb"\s*+")
_COMMA: Final = re.compile(rb"\s*+,\s*+")
_LETTER: Final = re.compile(rb"\\u00[567]")
"""A letter that is written as an escape."""


def values_of(text: bytes, key: str) -> list[slice]:
    """Where the values of ``key`` stand in the outermost object of ``text``: valid JSON that has
    such a member, or several. ``key`` is of lower-case letters and ``_``."""
    return [value for _, value in _members(text, key)]


def with_values(text: bytes, places: Sequence[slice], value: bytes) -> bytes:
    """``text`` with ``value`` in these places, which are in order."""
    parts: list[bytes] = []
    done = 0
    for place in places:
        parts += (text[done : place.start], value)
        done = place.stop
    return b"".join((*parts, text[done:]))


def without(text: bytes, key: str) -> bytes:
    """``text`` without the member ``key``, or several, of its outermost object: see `values_of`."""
    kept, done = bytearray(), 0
    for begins, value in _members(text, key):
        kept += text[done:begins]
        comma = _COMMA.match(text, value.stop)
        done = value.stop if comma is None else comma.end()
        if comma is None:  # it is the last member
            kept = bytearray(kept.rstrip().removesuffix(b","))
    return bytes(kept + text[done:])


def _members(text: bytes, key: str) -> list[tuple[int, slice]]:
    """Where each one begins, and its value."""
    written = list(re.finditer(rb'"%s"\s*+:' % key.encode(), text))
    if len(written) == 1 and not _LETTER.search(text):
        return [(found.start(), _value(text, found.end())) for found in written]
    return list(_search(text, key))


def _search(text: bytes, key: str) -> Iterator[tuple[int, slice]]:
    at = text.index(b"{") + 1
    mine = False
    begins = at
    while (found := _SIGN.search(text, at)) is not None:
        sign, at = found.group(), found.end()
        if sign == b":":
            value = _value(text, at)
            if mine:
                yield begins, value
            at = value.stop
        elif sign.startswith(b'"'):
            mine, begins = _is(sign, key), found.start()
        elif sign == b"}":
            return


def _is(written: bytes, key: str) -> bool:
    if b"\\" not in written:
        return written[1:-1] == key.encode()
    return bool(orjson.loads(written) == key)


def _value(text: bytes, at: int) -> slice:
    """The value whose text begins here, perhaps behind spaces."""
    space = _SPACE.match(text, at)
    begins = at if space is None else space.end()
    if text[begins : begins + 1] in (b"{", b"["):
        return slice(begins, _closes(text, begins))
    scalar = _SCALAR.match(text, begins)
    return slice(begins, begins if scalar is None else scalar.end())


def _closes(text: bytes, at: int) -> int:
    """The end of the object or list that begins here."""
    depth = 0
    for found in _NESTED.finditer(text, at):
        sign = text[found.start()]
        if sign in b"{[":
            depth += 1
        elif sign in b"}]":
            depth -= 1
            if depth == 0:
                return found.end()
    return len(text)
