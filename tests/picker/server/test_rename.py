"""The client's own model name comes back at the top level, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.server.rename import EventRenamer, JsonRenamer
from picker.server.response import ResponseReader
from tests.picker.server.edge import JSON, SSE
from tests.picker.server.renames import ASKED, CASES, SERVED, Case, cuts

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def passed(pieces: Iterable[bytes], *, streamed: bool) -> bytes:
    made = EventRenamer if streamed else JsonRenamer
    renamer = made(SERVED, ASKED)
    return b"".join(renamer.feed(piece) for piece in pieces) + renamer.rest()


@CASE
def test_at_every_cut(case: Case) -> None:
    for pieces in cuts(case.given):
        assert passed(pieces, streamed=case.streamed) == case.wanted, pieces


@CASE
@pytest.mark.parametrize("strip", [False, True])
def test_with_data_in_the_last_message(case: Case, strip: bool) -> None:
    headers = SSE if case.streamed else JSON
    for first, last in cuts(case.given)[:-1]:
        reader = ResponseReader(headers, rename=(SERVED, ASKED), strip_usage=strip)
        got = reader.feed(first, end=False) + reader.feed(last, end=True)
        assert got == case.wanted, (first, last)
        assert not reader.finish()


def test_a_long_answer_is_not_held() -> None:
    renamer = JsonRenamer(SERVED, ASKED)
    assert renamer.feed(b'{"data":[') == b'{"data":['
    for piece in (b"[0.25,-1e-3],", b'{"model":"x"},', b'"' + b"x" * 500 + b'",', b'"\\u00e9",'):
        for _ in range(50):
            assert renamer.feed(piece) == piece
    assert renamer.feed(b'"'), "a text that goes on"
    assert renamer.feed(b"model") == b"model"
    assert renamer.feed(b'"],"model":"org') == b'"],"model":"'
    assert renamer.feed(b"/" + b"x" * 100) == b"org/" + b"x" * 100


_KEYS = st.sampled_from(["model", "response", "message", "a", 'b"', "metadata", "\\", "é"])
_VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.integers(-9, 9) | st.sampled_from([SERVED, ASKED, "{", '"model":', "\\", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(_KEYS, _VALUES, max_size=6),
    st.lists(st.integers(0, 400), max_size=4),
    st.booleans(),
    st.sampled_from([(",", ":"), (" , ", " : ")]),
    st.booleans(),
)
def test_any_answer(
    document: dict[str, object],
    places: list[int],
    streamed: bool,
    separators: tuple[str, str],
    escapes: bool,
) -> None:
    text = json.dumps(document, separators=separators, ensure_ascii=escapes)
    wanted = dict(document)
    holders = [wanted]
    if streamed:
        text = f"data: {text}\n\n"
        for key in ("response", "message"):
            inner = wanted.get(key)
            if isinstance(inner, dict):
                wanted[key] = held = dict(inner)
                holders.append(held)
    for holder in holders:
        if holder.get("model") == SERVED:
            holder["model"] = ASKED
    body = text.encode()
    bounds = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    pieces = [body[at:to] for at, to in pairwise(bounds)]
    got = passed(pieces, streamed=streamed)
    assert json.loads(got.removeprefix(b"data: ")) == wanted
