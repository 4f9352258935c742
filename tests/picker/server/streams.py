"""Streams as engines send them, and which of their events carry a token of output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"
MESSAGES: Final = "/v1/messages"
RESPONSES: Final = "/v1/responses"


@dataclass(frozen=True, slots=True)
class Stream:
    """``events``: each with the tokens that are in it. None is the last of its stream."""

    name: str
    path: str
    events: tuple[tuple[bytes, int], ...]

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(event for event, _ in self.events)

    @property
    def tokens(self) -> int:
        """In all of it."""
        return sum(tokens for _, tokens in self.events)


def data(document: object, event: str = "") -> bytes:
    """An event."""
    named = f"event: {event}\n".encode() if event else b""
    return named + b"data: " + orjson.dumps(document) + b"\n\n"


def chat(delta: object, index: int = 0, finish: str | None = None, **more: object) -> bytes:
    """A chunk of a chat as vLLM sends it."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    if finish is not None:
        choice["stop_reason"] = None
    return data({**_CHUNK, "choices": [{**choice, "token_ids": None}], **more})


def text(piece: str, index: int = 0, finish: str | None = None, **choice: object) -> bytes:
    """A chunk of a completion as vLLM sends it."""
    whole = {"index": index, "text": piece, "logprobs": None, "finish_reason": finish, **choice}
    return data({**_CHUNK, "object": "text_completion", "choices": [whole]})


def block(delta: dict[str, object], index: int = 0) -> bytes:
    """Anthropic's content."""
    kind = "content_block_delta"
    return data({"type": kind, "index": index, "delta": delta}, kind)


def response(kind: str, **fields: object) -> bytes:
    """An event of the Responses API."""
    return data({"type": kind, "sequence_number": 0, **fields}, kind)


_CHUNK: Final = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1767225600,
    "model": "llama",
}
_OPENING: Final = {"role": "assistant", "content": ""}
_MESSAGE: Final[dict[str, object]] = {
    "id": "chatcmpl-1",
    "type": "message",
    "role": "assistant",
    "content": [],
    "model": "llama",
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 0},
}
_CALL: Final = {
    "id": "call_1",
    "type": "function",
    "index": 0,
    "function": {"name": "look", "arguments": ""},
}
_ERROR: Final = {"message": "the engine is dead", "type": "InternalServerError", "code": 500}

STREAMS: Final = (
    Stream(
        "chat",
        CHAT,
        (
            (chat(_OPENING, prompt_token_ids=None), 0),
            (chat({"content": "He"}), 1),
            (chat({"content": ""}), 1),  # half of a character
            (chat({"content": '"delta":{"role":"user"}, "choices":[], "error'}), 1),
            (chat({"content": "data: [DONE]\n\ndata: {}"}), 1),
            (chat({"content": ""}, finish="stop"), 1),  # the end-of-sequence token
        ),
    ),
    Stream(
        "chat that reasons and calls a tool",
        CHAT,
        (
            (chat(_OPENING), 0),
            (chat({"reasoning": "Hm"}), 1),
            (chat({"reasoning_content": "m."}), 1),
            (chat({"tool_calls": [_CALL]}), 1),
            (chat({"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]}), 1),
            (chat({}, finish="tool_calls"), 1),
        ),
    ),
    Stream(
        "chat of two choices",
        CHAT,
        (
            (chat(_OPENING), 0),
            (chat(_OPENING, 1), 0),
            (chat({"content": "a"}, usage={"prompt_tokens": 9, "completion_tokens": 1}), 1),
            (chat({"content": "b"}, 1, usage={"prompt_tokens": 9, "completion_tokens": 1}), 1),
            (chat({"content": "c"}, usage={"prompt_tokens": 9, "completion_tokens": 2}), 1),
            (chat({"content": "d"}, 1, usage={"prompt_tokens": 9, "completion_tokens": 2}), 1),
        ),
    ),
    Stream(
        "chat with the role in each chunk",
        CHAT,
        (
            (chat({"role": "assistant", "content": "Hi", "tool_calls": None}), 1),
            (chat({"content": "{", "role": "assistant"}), 1),
            (chat({"role": None, "content": "", "reasoning_content": None}), 1),
        ),
    ),
    Stream(
        "other engines open a chat",
        CHAT,
        (
            (b": OPENROUTER PROCESSING\n\n", 0),
            (chat({"role": "assistant", "content": None}), 0),
            (chat({"content": "", "role": "assistant", "refusal": None, "tool_calls": []}), 0),
            (b'data:{"choices" : [ {"delta" : {"role" : "assistant"}} ]}\r\n\r\n', 0),
            (b'data:{"choices" : [ {"delta" : {"content" : "a"}} ]}\r\n\r\n', 1),
            (b'data: {"choices":[{"delta":{"content":"b"},"token_ids":[1]}]}\n\n', 1),
        ),
    ),
    Stream(
        "chat whose engine fails",
        CHAT,
        (
            (chat(_OPENING), 0),
            (chat({"content": "a"}), 1),
            (data({"error": _ERROR}), 0),
            (b"data: [DONE]\n\n", 0),
        ),
    ),
    Stream(
        "completion",
        TEXT,
        (
            (text("Once", stop_reason=None, prompt_token_ids=None, token_ids=None), 1),
            (text(""), 1),
            (text(" upon", 1), 1),
            (text(" a ti", token_ids=[5, 6, 7]), 1),
            (text("me", finish="length"), 1),
        ),
    ),
    Stream(
        "messages",
        MESSAGES,
        (
            (data({"type": "message_start", "message": _MESSAGE}, "message_start"), 0),
            (data({"type": "ping"}, "ping"), 0),
            (data({"type": "content_block_start", "index": 0}, "content_block_start"), 0),
            (block({"type": "thinking_delta", "thinking": "Hm"}), 1),
            (block({"type": "signature_delta", "signature": "c2ln"}), 0),
            (data({"type": "content_block_stop", "index": 0}, "content_block_stop"), 0),
            (block({"type": "text_delta", "text": "signature_delta"}, 1), 1),
            (block({"type": "input_json_delta", "partial_json": '{"a'}, 2), 1),
        ),
    ),
    Stream(
        "responses",
        RESPONSES,
        (
            (response("response.created", response={"usage": None, "output": []}), 0),
            (response("response.in_progress", response={"usage": None, "output": []}), 0),
            (response("response.output_item.added", item={"type": "reasoning"}), 0),
            (response("response.reasoning_text.delta", delta="Hm"), 1),
            (response("response.reasoning_text.done", text="Hm"), 0),
            (response("response.output_text.delta", delta="a", logprobs=[]), 1),
            (response("response.function_call_arguments.delta", delta='{"a'), 1),
            (response("response.output_text.done", text="a"), 0),
        ),
    ),
    Stream(
        "responses without names of events",
        RESPONSES,
        (
            (data({"type": "response.created", "response": {"usage": None}}), 0),
            (data({"type": "response.output_text.delta", "delta": "a"}), 1),
            (data({"type": "response.output_text.done", "text": "a"}), 0),
        ),
    ),
)
