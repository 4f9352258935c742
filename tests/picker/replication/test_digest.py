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
ROWS = st.dictionaries(st.text(max_size=20), st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=30)
SPANS = st.none() | st.builds(Span, st.text(max_size=2), st.text(max_size=2))


def loads(rows: dict[str, tuple[float, float, float]], complete: Span | None) -> Loads:
    return Loads("pool", list(rows), np.array(list(rows.values())).reshape(-1, 3), complete)


def through(message: state_pb2.Loads) -> Loads:
    return digest.unpack(state_pb2.Loads.FromString(message.SerializeToString()))


@given(ROWS, SPANS)
def test_what_is_packed_comes_out_again(
    rows: dict[str, tuple[float, float, float]], complete: Span | None
) -> None:
    packed = loads(rows, complete)
    (message,) = digest.pack(packed)
    back = through(message)
    assert (back.pool, back.addresses, back.complete) == ("pool", packed.addresses, complete)
    assert back.rows.tolist() == packed.rows.tolist()


@given(ROWS, st.integers(1, 4))
def test_the_parts_of_a_large_digest_are_complete_for_all_addresses_together(
    rows: dict[str, tuple[float, float, float]], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "MAX_ENDPOINTS", limit)
        parts = [through(message) for message in digest.pack(loads(rows, ALL))]
        assert all(part.complete is None for part in map(through, digest.pack(loads(rows, None))))
    assert max(len(part.addresses) for part in parts) <= limit
    back = {
        address: tuple(row)
        for part in parts
        for address, row in zip(part.addresses, part.rows.tolist(), strict=True)
    }
    assert back == rows
    for address in (*rows, "", "a", "zz"):
        inside = [part for part in parts if part.complete is not None and address in part.complete]
        assert len(inside) == 1
        assert (address in inside[0].addresses) == (address in rows)


def test_columns_that_do_not_fit_are_refused() -> None:
    (message,) = digest.pack(loads({"x": (1, 2, 3)}, None))
    for numbers in (b"", message.numbers[:-1], message.numbers * 2):
        with pytest.raises(ValueError):
            digest.unpack(
                state_pb2.Loads(pool="pool", addresses=message.addresses, numbers=numbers)
            )


def test_a_full_message_fits_a_datagram() -> None:
    rows = {f"[2001:db8:85a3::8a2e:370:{n}]:8000": (1.0, 2.0, 3.0) for n in range(MAX_ENDPOINTS)}
    (message,) = digest.pack(loads(rows, ALL))
    assert message.ByteSize() < 100_000
