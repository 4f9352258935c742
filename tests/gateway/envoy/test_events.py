"""What the Lua filter reads of streams and answers: as the standard transport does, whatever their
framing."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from picker.request.report import Ending
from picker.server.response import ResponseReader
from tests.gateway.envoy.lua import Ends, LuaFilter
from tests.picker.server.failures import FAILURES, HARMLESS, Failure
from tests.picker.server.framings import cut, framed
from tests.picker.server.streams import STREAMS, Stream

STREAM = "text/event-stream; charset=utf-8"
SSE = {"content-type": STREAM}
STRIPS_AND_RENAMES: Mapping[str, str | bool] = {
    "strip_usage": True,
    "served_model": '"big"',
    "asked_model": '"small"',
}


@dataclass(frozen=True, slots=True)
class Passed:
    """What came of a response."""

    body: bytes
    """As the client gets it."""
    events: int | None
    """With output; None: it was no stream."""
    failed: bool
    usage: Mapping[str, int]


def passed(
    lua: LuaFilter,
    pieces: Sequence[bytes],
    kind: str = STREAM,
    decision: Mapping[str, str | bool] | None = None,
    *,
    ends: Ends = "empty",
    coding: str = "identity",
) -> Passed:
    """What comes of a response in these pieces."""
    headers = {":status": "200", "content-encoding": coding}
    told = {"id": "p0-1", **(decision or {})}
    out = lua.respond([one for one in pieces if one], kind, told, ends=ends, headers=headers)
    usage = lua.noted[b"usage"]
    return Passed(
        b"".join(out),
        lua.events,
        lua.noted[b"failed"] is True,
        {} if usage is None else {key.decode(): int(usage[key]) for key in usage},
    )


@pytest.fixture(scope="module")
def lua() -> LuaFilter:
    return LuaFilter()


@pytest.mark.parametrize("seed", range(250))
def test_any_framing_is_read_alike_on_both_transports(lua: LuaFilter, seed: int) -> None:
    rng = random.Random(seed)
    stream = framed(rng)
    chunks = cut(stream.body, rng)
    truth = (stream.events, stream.failed, stream.input_tokens, stream.output_tokens)
    ends: Sequence[Ends] = ("empty", "data", "trailers")
    got = passed(lua, chunks, ends=rng.choice(ends))
    assert got.body == stream.body
    usage = got.usage
    read = (got.events, got.failed, usage.get("input"), usage.get("output"))
    assert read == truth, stream.body
    if stream.output_tokens is not None:
        assert usage["events"] == stream.events_at_usage
    reader = ResponseReader(SSE, rename=None, strip_usage=False)
    assert b"".join(reader.feed(chunk, end=False) for chunk in chunks) == stream.body
    reader.finish()
    tokens = reader.usage.input_tokens, reader.usage.output_tokens
    assert (reader.events, reader.failed, *tokens) == truth, stream.body
    later = stream.events - stream.events_at_usage
    known = stream.output_tokens
    assert reader.output_tokens(Ending.OK) == (None if known is None else known + later)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_tokens_of_streams_of_every_api(lua: LuaFilter, stream: Stream) -> None:
    for size in (1, 7, len(stream.body)):
        chunks = [stream.body[at : at + size] for at in range(0, len(stream.body), size)]
        assert passed(lua, chunks).events == stream.tokens


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_failures(lua: LuaFilter, failure: Failure) -> None:
    got = passed(lua, [failure.body])
    assert (got.failed, got.events) == (True, failure.tokens)


@pytest.mark.parametrize("failure", HARMLESS, ids=lambda failure: failure.name)
def test_what_is_no_failure(lua: LuaFilter, failure: Failure) -> None:
    got = passed(lua, [failure.body])
    assert (got.failed, got.events) == (False, failure.tokens)


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        ({"error": {"message": "no"}}, True),
        ({"error": "no"}, True),
        ({"object": "error", "message": "no"}, True),
        ({"type": "error", "error": {"type": "overloaded_error"}}, True),
        ({"id": "r", "status": "failed", "error": {"code": "x"}, "output": []}, True),
        ({"error": None, "output": [{"text": 'an "error"'}]}, False),
        ({"choices": [{"message": {"content": '{"error": {}}'}}]}, False),
        ({"choices": [{"message": {}, "finish_reason": "error"}]}, True),
        ([{"error": 1}], False),
    ],
)
@pytest.mark.parametrize("decision", [{}, STRIPS_AND_RENAMES])
def test_whole_answers(
    lua: LuaFilter, answer: object, failed: bool, decision: Mapping[str, str | bool]
) -> None:
    text = json.dumps(answer).encode()
    got = passed(lua, [text[:5], text[5:]], "application/json", decision)
    assert (got.failed, got.events, got.body) == (failed, None, text)
    reader = ResponseReader({"content-type": "application/json"}, rename=None, strip_usage=False)
    reader.feed(text, end=True)
    assert reader.failed == failed


def test_compressed_answers_are_not_read(lua: LuaFilter) -> None:
    got = passed(lua, [b"data: {}\n\n"], coding="gzip")
    assert (got.body, got.events) == (b"data: {}\n\n", None)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_the_client_did_not_ask_for_is_taken_out(lua: LuaFilter, end: str) -> None:
    token = 'data: {"model":"big","choices":[{"delta":{"content":"a"}}]}'
    usage = 'data: {"model":"big","choices":[],"usage":{"completion_tokens":1}}'
    body = "".join(line + end * 2 for line in (token, usage, "data: [DONE]")).encode()
    for size in (1, 13, len(body)):
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        got = passed(lua, chunks, decision=STRIPS_AND_RENAMES)
        left = (token.replace("big", "small") + end * 2 + "data: [DONE]" + end * 2).encode()
        assert got.body.replace(b"\n", b"") == left.replace(b"\n", b"")
        assert got.usage == {"output": 1, "events": 1}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (['data: {"choices":', 'data: [],"usage":{"completion_tokens":1}}'], []),
        (['data: {"choices":[], "usage":{"completion_tokens":1}}', "data: [DONE]"], [1]),
        (["id: 1", 'data:{"choices":[],"error":null,"usage":{"completion_tokens":1}}'], []),
        (['data: {"choices":[],"error":{"m":1},"usage":{"completion_tokens":1}}'], [0]),
        (['data: {"choices":[],"usage":null}'], [0]),
    ],
)
def test_usage_in_odd_framings_is_taken_out_and_nothing_else(
    lua: LuaFilter, end: str, lines: list[str], left: list[int]
) -> None:
    event = end.join((*lines, "", "")).encode()
    wanted = "".join(lines[number] + end for number in left)
    wanted = wanted + end if wanted else ""
    got = passed(lua, [event], decision={"strip_usage": True})
    reader = ResponseReader(SSE, rename=None, strip_usage=True)
    assert got.body.decode() == reader.feed(event, end=True).decode() == wanted


def test_a_long_event_that_dribbles_in(lua: LuaFilter) -> None:
    told: Mapping[str, object] = {
        "choices": [],
        "text": "x" * 900_000,
        "usage": {"prompt_tokens": 3},
    }
    body = b"data: " + json.dumps(told).encode() + b"\n\n"
    chunks = [body[at : at + 1_000] for at in range(0, len(body), 1_000)]
    assert passed(lua, chunks).usage["input"] == 3
