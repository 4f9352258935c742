"""Load digests: what a picker has in flight, packed for the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from picker.seams.peers import Loads, Span
from picker.wire import state_pb2

MAX_ENDPOINTS: Final = 2_500
"""In one message: 80 kB."""


def pack(loads: Loads) -> Iterator[state_pb2.Loads]:
    """One message, or several with so many endpoints each; of a complete report each is complete
    for a part of the keys."""
    count = loads.endpoints.size
    if count <= MAX_ENDPOINTS:
        yield _message(loads)
        return
    order = loads.endpoints.argsort()
    keys, rows, complete = loads.endpoints[order], loads.rows[order], loads.complete
    for start in range(0, count, MAX_ENDPOINTS):
        end = start + MAX_ENDPOINTS
        if complete is not None and loads.complete is not None:
            complete = Span(
                first=int(keys[start]) if start else loads.complete.first,
                last=int(keys[end]) - 1 if end < count else loads.complete.last,
            )
        yield _message(Loads(loads.pool, keys[start:end], rows[start:end], complete))


def unpack(message: state_pb2.Loads) -> Loads:
    """Raises ValueError when the columns do not fit."""
    keys = np.frombuffer(message.endpoints, "<u8").astype(np.uint64, copy=False)
    rows = np.frombuffer(message.numbers, "<f8").reshape(keys.size, 3)
    complete = None
    if message.HasField("complete"):
        complete = Span(message.complete.first, message.complete.last)
    return Loads(message.pool, keys, rows, complete)


def _message(loads: Loads) -> state_pb2.Loads:
    complete = loads.complete
    return state_pb2.Loads(
        pool=loads.pool,
        endpoints=loads.endpoints.astype("<u8", copy=False).tobytes(),
        numbers=loads.rows.astype("<f8", copy=False).tobytes(),
        complete=None if complete is None else state_pb2.Span(**complete._asdict()),
    )
