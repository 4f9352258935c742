"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API, as vLLM serves it."""

from collections.abc import Mapping
from dataclasses import replace

import orjson
from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.answers import PlannedAnswer
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.generation import (
    Choice,
    Generation,
    Sampling,
    find_model,
)
from loadtests.sim.serving.surface.reply import Reply
from loadtests.sim.serving.surface.structure import message_format
from loadtests.sim.serving.surface.tools import call_id, message_tools
from loadtests.sim.serving.tokens import Tokens


async def messages(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Answer a conversation, streamed or whole."""
    body = Body.parse(await request.read())
    max_tokens = body.integer("max_tokens", least=1)
    if max_tokens is None:
        raise ApiError("max_tokens: Field required", param="max_tokens")
    structure = message_tools(body) or message_format(body)
    sampling = Sampling.read(body, max_tokens, stop="stop_sequences", structure=structure)
    generation = Generation(replica, request, body, [_prompt(body)], sampling, prefix="chatcmpl")
    if body.flag("stream"):
        return await generation.stream(request, _MessageStream(generation))
    await generation.run()
    answer = generation.choices[0].answer
    return {
        **_message(generation),
        "content": [_content(generation, answer)],
        "stop_reason": _stop_reason(generation.choices[0]),
        "stop_sequence": answer.stop_reason,
        "usage": _final_usage(generation),
    }


async def count_tokens(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Length of a conversation in tokens."""
    body = Body.parse(await request.read())
    find_model(replica, body)
    counted = tokens.count(_prompt(body))
    return {
        "input_tokens": counted,
        "context_management": {"original_input_tokens": counted},
    }


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
        plan = self._generation.choices[0].plan
        content = _content(self._generation, replace(plan, text="{}" if plan.tool else ""))
        block = {"index": 0, "content_block": content}
        return _event("message_start", {"message": message}) + _event("content_block_start", block)

    def tokens(self, choice: Choice, first: int, last: int) -> bytes:
        answer = choice.answer
        pieces = (answer.piece_in_json(index, index + 1) for index in range(first, last))
        kind, key = ("input_json_delta", "partial_json") if answer.tool else ("text_delta", "text")
        return "".join(
            'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
            f'"delta":{{"type":"{kind}","{key}":"{piece}"}}}}\n\n'
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


def _content(generation: Generation, answer: PlannedAnswer) -> dict[str, object]:
    if not answer.tool:
        return {"type": "text", "text": answer.text}
    try:
        arguments = orjson.loads(answer.text)
    except orjson.JSONDecodeError:
        arguments = {}  # cut short
    name = call_id(generation.request_id, 0)
    return {"type": "tool_use", "id": f"toolu_{name}", "name": answer.tool, "input": arguments}


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
    if choice.answer.calls:
        return "tool_use"
    return "max_tokens" if choice.answer.finish_reason == "length" else "end_turn"
