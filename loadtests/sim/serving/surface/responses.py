"""POST /v1/responses: text only, nothing is stored."""

from collections.abc import Mapping
from dataclasses import replace

import orjson
from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.answers import PlannedAnswer
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.generation import Choice, Generation, Sampling
from loadtests.sim.serving.surface.reply import Reply
from loadtests.sim.serving.surface.structure import text_format
from loadtests.sim.serving.surface.tools import call_id, response_tools


async def responses(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Answer an input, as one response object or as its events."""
    body = Body.parse(await request.read())
    prompt = tokens.render_chat(_messages(body), body.get("tools"))
    structure = response_tools(body) or text_format(body)
    max_tokens = body.integer("max_output_tokens", least=1)
    sampling = Sampling.read(body, max_tokens, structure=structure)
    generation = Generation(replica, request, body, [prompt], sampling, prefix="resp")
    if body.flag("stream"):
        return await generation.stream(request, _ResponseStream(generation))
    await generation.run()
    return _response(generation, finished=True)


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
        self._plan = generation.choices[0].plan
        self._place: dict[str, object] = {
            "item_id": _item_id(generation, self._plan),
            "output_index": 0,
        }
        if not self._plan.tool:
            self._place["content_index"] = 0
        # Sequence number and delta are all that changes from one delta to the next.
        self._delta_place = orjson.dumps(self._place).decode()[1:]

    def head(self) -> bytes:
        response = _response(self._generation, finished=False)
        item = _item(self._generation, replace(self._plan, text=""), "in_progress")
        opening = (
            self._event("response.created", {"response": response})
            + self._event("response.in_progress", {"response": response})
            + self._event("response.output_item.added", {"output_index": 0, "item": item})
        )
        if self._plan.tool:
            return opening
        return opening + self._event(
            "response.content_part.added", self._place | {"part": _part("")}
        )

    def tokens(self, choice: Choice, first: int, last: int) -> bytes:
        chunks: list[str] = []
        kind = "response.output_text.delta"
        more = '"logprobs":[],'
        if self._plan.tool:
            kind, more = "response.function_call_arguments.delta", ""
        for index in range(first, last):
            text = choice.answer.piece_in_json(index, index + 1)
            if not text:
                continue
            chunks.append(
                f'event: {kind}\ndata: {{"type":"{kind}",'
                f'"sequence_number":{self._events},"delta":"{text}",{more}'
                f"{self._delta_place}\n\n"
            )
            self._events += 1
        return "".join(chunks).encode()

    def tail(self) -> bytes:
        answer = self._generation.choices[0].answer
        item = _item(self._generation, answer, "completed")
        if answer.tool:
            call = {"arguments": answer.text, "name": answer.tool}
            end = self._event("response.function_call_arguments.done", self._place | call)
        else:
            text = {"text": answer.text, "logprobs": []}
            end = self._event("response.output_text.done", self._place | text)
            end += self._event(
                "response.content_part.done", self._place | {"part": _part(answer.text)}
            )
        return (
            end
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


def _item_id(generation: Generation, answer: PlannedAnswer) -> str:
    return generation.request_id.replace("resp", "fc" if answer.tool else "msg", 1)


def _item(generation: Generation, answer: PlannedAnswer, status: str) -> dict[str, object]:
    identity = {"id": _item_id(generation, answer), "status": status}
    if answer.tool:
        return {
            **identity,
            "type": "function_call",
            "call_id": f"call_{call_id(generation.request_id, 0)}",
            "name": answer.tool,
            "arguments": answer.text,
        }
    return {
        **identity,
        "type": "message",
        "role": "assistant",
        "content": [] if status == "in_progress" else [_part(answer.text)],
    }


def _response(generation: Generation, *, finished: bool) -> dict[str, object]:
    answer = generation.choices[0].answer
    status, details, output, usage = "in_progress", None, [], None
    if finished:
        cut_short = answer.finish_reason == "length"
        status = "incomplete" if cut_short else "completed"
        details = {"reason": "max_output_tokens"} if cut_short else None
        output = [_item(generation, answer, "completed")]
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
