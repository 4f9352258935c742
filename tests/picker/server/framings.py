"""Streams in every framing that the format of event streams allows, with what is in them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

LINE_ENDS = ("\n", "\r\n", "\r")
Json = dict[str, object]


@dataclass(slots=True)
class Framed:
    """A stream as bytes, and the truth about it."""

    body: bytes = b""
    events: int = 0
    """With output."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    events_at_usage: int = 0
    failed: bool = False
    documents: list[Json] = field(default_factory=list)


def cut(body: bytes, rng: random.Random) -> list[bytes]:
    """In pieces of any size, at any place."""
    most = rng.choice((1, 3, 40, 400))
    pieces, at = [], 0
    while at < len(body):
        size = rng.randint(1, most)
        pieces.append(body[at : at + size])
        at += size
    return pieces


def framed(rng: random.Random) -> Framed:
    """A stream of some API, with comments, usage on the way, errors, and odd framings."""
    made = Framed()
    lines: list[str] = []
    mixed = rng.random() < 0.3
    end = rng.choice(LINE_ENDS)

    def line(text: str) -> None:
        lines.append(text + (rng.choice(LINE_ENDS[:2]) if mixed else end))

    count = rng.randint(0, 8)
    for number in range(count):
        _event(made, line, rng, last=number == count - 1)
        line("")
    if rng.random() < 0.7:
        line("data: [DONE]")
        line("")
    text = "".join(lines)
    if rng.random() < 0.2:
        while text.endswith(("\r", "\n")):
            text = text[:-1]
    made.body = (b"\xef\xbb\xbf" if rng.random() < 0.2 else b"") + text.encode()
    return made


def _event(made: Framed, line: object, rng: random.Random, *, last: bool) -> None:
    assert callable(line)
    name, document = _document(made, rng, last=last)
    made.documents.append(document)
    whole = rng.random() < 0.6
    text = json.dumps(document, indent=None if whole else 1, ensure_ascii=rng.random() < 0.5)
    data = [f"data:{rng.choice(('', ' '))}{part}" for part in text.split("\n")]
    if "usage" in document and rng.random() < 0.2 and whole:
        data.append("data: [DONE]")
    others = [f"event: {name}"] if name else []
    others += rng.sample(
        [": a comment", "id: 5", "retry: 10", "data_: no field"], rng.randint(0, 2)
    )
    for other in others if rng.random() < 0.7 else ():
        line(other)
        others = []
    for part in data:
        line(part)
    for other in others:
        line(other)


def _document(made: Framed, rng: random.Random, *, last: bool) -> tuple[str, Json]:
    usage: Json = {"prompt_tokens": 9, "completion_tokens": made.events + 5}
    content: Json = {
        "content": rng.choice(("a", 'say "usage":{"completion_tokens":1}', "é\n\n", ""))
    }
    match rng.randint(0, 9):
        case 0 | 1 | 2 | 3:
            made.events += 1
            return "", {"choices": [{"index": 0, "delta": content}], "usage": None, "error": None}
        case 4:
            made.events += 1
            kind = "content_block_delta"
            return kind, {"type": kind, "delta": {"type": "text_delta", "text": content["content"]}}
        case 5:
            return "ping", {"type": "ping"}
        case 6 if last or rng.random() < 0.5:
            made.input_tokens, made.output_tokens = 9, made.events + 5
            made.events_at_usage = made.events
            return "", {"choices": [], "usage": usage}
        case 7:
            made.input_tokens, made.output_tokens = 9, made.events + 5
            made.events_at_usage = made.events
            kind = "response.in_progress"
            told = {"input_tokens": 9, "output_tokens": made.events + 5}
            return kind, {"type": kind, "response": {"output": [content], "usage": told}}
        case 8 if last:
            made.failed = True
            return rng.choice(_ERRORS)
        case _:
            return "", {"choices": [{"delta": {"role": "assistant", "content": ""}}]}


_ERRORS: Sequence[tuple[str, Json]] = (
    ("", {"error": {"message": "boom", "code": 500}}),
    ("error", {"type": "error", "error": {"type": "overloaded_error"}}),
    ("response.failed", {"type": "response.failed", "response": {"error": {"code": "x"}}}),
    ("", {"object": "error", "message": "boom"}),
)
