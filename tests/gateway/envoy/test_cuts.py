"""Streams cut at every byte, and broken off after every event: what is read of them, what is taken
out or renamed, and what they are charged for is right wherever a piece ends."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

import pytest

from tests.gateway.envoy.lua import LuaFilter
from tests.picker.server.streams import (
    CHAT,
    MESSAGES,
    RESPONSES,
    STREAMS,
    TEXT,
    chat,
    data,
    response,
    text,
)

KIND: Final = "text/event-stream"
SERVED, ASKED = b"llama", b"what-the-client-said"
BOTH: Final[Mapping[str, str | bool]] = {
    "id": "p0-1",
    "strip_usage": True,
    "served_model": '"llama"',
    "asked_model": '"what-the-client-said"',
}
STRIPS: Final[Mapping[str, str | bool]] = {"id": "p0-1", "strip_usage": True}
NOTHING: Final[Mapping[str, str | bool]] = {"id": "p0-1"}
CHAT_USAGE: Final = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
DONE: Final = b"data: [DONE]\n\n"
ONLY_USAGE: Final = data({"model": "llama", "choices": [], "usage": CHAT_USAGE})
RESPONSE: Final = {"model": "llama", "output": [], "usage": {"input_tokens": 9, "output_tokens": 7}}
ENDS: Final[Mapping[str, Sequence[tuple[bytes, int]]]] = {
    CHAT: ((ONLY_USAGE, 0), (DONE, 0)),
    TEXT: ((b": keep-alive\n\n", 0), (ONLY_USAGE, 0), (DONE, 0)),
    MESSAGES: (
        (data({"type": "ping"}, "ping"), 0),
        (data({"type": "message_delta", "usage": {"output_tokens": 7}}, "message_delta"), 0),
        (data({"type": "message_stop"}, "message_stop"), 0),
    ),
    RESPONSES: ((response("response.completed", response=RESPONSE), 0),),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A whole stream: its events, each with the tokens in it."""

    name: str
    events: Sequence[tuple[bytes, int]]
    usage: Mapping[str, int] | None

    def at(self, lines: bytes) -> list[tuple[bytes, int]]:
        """Its events with other ends of lines."""
        return [
            (event.replace(b"\r\n", b"\n").replace(b"\n", lines), tokens)
            for event, tokens in self.events
        ]


def _case(name: str, path: str, events: Sequence[tuple[bytes, int]]) -> Case:
    whole = (*events, *ENDS[path])
    return Case(name, whole, {"input": 9, "output": 7, "events": sum(n for _, n in whole)})


def _long_chat() -> list[tuple[bytes, int]]:
    words = ("a", "is", "gateway", "\\n\\n", 'say "usage":{}', "é", "")
    events = [(chat({"role": "assistant", "content": ""}), 0)]
    events += [(chat({"content": words[n * n % len(words)]}, usage=None), 1) for n in range(9)]
    return events


CASES: Final = (
    *(
        _case(one.name, one.path, one.events)
        for one in STREAMS
        if one.name not in ("chat whose engine fails", "chat of two choices")
    ),
    _case("chat with usage null in its chunks", CHAT, _long_chat()),
    Case(
        "usage beside the end",
        [(text("a", 0), 1), (ONLY_USAGE[:-1] + DONE, 0)],
        {"input": 9, "output": 7, "events": 1},
    ),
    Case("no usage", [(chat({"content": "a"}), 1), (b": ping\n\n", 0), (DONE, 0)], None),
)
CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def lua() -> LuaFilter:
    return LuaFilter()


def wanted(events: Sequence[tuple[bytes, int]], decision: Mapping[str, str | bool]) -> bytes:
    """What the client gets."""
    body = b""
    for event, _ in events:
        left = event
        if "strip_usage" in decision and b'"choices":[]' in event:
            _, done, _ = event.partition(b"data: [DONE]")
            left = event[event.index(done) :] if done else b""
        body += left
    if "asked_model" in decision:
        body = body.replace(b'"model":"' + SERVED, b'"model":"' + ASKED)
    return body


def passes(lua: LuaFilter, case: Case, pieces: list[bytes], whole: bytes, decision: object) -> None:
    """The pieces came out as they should, and were read right."""
    assert isinstance(decision, dict)
    got = lua.respond([piece for piece in pieces if piece], KIND, decision)
    assert b"".join(got) == whole, pieces
    usage = lua.noted[b"usage"]
    read = None if usage is None else {key.decode(): int(usage[key]) for key in usage}
    assert read == case.usage, pieces
    assert lua.events == sum(tokens for _, tokens in case.events), pieces


def tokens_by(events: Sequence[tuple[bytes, int]], size: int, lines: bytes) -> int:
    """Tokens in so many bytes of a stream. A carriage return ends a line, whatever follows."""
    ends = accumulate(len(event) for event, _ in events)
    early = 1 if lines == b"\r\n" else 0
    return sum(tokens for (_, tokens), end in zip(events, ends, strict=True) if end - early <= size)


@CASE
@pytest.mark.parametrize(
    ("decision", "lines"),
    [(NOTHING, b"\n"), (BOTH, b"\n"), (BOTH, b"\r\n")],
    ids=["read", "changed", "changed, CRLF"],
)
def test_cut_at_every_byte(
    lua: LuaFilter, case: Case, decision: Mapping[str, str | bool], lines: bytes
) -> None:
    events = case.at(lines)
    body, whole = b"".join(event for event, _ in events), wanted(events, decision)
    for cut in range(1, len(body)):
        passes(lua, case, [body[:cut], body[cut:]], whole, decision)
        assert lua.trail[0] == tokens_by(events, cut, lines), cut


@CASE
@pytest.mark.parametrize("decision", [NOTHING, STRIPS, BOTH], ids=["read", "stripped", "both"])
@pytest.mark.parametrize("lines", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_broken_off_anywhere(
    lua: LuaFilter, case: Case, decision: Mapping[str, str | bool], lines: bytes
) -> None:
    """After every byte, every event, every few events: it is charged for the tokens that passed."""
    events = case.at(lines)
    body, whole = b"".join(event for event, _ in events), wanted(events, decision)
    rng = random.Random(len(body))
    ends = list(accumulate((len(event) for event, _ in events), initial=0))
    some = sorted({0, len(body), *rng.sample(ends, len(ends) // 2)})
    for cuts in (range(len(body) + 1), ends, some):
        passes(lua, case, [body[a:b] for a, b in pairwise(cuts)], whole, decision)
        charged = lua.trail[: len(cuts) - 1]
        assert charged == [tokens_by(events, cut, lines) for cut in cuts[1:]]


@pytest.mark.parametrize("decision", [NOTHING, BOTH])
@pytest.mark.parametrize("seed", range(10))
def test_a_long_stream_is_charged_to_the_token_and_seldom_noted(
    lua: LuaFilter, seed: int, decision: Mapping[str, str | bool]
) -> None:
    rng = random.Random(seed)
    made = rng.choice((lambda word: chat({"content": word}), text))
    words = ["x" * rng.randint(0, 12) for _ in range(1000)]
    events = [made(word) for word in words]
    lua.respond(events, KIND, dict(decision))
    assert lua.trail[:1000] == list(range(1, 1001))
    assert lua.writes["progress"] < 50
    in_fives = [b"".join(events[at : at + 5]) for at in range(0, 1000, 5)]
    lua.respond(in_fives, KIND, dict(decision))
    assert lua.trail[:200] == list(range(5, 1001, 5))
