"""The usage of a JSON answer, read as it passes Envoy in pieces."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.envoy.lua import LuaFilter
from tests.picker.server.usages import CASES, OPENAI


@pytest.fixture(scope="module")
def lua() -> LuaFilter:
    return LuaFilter()


def read(
    lua: LuaFilter, pieces: list[bytes], kind: str = "application/json", *, sized: bool = False
) -> dict[str, float]:
    """``sized``: the answer says how long it is."""
    headers = {"content-length": str(sum(map(len, pieces)))} if sized else {}
    sent = lua.respond(pieces, kind, {"id": "p0-1"}, headers=headers)
    assert b"".join(sent) == b"".join(pieces)
    usage = lua.noted[b"usage"] or {}
    return {key.decode(): value for key, value in usage.items()}


@pytest.mark.parametrize(("document", "counts"), CASES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("spaced", [False, True])
def test_at_every_cut(lua: LuaFilter, document: object, counts: object, spaced: bool) -> None:
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 if spaced else 0)
    assert read(lua, [text]) == read(lua, [text], sized=True) == counts
    for cut in range(1, 0 if spaced else len(text)):
        assert read(lua, [text[:cut], text[cut:]], sized=True) == counts, cut
    for size in (1, 2, 3, 7):
        assert read(lua, [text[at : at + size] for at in range(0, len(text), size)]) == counts


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 9)
    | st.text(alphabet='usage"\\{}[]:, é', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["usage", "meta_info", '"', "a", "{"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(before=_JSON, after=_JSON, seed=st.integers(0, 99))
def test_whatever_stands_around_it(
    lua: LuaFilter, before: object, after: object, seed: int
) -> None:
    text = orjson.dumps({"before": before, "usage": {"prompt_tokens": 8}, "after": after})
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(len(text)), min(4, len(text))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(lua, pieces) == read(lua, [text], sized=True) == {"input": 8}


_USAGES = st.recursive(
    st.none() | st.text(alphabet='usage"\\{}:,', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["usage", "meta_info", "prompt_tokens", "a"]),
            inner | st.integers(0, 9),
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(document=_USAGES, spaced=st.booleans())
def test_an_answer_in_one_piece_is_read_as_any_other(
    lua: LuaFilter, document: object, spaced: bool
) -> None:
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 if spaced else 0)
    assert read(lua, [text], sized=True) == read(lua, [text])


def test_two_usages_in_one_object(lua: LuaFilter) -> None:
    text = b'{"usage":{"prompt_tokens":8},"usage":{"prompt_tokens":9}}'
    assert read(lua, [text], sized=True) == read(lua, [text]) == {"input": 9}


def test_much_behind_the_usage(lua: LuaFilter) -> None:
    text = orjson.dumps({"usage": {"prompt_tokens": 8}, "prompt_logprobs": [[0.5]] * 2_000})
    assert read(lua, [text], sized=True) == {"input": 8}


@pytest.mark.parametrize(
    "text", [b"", b"{", b"]]]}}}", b'{"usage":{"prompt_tokens":', b'"\\', b"\xff\xfe", b"[" * 5000]
)
def test_what_is_no_json_reports_nothing(lua: LuaFilter, text: bytes) -> None:
    assert read(lua, [text, text]) == {}


def test_a_usage_that_does_not_end_is_not_kept(lua: LuaFilter) -> None:
    assert read(
        lua, [b'{"usage":{"a":"', *[b"x" * 9000] * 20, b'"},"usage":{"prompt_tokens":2}}']
    ) == {"input": 2}


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain", ""])
def test_other_answers_are_not_read(lua: LuaFilter, kind: str) -> None:
    assert read(lua, [orjson.dumps({"usage": OPENAI})], kind) == {}
