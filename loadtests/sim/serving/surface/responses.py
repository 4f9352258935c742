"""POST /v1/responses: text only, nothing is stored."""

from collections.abc import Mapping

import orjson
from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.generation import Choice, Generation, Sampling
from loadtests.sim.serving.surface.reply import json_reply


async def responses(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Answer an input, as one response object or as its events."""
    body = Body.parse(await request.read())
    prompt = tokens.render_chat(_messages(body), body.get("tools"))
    sampling = Sampling.read(body, body.integer("max_output_tokens", least=1))
    generation = Generation(replica, request, body, [prompt], sampling, prefix="resp")
    if body.flag("stream"):
        return await generation.stream(request, _ResponseStream(generation))
    await generation.run()
    return json_reply(_response(generation, finished=True), request)


def _messages(body: Body) -> list[Mapping[str, object]]:
    messages: list[Mapping[str, object]] = []
    instructions = body.text("instructions")
    if instructions:
        messages.append({"role": "system", "content": instructions})
    value = body.need("input")
    if isinstance(value, str):
        return [*messages, {"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise ApiError("input: Input should be a string or a list of items", param="input")
    for item in value:
        if not isinstance(item, dict):
            raise ApiError("input: Each item should be an object", param="input")
        if "role" in item:
            messages.append(item)
        else:
            messages.append({"role": str(item.get("type")), "content": item})
    return messages


class _ResponseStream:
    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._events = 0
        self._item_id = generation.request_id.replace("resp", "msg", 1)
        self._place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        # Sequence number and delta are all that changes from one delta to the next.
        self._delta_place = orjson.dumps(self._place).decode()[1:]

    def head(self) -> bytes:
        response = _response(self._generation, finished=False)
        item = _item(self._item_id, None, "in_progress")
        return (
            self._event("response.created", {"response": response})
            + self._event("response.in_progress", {"response": response})
            + self._event("response.output_item.added", {"output_index": 0, "item": item})
            + self._event("response.content_part.added", self._place | {"part": _part("")})
        )

    def tokens(self, choice: Choice, first: int, last: int) -> bytes:
        chunks: list[str] = []
        for index in range(first, last):
            text = choice.answer.piece(index, index + 1)
            if not text:
                continue
            chunks.append(
                'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
                f'"sequence_number":{self._events},"delta":"{text}","logprobs":[],'
                f"{self._delta_place}\n\n"
            )
            self._events += 1
        return "".join(chunks).encode()

    def tail(self) -> bytes:
        text = self._generation.choices[0].answer.text
        item = _item(self._item_id, text, "completed")
        return (
            self._event("response.output_text.done", self._place | {"text": text, "logprobs": []})
            + self._event("response.content_part.done", self._place | {"part": _part(text)})
            + self._event("response.output_item.done", {"output_index": 0, "item": item})
            + self._event(
                "response.completed", {"response": _response(self._generation, finished=True)}
            )
        )

    def _event(self, kind: str, fields: Mapping[str, object]) -> bytes:
        data = orjson.dumps({"type": kind, "sequence_number": self._events, **fields})
        self._events += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)


def _part(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(item_id: str, text: str | None, status: str) -> dict[str, object]:
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [] if text is None else [_part(text)],
    }


def _response(generation: Generation, *, finished: bool) -> dict[str, object]:
    answer = generation.choices[0].answer
    status, details, output, usage = "in_progress", None, [], None
    if finished:
        cut_short = answer.finish_reason == "length"
        status = "incomplete" if cut_short else "completed"
        details = {"reason": "max_output_tokens"} if cut_short else None
        item_id = generation.request_id.replace("resp", "msg", 1)
        output = [_item(item_id, answer.text, "completed")]
        tokens_used = generation.usage()
        usage = {
            "input_tokens": tokens_used.prompt_tokens,
            "input_tokens_details": {"cached_tokens": tokens_used.cached_tokens},
            "output_tokens": tokens_used.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens_used.prompt_tokens + tokens_used.completion_tokens,
        }
    return {
        "id": generation.request_id,
        "object": "response",
        "created_at": generation.created_s,
        "model": generation.model,
        "status": status,
        "incomplete_details": details,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }
