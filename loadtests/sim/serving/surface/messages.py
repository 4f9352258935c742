"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API, as vLLM serves it."""

from collections.abc import Mapping

import orjson
from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.generation import (
    Choice,
    Generation,
    Sampling,
    find_model,
)
from loadtests.sim.serving.surface.reply import json_reply
from loadtests.sim.serving.tokens import Tokens


async def messages(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Answer a conversation, streamed or whole."""
    body = Body.parse(await request.read())
    max_tokens = body.integer("max_tokens", least=1)
    if max_tokens is None:
        raise ApiError("max_tokens: Field required", param="max_tokens")
    sampling = Sampling.read(body, max_tokens, stop="stop_sequences")
    generation = Generation(replica, request, body, [_prompt(body)], sampling, prefix="chatcmpl")
    if body.flag("stream"):
        return await generation.stream(request, _MessageStream(generation))
    await generation.run()
    answer = generation.choices[0].answer
    return json_reply(
        _message(generation)
        | {
            "content": [{"type": "text", "text": answer.text}],
            "stop_reason": _stop_reason(generation.choices[0]),
            "stop_sequence": answer.stop_reason,
            "usage": _final_usage(generation),
        },
        request,
    )


async def count_tokens(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Length of a conversation in tokens."""
    body = Body.parse(await request.read())
    find_model(replica, body)
    counted = tokens.count(_prompt(body))
    return json_reply(
        {
            "input_tokens": counted,
            "context_management": {"original_input_tokens": counted},
        },
        request,
    )


def _prompt(body: Body) -> Tokens:
    turns: list[Mapping[str, object]] = list(body.objects("messages"))
    system = body.get("system")
    if system:
        turns.insert(0, {"role": "system", "content": system})
    return tokens.render_chat(turns, body.get("tools"))


class _MessageStream:
    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def head(self) -> bytes:
        usage = self._generation.usage()
        message = _message(self._generation) | {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": usage.prompt_tokens, "output_tokens": 0},
        }
        block = {"index": 0, "content_block": {"type": "text", "text": ""}}
        return _event("message_start", {"message": message}) + _event("content_block_start", block)

    def tokens(self, choice: Choice, first: int, last: int) -> bytes:
        pieces = (choice.answer.piece(index, index + 1) for index in range(first, last))
        return "".join(
            'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
            f'"delta":{{"type":"text_delta","text":"{piece}"}}}}\n\n'
            for piece in pieces
            if piece
        ).encode()

    def tail(self) -> bytes:
        choice = self._generation.choices[0]
        delta = {"stop_reason": _stop_reason(choice), "stop_sequence": choice.answer.stop_reason}
        return (
            _event("content_block_stop", {"index": 0})
            + _event(
                "message_delta",
                {"delta": delta, "usage": _final_usage(self._generation)},
            )
            + _event("message_stop", {})
        )


def _event(kind: str, fields: Mapping[str, object]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def _final_usage(generation: Generation) -> dict[str, object]:
    # Only at the end, input_tokens leaves out the tokens that the cache has read or written.
    usage = generation.usage()
    cache_tokens = usage.cached_tokens + usage.created_cache_tokens
    return {
        "input_tokens": usage.prompt_tokens - cache_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_creation_input_tokens": usage.created_cache_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
    }


def _message(generation: Generation) -> dict[str, object]:
    return {
        "id": generation.request_id,
        "type": "message",
        "role": "assistant",
        "model": generation.model,
    }


def _stop_reason(choice: Choice) -> str | None:
    if choice.answer.finish_reason == "abort":
        return None
    if choice.answer.stop_reason is not None:
        return "stop_sequence"
    return "max_tokens" if choice.answer.finish_reason == "length" else "end_turn"
