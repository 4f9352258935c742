"""Prefix blocks, sessions and adapters as messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from picker.replication import prefixes
from picker.replication.prefixes import MAX_HASHES
from picker.seams.peers import Sent
from picker.wire import state_pb2

CHAIN = st.lists(st.integers(0, 2**60 - 1), max_size=6)
SENT = st.builds(
    Sent,
    pool=st.sampled_from(["one", "two"]),
    address=st.text(max_size=10),
    chains=st.lists(CHAIN, max_size=3),
    adapter=st.sampled_from(["", "sql"]),
    session=st.sampled_from(["", "s1", "s2"]),
    added=st.just(()),
)


def through(requests: list[Sent]) -> list[Sent]:
    return [
        replace(sent, chains=[list(chain) for chain in sent.chains])
        for message in prefixes.pack(requests)
        for sent in prefixes.unpack(state_pb2.Sent.FromString(message.SerializeToString()))
    ]


@given(st.lists(SENT, max_size=8))
def test_what_is_packed_comes_out_again_in_order_by_pool(requests: list[Sent]) -> None:
    back = through(requests)
    for pool in ("one", "two"):
        assert [one for one in back if one.pool == pool] == [
            one for one in requests if one.pool == pool
        ]


def test_what_is_taken_back_has_the_blocks_that_were_added() -> None:
    sent = Sent("one", "x", [[1, 2, 3], [4]], "sql", "s", (2, 1))
    assert through([sent]) == [sent]
    long = Sent("one", "x", [list(range(6_000)), list(range(6_000))], "", "", (10, 5_000))
    (back,) = through([long])
    assert tuple(back.added) == (10, 5_000 - (12_000 - MAX_HASHES))


def test_what_nobody_has_takes_no_room() -> None:
    (message,) = prefixes.pack([Sent("one", "x", [[1, 2]]), Sent("one", "y", [[3]])])
    assert not message.sessions
    assert not message.adapters
    assert not message.chains
    assert list(message.blocks) == [2, 1]


def test_the_beginning_of_a_prompt_without_end() -> None:
    long = [list(range(6_000)), list(range(6_000)), list(range(6_000))]
    (back,) = through([Sent("one", "x", long)])
    assert sum(map(len, back.chains)) == MAX_HASHES
    assert back.chains[0] == long[0]
    assert back.chains[1] == long[1][: MAX_HASHES - 6_000]


@pytest.mark.parametrize("part", ["addresses", "blocks", "chains", "hashes", "sessions"])
def test_columns_that_do_not_fit_are_refused(part: str) -> None:
    sent = [Sent("one", "x", [[1], [2]], session="s"), Sent("one", "y", [[3]])]
    (message,) = prefixes.pack(sent)
    if part == "hashes":
        message.hashes += bytes(8)
    elif part in ("addresses", "sessions"):
        getattr(message, part).append("z")
    else:
        getattr(message, part).append(1)
    with pytest.raises(ValueError):
        prefixes.unpack(message)
