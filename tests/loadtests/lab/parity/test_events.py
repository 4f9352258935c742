"""KV events: what they show of admissions and evictions."""

from __future__ import annotations

import msgspec
import pytest

from loadtests.lab.parity.events import EventLog, chain_of
from loadtests.lab.parity.order import order_of
from loadtests.lab.parity.recording import ParityError


def _message(number: int, *events: dict[str, object]) -> list[bytes]:
    return [b"", number.to_bytes(8, "big"), msgspec.msgpack.encode([0.0, list(events), 0])]


def _stored(hashes: list[int], parent: int | None, tokens: list[int]) -> dict[str, object]:
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": parent,
        "token_ids": tokens,
    }


def test_kv_events_tell_admissions_and_evictions() -> None:
    events = EventLog(2)
    events.take(_message(0, _stored([11], None, [1, 2]), _stored([12], 11, [5, 6])))
    events.take(_message(1, {"type": "BlockRemoved", "block_hashes": [11]}))
    events.take(_message(2, _stored([11, 13], None, [1, 2, 3, 4])))
    one, other = chain_of([1, 2, 3, 4, 9], None, 2), chain_of([1, 2, 5, 6], None, 2)
    assert one[0] == other[0] != chain_of([1, 2], "poet", 2)[0]
    assert events.stored == [*other, *one]
    assert events.removed_blocks == 1


def test_lost_kv_events_are_an_error() -> None:
    events = EventLog(2)
    events.take(_message(4))
    with pytest.raises(ParityError, match="events 5 to 6 were lost"):
        events.take(_message(7))


def test_order_is_that_of_blocks_that_one_request_alone_has() -> None:
    together = {"a": [1, 2], "b": [1, 3, 4], "c": [1], "d": [7]}
    later = {"e": [1, 2, 5], "f": [1, 3, 4]}
    assert order_of([together, later], [1, 4, 9, 1, 2, 3, 2, 5]) == ["b", "a", "e"]
