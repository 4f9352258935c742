"""The usage of a JSON answer, read as it passes Envoy in pieces."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.envoy.lua import LuaFilter

OPENAI = {
    "prompt_tokens": 70,
    "total_tokens": 90,
    "completion_tokens": 20,
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 7},
}
RESPONSES = {
    "input_tokens": 70,
    "input_tokens_details": {"cached_tokens": 64},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 7},
}
ANTHROPIC = {
    "input_tokens": 6,
    "output_tokens": 20,
    "cache_read_input_tokens": 64,
    "cache_creation_input_tokens": 2,
}
META = {"id": "x", "prompt_tokens": 70, "completion_tokens": 20, "cached_tokens": 64}
TRAP = '\\"usage\\":{"prompt_tokens":1} \\\\" {"usage": ] } \\'
"""What a model may say, as a JSON string has it."""

CASES = [
    (
        {"id": "a", "usage": OPENAI, "prompt_logprobs": [{"1": {"usage": OPENAI}}]},
        {"input": 70, "output": 20, "cached": 64, "reasoning": 7},
    ),
    (
        {"output": [{"usage": {"input_tokens": 1}}], "usage": RESPONSES, "created": 5},
        {"input": 70, "output": 20, "cached": 64, "reasoning": 7},
    ),
    (
        {"content": [{"type": "tool_use", "input": {"usage": {"output_tokens": 0}}}]}
        | {"model": "usage", "usage": ANTHROPIC},
        {"input": 72, "output": 20, "cached": 64},
    ),
    (
        {"usage": {"prompt_tokens": 100, "completion_tokens": 4, "cache_read_input_tokens": 80}},
        {"input": 100, "output": 4, "cached": 80},
    ),
    ({"usage": {"prompt_tokens": 9, "input_tokens": 2, "total_tokens": 9}}, {"input": 9}),
    ({"usage": {"prompt_tokens": -1, "completion_tokens": 99999999999}}, {}),
    ({"text": "usage", "meta_info": META}, {"input": 70, "output": 20, "cached": 64}),
    ({"a": [1, [2, {"b": "]"}]], "usage": {"prompt_tokens": 3}}, {"input": 3}),
    ({"usage": {"prompt_tokens": 1}, "x": 1, "model": "usage", "y": {"prompt_tokens": 2}}, None),
    ({"a": True, "b": None, "c": 1.5, "usage": {"prompt_tokens": 1}}, {"input": 1}),
    ({"choices": [{"usage": OPENAI}], "usage": None}, {}),
    ({"model": "usage", "x": {"prompt_tokens": 9}}, {}),
    ([{"usage": OPENAI}], {}),
    ({"text": TRAP, "usage": {"prompt_tokens": 4}, "more": TRAP}, {"input": 4}),
    ({TRAP: {"prompt_tokens": 5}}, {}),
    ("usage", {}),
]


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
    wanted = {"input": 1} if counts is None else counts
    assert read(lua, [text]) == wanted
    for cut in range(1, 0 if spaced else len(text)):
        assert read(lua, [text[:cut], text[cut:]]) == wanted, cut
    for size in (1, 2, 3, 7):
        assert read(lua, [text[at : at + size] for at in range(0, len(text), size)]) == wanted


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
