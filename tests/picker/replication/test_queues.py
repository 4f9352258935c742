"""What waits at a picker, as others read it."""

from __future__ import annotations

import numpy as np
import pytest

from picker.replication.queues import pack, unpack
from picker.wire import state_pb2
from policies.flow.digest import ClassRow, FlowRow, HeadRow, Level, QueueDigest

WHOLE = QueueDigest(
    at_s=12.5,
    flows=(
        FlowRow(0, "acme", 2.0, 3, 300.5, 200.0, served=-4.0, since=1_700_000_000_123),
        FlowRow(-1, "acme/batch", 1.0, 0, 0.0, 0.0, served=9.0, since=2),
    ),
    classes=(ClassRow(0, 10.0, 20.0), ClassRow(-1_001, 0.0, 1.0)),
    heads=(
        HeadRow(2**64 - 1, 3, 90.0, True, 0, "acme", True, 11.25, 30.0),
        HeadRow(1, 0, 0.0, claims=False),
    ),
    levels=(Level(0, "acme", 77.0),),
    begun=2**40,
    interval_s=0.0125,
    part=1,
    parts=4,
)


@pytest.mark.parametrize("digest", [WHOLE, QueueDigest()], ids=["everything", "nothing"])
def test_it_arrives_as_it_was(digest: QueueDigest) -> None:
    message = pack("chat", digest)
    assert message.pool == "chat"
    assert unpack(state_pb2.Queue.FromString(message.SerializeToString())) == digest


@pytest.mark.parametrize(
    "damage",
    [
        {"flows": b"odd"},
        {"flows": np.full(8, np.nan).tobytes()},
        {"names": []},
        {"endpoints": b""},
        {"levels": np.array([0.0, 99.0, 1.0]).tobytes()},
    ],
    ids=["cut off", "no number", "no names", "no endpoints", "a name that is none"],
)
def test_what_does_not_fit_is_refused(damage: dict[str, object]) -> None:
    message = pack("chat", WHOLE)
    for field, value in damage.items():
        message.ClearField(field)
        if value:
            setattr(message, field, value)
    with pytest.raises(ValueError):
        unpack(message)
