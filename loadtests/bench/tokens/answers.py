"""What is asked for, and the answers: events as engines send them, a chat's of about 300 bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import orjson

from loadtests.bench.prompts import MODEL

ALIAS: Final = "a-name-of-clients"
ORDER_HEADER: Final = b"x-bench-order"
_WORDS: Final = (" token", " a", " gateway", "\n\n", ' "so"', " é", " because", ",", " x")
_ID: Final = "chatcmpl-0123456789abcdef0123456789abcdef"
_CHUNK: Final = {
    "id": _ID,
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "service_tier": None,
    "system_fingerprint": "vllm-0.32.0-tp2-0123abcd",
}
_ITEM: Final = {"item_id": "msg_" + 16 * "0123", "output_index": 0, "content_index": 0}


class Api(StrEnum):
    """By its path."""

    CHAT = "/v1/chat/completions"
    MESSAGES = "/v1/messages"
    RESPONSES = "/v1/responses"


@dataclass(frozen=True, slots=True)
class Order:
    """An answer that is asked for: so many tokens, one every ``pace_ms``; with pace 0 one whole
    answer of so many bytes."""

    api: Api
    pace_ms: int
    size: int
    model: str = MODEL
    asks_usage: bool = True

    def request(self, number: int) -> bytes:
        """An HTTP/1.1 request; no two numbers have the same prompt."""
        turns = [{"role": "user", "content": f"{number:032x} please explain how a cache works"}]
        streams = self.pace_ms > 0
        body: dict[str, object] = {"model": self.model, "stream": streams}
        if self.api is Api.RESPONSES:
            body |= {"input": turns, "max_output_tokens": 1_000}
        else:
            body |= {"messages": turns, "max_tokens": 1_000}
        if self.api is Api.CHAT and streams and self.asks_usage:
            body["stream_options"] = {"include_usage": True}
        text = orjson.dumps(body)
        head = (
            f"POST {self.api} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            f"{ORDER_HEADER.decode()}: {self.pace_ms} {self.size}\r\n"
            f"content-length: {len(text)}\r\n\r\n"
        )
        return head.encode() + text


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream in HTTP/1.1 chunks: what opens it, tokens that come in turn, what ends it."""

    opening: bytes
    tokens: tuple[bytes, ...]
    end: bytes


def whole(size_bytes: int) -> bytes:
    """A chat's answer of about so many bytes, its usage last."""
    message = {"role": "assistant", "content": "x" * max(0, size_bytes - 350)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    return orjson.dumps(
        {**_CHUNK, "model": MODEL, "choices": [choice], "usage": _usage("prompt", "completion")}
    )


def stream(api: Api, *, with_usage: bool) -> Stream:
    """Of that API. ``with_usage``: a chat ends with its usage; the others always do."""
    if api is Api.MESSAGES:
        return _messages()
    return _responses() if api is Api.RESPONSES else _chat(with_usage=with_usage)


def _chat(*, with_usage: bool) -> Stream:
    def chunk(**delta: str) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        choices = [{**choice, "token_ids": None}]
        return _event("", {**_CHUNK, "model": MODEL, "choices": choices})

    usage = {**_CHUNK, "model": MODEL, "choices": [], "usage": _usage("prompt", "completion")}
    end = (_event("", usage) if with_usage else b"") + _chunked(b"data: [DONE]\n\n")
    tokens = tuple(chunk(content=word) for word in _WORDS)
    return Stream(chunk(role="assistant", content=""), tokens, end)


def _messages() -> Stream:
    def event(kind: str, **fields: object) -> bytes:
        return _event(kind, {"type": kind, **fields})

    message = {"id": _ID, "role": "assistant", "model": MODEL, "usage": _usage("input", "output")}
    tokens = tuple(
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
        for word in _WORDS
    )
    end = event("message_delta", delta={}, usage=_usage("input", "output"))
    return Stream(event("message_start", message=message), tokens, end + event("message_stop"))


def _responses() -> Stream:
    def event(kind: str, **fields: object) -> bytes:
        return _event(kind, {"type": kind, "sequence_number": 7, **fields})

    about = {"id": "resp_" + 8 * "0123", "model": MODEL, "output": []}
    kind = "response.output_text.delta"
    tokens = tuple(event(kind, **_ITEM, delta=word, logprobs=[]) for word in _WORDS)
    end = event("response.completed", response={**about, "usage": _usage("input", "output")})
    return Stream(event("response.created", response={**about, "usage": None}), tokens, end)


def _usage(first: str, second: str) -> dict[str, int]:
    return {f"{first}_tokens": 20, f"{second}_tokens": 100}


def _event(name: str, document: object) -> bytes:
    named = f"event: {name}\n".encode() if name else b""
    return _chunked(named + b"data: " + orjson.dumps(document) + b"\n\n")


def _chunked(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)
