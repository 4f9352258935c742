"""What a body may cost to read, before anything of it is read."""

from __future__ import annotations

import re
from typing import Final

_SURE_BYTES: Final = 32_768
"""A body up to this long is never heavy."""
_HEAVY_US: Final = 5_000.0
_BYTE_US: Final = 0.002
_BRACKET_US: Final = 2.0
"""For an object or a list: parsed, and rendered when it is a message or a part of one."""
_COMMA_US: Final = 0.15

_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def is_heavy(body: bytes) -> bool:
    """Reading it as JSON may take over 5 ms. An upper bound from a few counts of bytes, which also
    counts what stands in texts; about 0.3 ms for each MB."""
    size = len(body)
    if size <= _SURE_BYTES:
        return False
    cost_us = size * _BYTE_US + (body.count(b"{") + body.count(b"[")) * _BRACKET_US
    return cost_us > _HEAVY_US or cost_us + body.count(b",") * _COMMA_US > _HEAVY_US


def has_more_values(body: bytes, most: int) -> bool:
    """Whether a JSON text has more values than ``most``. Texts in it are looked at only when the
    bytes that part values are more than that."""
    if _partings(body) <= most:
        return False
    return _partings(_STRINGS.sub(b"", body)) > most


def _partings(text: bytes) -> int:
    """Bytes that begin a list or an object, or go on to the next value or member."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")
