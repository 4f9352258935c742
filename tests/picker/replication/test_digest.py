"""Load digests as messages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.replication import digest
from picker.replication.digest import MAX_ENDPOINTS
from picker.seams.peers import ALL, Loads, Span
from picker.wire import state_pb2

NUMBERS = st.integers(0, 1 << 40).map(float)
KEYS = st.integers(0, ALL.last)
ROWS = st.dictionaries(KEYS, st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=30)
SPANS = st.none() | st.builds(Span, KEYS, KEYS)
Rows = dict[int, tuple[float, float, float]]


def loads(rows: Rows, complete: Span | None) -> Loads:
    numbers = np.array(list(rows.values())).reshape(-1, 3)
    return Loads("pool", np.array(list(rows), np.uint64), numbers, complete)


def through(message: state_pb2.Loads) -> Loads:
    return digest.unpack(state_pb2.Loads.FromString(message.SerializeToString()))


@given(ROWS, SPANS)
def test_what_is_packed_comes_out_again(rows: Rows, complete: Span | None) -> None:
    packed = loads(rows, complete)
    (message,) = digest.pack(packed)
    back = through(message)
    assert (back.pool, back.endpoints.tolist(), back.complete) == ("pool", list(rows), complete)
    assert back.rows.tolist() == packed.rows.tolist()


@given(ROWS, st.integers(1, 4))
def test_the_parts_of_a_large_digest_are_complete_for_all_keys_together(
    rows: Rows, limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "MAX_ENDPOINTS", limit)
        parts = [through(message) for message in digest.pack(loads(rows, ALL))]
        assert all(part.complete is None for part in map(through, digest.pack(loads(rows, None))))
    assert max(part.endpoints.size for part in parts) <= limit
    back = {
        key: tuple(row)
        for part in parts
        for key, row in zip(part.endpoints.tolist(), part.rows.tolist(), strict=True)
    }
    assert back == rows
    for key in (*rows, 0, 1 << 63, ALL.last):
        (inside,) = [
            part
            for part in parts
            if part.complete is not None and part.complete.first <= key <= part.complete.last
        ]
        assert (key in inside.endpoints.tolist()) == (key in rows)


def test_columns_that_do_not_fit_are_refused() -> None:
    (message,) = digest.pack(loads({7: (1, 2, 3)}, None))
    for numbers in (b"", message.numbers[:-1], message.numbers * 2):
        with pytest.raises(ValueError):
            digest.unpack(
                state_pb2.Loads(pool="pool", endpoints=message.endpoints, numbers=numbers)
            )


def test_a_full_message_fits_a_datagram() -> None:
    rows = dict.fromkeys(range(MAX_ENDPOINTS), (1.0, 2.0, 3.0))
    (message,) = digest.pack(loads(rows, ALL))
    assert message.ByteSize() < 100_000
