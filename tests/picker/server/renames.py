"""Answers and streams in which a model's name stands in places that change and in others that do
not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

SERVED: Final = 'org/ba"se-é'
ASKED: Final = "al%ias\\1 ü"
_HERE: Final = "<<>>"
"""Where the name has to change."""
_NAME: Final = orjson.dumps(SERVED).decode()


@dataclass(frozen=True, slots=True)
class Case:
    """A body as a replica sends it, and as the client is to get it."""

    name: str
    template: str
    """``<<>>`` stands for a name that changes, NAME for one that does not."""
    written: str = _NAME
    """How the replica writes the name."""

    @property
    def streamed(self) -> bool:
        """Server-sent events."""
        return "data:" in self.template

    @property
    def given(self) -> bytes:
        """What the replica sends."""
        return self._filled(self.written)

    @property
    def wanted(self) -> bytes:
        """What the client gets."""
        return self._filled(orjson.dumps(ASKED).decode())

    def _filled(self, name: str) -> bytes:
        return self.template.replace(_HERE, name).replace("NAME", _NAME).encode()


def _lines(*events: str, end: str = "\n") -> str:
    return "".join(event.replace("\n", end) + end + end for event in events)


_CHUNK: Final = 'data: {"id":"c","model":<<>>,"choices":[{"delta":{"content":"é\\"model\\":"}}]}'
_RESPONSES: Final = _lines(
    'event: response.created\ndata: {"type":"response.created","response":{"id":"r",'
    '"metadata":{"model":NAME},"model":<<>>,"output":[]},"model_info":{"model":NAME}}',
    'event: response.output_text.delta\ndata: {"type":"x","delta":"\\"model\\":NAME"}'.replace(
        "NAME", '\\"base\\"'
    ),
    'event: response.completed\ndata: {"response":{"text":{"model":NAME},"model":<<>>}}',
)
_MESSAGES: Final = _lines(
    'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[],'
    '"model":<<>>,"usage":{"input_tokens":1}}}',
    'event: content_block_start\ndata: {"content_block":{"type":"tool_use","model":NAME}}',
    'event: message_delta\ndata: {"delta":{"message":{"model":NAME}},"usage":{}}',
)

CASES: Final = (
    Case("chat", '{"id":"c","model":<<>>,"choices":[{"message":{"content":"x"}}],"usage":{}}'),
    Case("behind metadata", '{"metadata":{"model":NAME},"model":<<>>,"x":{"model":NAME}}'),
    Case("nested in lists", '{"a":[{"model":NAME},[{"model":NAME}]],"model":<<>>}'),
    Case("not in response", '{"response":{"model":NAME},"message":{"model":NAME}}'),
    Case("spaces", '\n { "model"\t:\r\n <<>> , "model_name" : NAME }\n'),
    Case("repeated", '{"model":<<>>,"x":1,"model":<<>>}'),
    Case("the key in escapes", '{"m\\u006fd\\u0065l":<<>>,"x":"\\\\"}'),
    Case("the name in escapes", '{"model":<<>>}', '"org\\/\\u0062a\\u0022se-\\u00e9"'),
    Case("text that looks like it", '{"x":"{\\"model\\":\\"y","y\\\\":"\\\\","model":<<>>}'),
    Case("keys that look like it", '{"x\\"model":NAME,"amodel":NAME,"model ":NAME,"model":<<>>}'),
    Case("another name", '{"model":"org/base","x":NAME}'),
    Case("a longer name", '{"model":"org/base-and-more","x":{"model":NAME}}'),
    Case("no string", '{"model":[NAME],"x":{"model":NAME},"model":{"model":NAME},"model":null}'),
    Case("in a list", '[{"model":NAME}]'),
    Case("a document in each line", '{"model":<<>>}\n{"model":<<>>,"x":[]}\n'),
    Case("broken off", '{"id":"x","model":"org/ba'),
    Case("broken off in a nested text", '{"x":{"model":NAME,"y":"\\'),
    Case("no JSON", 'model "model": NAME'),
    Case("brackets that do not match", ']}{"a":]"model":NAME}{"model":<<>>}'),
    Case("chat in events", _lines(_CHUNK, _CHUNK, "data: [DONE]")),
    Case("events with CRLF", _lines(_CHUNK, ": \n" + _CHUNK, "data: [DONE]", end="\r\n")),
    Case("events with CR", _lines(_CHUNK, _CHUNK, "data: [DONE]", end="\r")),
    Case("Responses", _RESPONSES),
    Case("Responses with CRLF", _RESPONSES.replace("\n", "\r\n")),
    Case("Messages", _MESSAGES),
    Case("an event in two lines", 'data: {"x":{},"model":\ndata:<<>>,\ndata: "model":<<>>}\n\n'),
    Case(
        "no data", 'event: {"model":NAME}\n: {"model":NAME}\ndat: {"model":NAME}\ndata\ndata:\n\n'
    ),
    Case("data that is no JSON", _lines('data: "oh', _CHUNK, "data: {{[", _CHUNK)),
    Case("an event without its end", _lines(_CHUNK) + _CHUNK),
    Case("an event broken off", _lines(_CHUNK) + 'data: {"model":"org/'),
)


def cuts(body: bytes) -> list[list[bytes]]:
    """The body in two pieces, cut at every place, and in single bytes."""
    singles = [body[at : at + 1] for at in range(len(body))]
    return [[body[:at], body[at:]] for at in range(len(body) + 1)] + [singles]
