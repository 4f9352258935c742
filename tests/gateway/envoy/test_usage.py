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


def read(lua: LuaFilter, pieces: list[bytes], kind: str = "application/json") -> dict[str, float]:
    assert b"".join(lua.respond(pieces, kind, {"id": "p0-1"})) == b"".join(pieces)
    usage = lua.noted[b"usage"] or {}
    return {key.decode(): value for key, value in usage.items()}


@pytest.mark.parametrize(("document", "counts"), CASES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("spaced", [False, True])
def test_at_every_cut(lua: LuaFilter, document: object, counts: object, spaced: bool) -> None:
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 if spaced else 0)
    assert read(lua, [text]) == counts
    for cut in range(1, 0 if spaced else len(text)):
        assert read(lua, [text[:cut], text[cut:]]) == counts, cut
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
    assert read(lua, pieces) == {"input": 8}


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
