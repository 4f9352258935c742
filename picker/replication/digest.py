"""Load digests: what a picker has in flight, packed for the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from picker.seams.peers import Loads, Span
from picker.wire import state_pb2

MAX_ENDPOINTS: Final = 1_500
"""In one message: about 75 kB."""


def pack(loads: Loads) -> Iterator[state_pb2.Loads]:
    """One message, or several with so many endpoints each; of a complete report each is complete
    for a part of the addresses."""
    count = len(loads.addresses)
    if count <= MAX_ENDPOINTS:
        yield _message(loads)
        return
    order = sorted(range(count), key=loads.addresses.__getitem__)
    starts = range(0, count, MAX_ENDPOINTS)
    for start in starts:
        part = order[start : start + MAX_ENDPOINTS]
        addresses = [loads.addresses[index] for index in part]
        complete = loads.complete
        if complete is not None:
            after = order[start + MAX_ENDPOINTS : start + MAX_ENDPOINTS + 1]
            complete = Span(
                first=addresses[0] if start else complete.first,
                end=loads.addresses[after[0]] if after else complete.end,
            )
        yield _message(Loads(loads.pool, addresses, loads.rows[part], complete))


def unpack(message: state_pb2.Loads) -> Loads:
    """Raises ValueError when the columns do not fit."""
    addresses = list(message.addresses)
    rows = np.frombuffer(message.numbers, "<f8").reshape(len(addresses), 3)
    complete = None
    if message.HasField("complete"):
        complete = Span(message.complete.first, message.complete.end)
    return Loads(message.pool, addresses, rows, complete)


def _message(loads: Loads) -> state_pb2.Loads:
    complete = loads.complete
    return state_pb2.Loads(
        pool=loads.pool,
        addresses=loads.addresses,
        numbers=loads.rows.astype("<f8").tobytes(),
        complete=None if complete is None else state_pb2.Span(first=complete[0], end=complete[1]),
    )
