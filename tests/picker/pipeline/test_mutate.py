"""A changed body changes only what it must: properties over any JSON that a client may write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from picker.bodies.edits import with_model, with_usage
from picker.prompt.forms import Form, form_of
from picker.prompt.members import without
from picker.request.caller import Caller
from picker.request.head import RequestHead
from policies.limits.plan import TenantPolicy
from tests.picker.fleet import MODEL, chat, decided, fleet, head

_TEXTS = st.sampled_from(
    ["model", "a", "stream_options", "é", '"model":"a"', "\\", '\\"', 'x"model', "null", "{", ""]
)
Document: TypeAlias = Mapping[str, object]
_VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)
_DOCUMENTS: st.SearchStrategy[Document] = st.dictionaries(_TEXTS, _VALUES, max_size=5)
_OPTIONS: st.SearchStrategy[object] = st.none() | st.dictionaries(
    st.sampled_from(["include_usage", "x"]), _VALUES
)


@st.composite
def bodies(draw: st.DrawFn, document: st.SearchStrategy[Document] = _DOCUMENTS) -> bytes:
    """A document with members in any order, perhaps with spaces, escapes and repeated keys."""
    members = draw(st.permutations(list(draw(document).items())))
    if draw(st.booleans()):
        members = [*members, *draw(document).items()]
    ascii_only = draw(st.booleans())
    colon = draw(st.sampled_from([":", ": ", " :\n"]))

    def dumped(value: object) -> str:
        text = json.dumps(value, ensure_ascii=ascii_only, separators=(",", colon))
        return text.replace("model", "m\\u006fdel") if draw(st.integers(0, 5)) == 0 else text

    inner = ",".join(f"{dumped(key)}{colon}{dumped(value)}" for key, value in members)
    space = draw(st.sampled_from(["", " ", "\n"]))
    return f"{space}{{{space}{inner}{space}}}{space}".encode()


_MODELS: st.SearchStrategy[Document] = st.fixed_dictionaries(
    {"model": st.sampled_from(["a", "", None, "é", 'q"\\'])}, optional={"x": _VALUES, "é": _VALUES}
)


@given(bodies() | bodies(_MODELS))
@example(b'{"x":{"model":"a"},"m\\u006fdel":"a"}')
@example(b'{"model":"a","x":[{"model":"a"}]}')
@example(b'{"x":"\\"model\\":\\"a\\"","model":"a"}')
@example(b'{"x\\"model":"a","model":"a"}')
@example(b'{"model":null}')
@example(b"{}")
def test_with_model(body: bytes) -> None:
    document = orjson.loads(body)
    changed = with_model(body, document, "served")
    assert orjson.loads(changed) == {**document, "model": "served"}


_STREAMS: st.SearchStrategy[Document] = st.fixed_dictionaries(
    {"stream_options": _OPTIONS, "x": _VALUES}
)


@given(bodies() | bodies(_STREAMS))
@example(b'{"x":{"stream_options":null}}')
@example(b'{"x":{"stream_options":{}},"stream_options":{"include_usage":false}}')
@example(b'{"stream_options":{"a":{"b":1}}}')
@example(b'{"stream_options":null}')
@example(b"{ }")
def test_with_usage(body: bytes) -> None:
    document = orjson.loads(body)
    changed = with_usage(body, document)
    options = document.get("stream_options")
    kept = options if isinstance(options, dict) else {}
    wanted = {**document, "stream_options": {**kept, "include_usage": True}}
    assert orjson.loads(changed) == wanted


def test_the_rest_stays_byte_for_byte() -> None:
    body = b'{ "temperature": 1.0,\n "model" : "a", "seed": 12345678901234567890123 , "x": 1e2}'
    assert with_model(body, orjson.loads(body), "b") == body.replace(
        b'"model" : "a"', b'"model" : "b"'
    )
    assert with_usage(body, orjson.loads(body)) == body.replace(
        b"{", b'{"stream_options":{"include_usage":true},', 1
    )


def test_every_top_level_name_and_no_other_is_replaced() -> None:
    body = (
        b'{"model":"z","n":1e400,"x":[{"model":"a"}],"m\\u006fdel" : null , "model":{"model":[]},'
        b'"y\\"model":"a","t":"\\"model\\":\\"a\\"","model":"a"}'
    )
    assert with_model(body, {"model": "a"}, "b") == (
        b'{"model":"b","n":1e400,"x":[{"model":"a"}],"m\\u006fdel" : "b" , "model":"b",'
        b'"y\\"model":"a","t":"\\"model\\":\\"a\\"","model":"b"}'
    )


def test_many_names_in_one_body_stay_as_they_are() -> None:
    body = b'{"m\\u006fdel":"a","x":[%s]}' % b",".join([b'{"model":"a"}'] * 50_000)
    assert with_model(body, orjson.loads(body), "b") == body.replace(b'"a"', b'"b"', 1)


@pytest.mark.parametrize(
    ("options", "sent", "strips"),
    [
        (b"", {"include_usage": True}, True),
        (b',"stream_options":null', {"include_usage": True}, True),
        (b',"stream_options":{"include_usage":false}', {"include_usage": True}, True),
        (b',"stream_options":{"include_usage":true}', {"include_usage": True}, False),
        (
            b',"stream_options":{"continuous_usage_stats":true}',
            {"include_usage": True, "continuous_usage_stats": False},
            True,
        ),
        (b',"stream_options":"odd"', "odd", False),
        (b',"stream_options":[1]', [1], False),
        (b',"stream":false', None, False),
        (b',"stream":0', None, False),
        (b',"stream":"odd"', None, False),
        (b',"stream":1', {"include_usage": True}, True),
        (b',"stream":"Yes"', {"include_usage": True}, True),
        (b',"stream_options":{"include_usage":1}', {"include_usage": 1}, False),
    ],
)
async def test_usage_is_asked_for_in_streams_only(
    options: bytes, sent: object, strips: bool
) -> None:
    body = chat(stream=True)[:-1] + options + b"}"
    decision = await decided(fleet(), body)
    assert orjson.loads(decision.body or body).get("stream_options") == sent
    assert decision.strip_usage == strips
    assert (decision.metadata.get("strip_usage") is True) == strips


async def test_usage_is_asked_for_in_streams_of_token_ids() -> None:
    body = orjson.dumps({"model": MODEL, "token_ids": [1], "stream": True, "sampling_params": {}})
    decision = await decided(fleet(), body, head("/inference/v1/generate"))
    assert orjson.loads(decision.body or body)["stream_options"] == {"include_usage": True}
    assert decision.strip_usage


@given(bodies(_MODELS))
@example(b'{"x":{"model":1},"m\\u006fdel":2}')
@example(b'{"model":[1,{"model":2}] , "x":3}')
@example(b'{"x":3 , "model": {"a":1} }')
@example(b'{"model":1,"model":2}')
@example(b'{"a":0,"model":1,"x":2,"model":3}')
@example(b'{ "model" : null }')
def test_without(body: bytes) -> None:
    document = orjson.loads(body)
    del document["model"]
    assert orjson.loads(without(body, "model")) == document


def test_many_members_are_taken_out_at_once() -> None:
    body = b"{%s}" % b",".join([b'"priority":-9', b'"x":1'] * 10_000)
    assert without(body, "priority") == b"{%s}" % b",".join([b'"x":1'] * 10_000)
    assert without(b"{%s}" % b",".join([b'"priority":-9'] * 10_000), "priority") == b"{}"


_PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]


@pytest.mark.parametrize("path", [*_PATHS, "/v1/messages", "/v1/audio/speech", "/detokenize"])
@pytest.mark.parametrize("priority", [b"-1000", b'"5"', b"null", b'{"a":[1]}'])
async def test_clients_do_not_set_the_engines_priority(path: str, priority: bytes) -> None:
    """In a body of the form, or on a path whose JSON is looked at for its model only."""
    body = orjson.loads(chat(prompt="hi", input="hi", text="hi", max_tokens=5))
    if form_of(path) in (None, Form.EMBEDDINGS):
        body.pop("messages")
    given = orjson.dumps(body)[:-1] + b',"pri\\u006frity":%s,"priority": %s}' % (priority, priority)
    decision = await decided(fleet(), given, head(path))
    assert decision.body is not None
    assert orjson.loads(decision.body) == body
    unchanged = await decided(fleet(), orjson.dumps(body), head(path))
    assert unchanged.body is None


async def test_a_plan_may_let_its_clients_set_the_engines_priority() -> None:
    trusted = TenantPolicy("acme", client_priority=True)
    decision = await decided(fleet(gate=Trusting(trusted)), chat(priority=-7))
    assert decision.body is None


class Trusting:
    """A gate that lets everybody in."""

    def __init__(self, policy: TenantPolicy) -> None:
        self._caller = Caller(policy)

    def identify(self, head: RequestHead) -> Caller:
        return self._caller
