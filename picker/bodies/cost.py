"""What a body may cost to read as JSON, before anything of it is read."""

from __future__ import annotations

from typing import Final

import numpy as np

SURE_BYTES: Final = 32_768
"""A body up to this long is never heavy."""
_HEAVY_US: Final = 5_000.0
_BYTE_US: Final = 0.002
_BRACKET_US: Final = 2.0
"""For an object or a list: parsed, and rendered when it is a message or a part of one."""
_COMMA_US: Final = 0.15
_WINDOW_BYTES: Final = 1 << 18

_COMMA: Final = ord(",")
_BRACE: Final = ord("{")
_CASE: Final = ord("{") ^ ord("[")
"""The one bit in which the two differ."""


def is_heavy(body: bytes) -> bool:
    """Reading it may take over 5 ms. An upper bound by the number of some bytes, also of those that
    stand in texts; about 0.2 ms for each MB."""
    size = len(body)
    cost_us = size * _BYTE_US
    if size <= SURE_BYTES or cost_us > _HEAVY_US:
        return size > SURE_BYTES
    signs = np.frombuffer(body, np.uint8)
    for start in range(0, size, _WINDOW_BYTES):
        window = signs[start : start + _WINDOW_BYTES]
        brackets = np.count_nonzero((window | _CASE) == _BRACE)
        cost_us += brackets * _BRACKET_US + np.count_nonzero(window == _COMMA) * _COMMA_US
        if cost_us > _HEAVY_US:
            return True
    return False
