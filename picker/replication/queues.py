"""What waits at a picker and what it has served, packed for the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from picker.wire import state_pb2
from policies.flow.digest import ClassRow, FlowRow, HeadRow, Level, QueueDigest

_FLOW_COLUMNS = 8
_CLASS_COLUMNS = 3
_HEAD_COLUMNS = 8
_LEVEL_COLUMNS = 3


def pack(pool: str, digest: QueueDigest) -> state_pb2.Queue:
    """As a message."""
    names: dict[str, int] = {}

    def index(flow: str) -> int:
        return names.setdefault(flow, len(names))

    flows = [
        (
            *(row.priority, index(row.flow), row.weight, row.requests),
            *(row.tokens, row.cost, row.served, row.since),
        )
        for row in digest.flows
    ]
    heads = [
        (
            *(row.requests, row.prefill_tokens, row.claims, row.priority),
            *(index(row.flow), row.owed, row.arrived_s, row.tokens),
        )
        for row in digest.heads
    ]
    levels = [(row.priority, index(row.flow), row.ahead) for row in digest.levels]
    return state_pb2.Queue(
        pool=pool,
        at_s=digest.at_s,
        begun=digest.begun,
        interval_s=digest.interval_s,
        part=digest.part,
        parts=digest.parts,
        names=names,
        flows=_bytes(flows),
        classes=_bytes([(row.priority, row.given, row.came) for row in digest.classes]),
        endpoints=np.array([row.endpoint for row in digest.heads], "<u8").tobytes(),
        heads=_bytes(heads),
        levels=_bytes(levels),
    )


def unpack(message: state_pb2.Queue) -> QueueDigest:
    """Raises ValueError when the columns do not fit, or have numbers that are none."""
    names = [*message.names]
    endpoints = np.frombuffer(message.endpoints, "<u8").tolist()
    heads = _rows(message.heads, _HEAD_COLUMNS)
    try:
        return QueueDigest(
            at_s=message.at_s,
            flows=tuple(
                FlowRow(int(a), names[int(b)], c, int(d), e, f, g, int(h))
                for a, b, c, d, e, f, g, h in _rows(message.flows, _FLOW_COLUMNS)
            ),
            classes=tuple(
                ClassRow(int(a), b, c) for a, b, c in _rows(message.classes, _CLASS_COLUMNS)
            ),
            heads=tuple(
                HeadRow(key, int(a), b, c > 0, int(d), names[int(e)], f > 0, g, h)
                for key, (a, b, c, d, e, f, g, h) in zip(endpoints, heads, strict=True)
            ),
            levels=tuple(
                Level(int(a), names[int(b)], c) for a, b, c in _rows(message.levels, _LEVEL_COLUMNS)
            ),
            begun=message.begun,
            interval_s=message.interval_s,
            part=message.part,
            parts=message.parts,
        )
    except IndexError as error:
        raise ValueError("a queue has a flow without a name") from error


def _bytes(rows: Sequence[Iterable[float]]) -> bytes:
    return np.array(rows, "<f8").tobytes() if rows else b""


def _rows(data: bytes, columns: int) -> list[list[float]]:
    if not data:
        return []
    rows = np.frombuffer(data, "<f8").reshape(-1, columns)
    if not np.isfinite(rows).all():
        raise ValueError("a queue has numbers that are none")
    found: list[list[float]] = rows.tolist()
    return found
