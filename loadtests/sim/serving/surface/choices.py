"""Answers as OpenAI's choices: what chat completions and completions have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from aiohttp import web

from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.generation import (
    Choice,
    Generation,
    Sampling,
    choices_wanted,
)
from loadtests.sim.serving.surface.reply import json_reply
from loadtests.sim.serving.tokens import Tokens

_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ChoiceFormat:
    """What differs between the two. Strings are pieces of a chunk's JSON."""

    id_prefix: str
    whole: str
    """``object`` of a whole answer."""
    chunk: str
    """``object`` of a chunk."""
    text_start: str
    """What stands between a choice's index and the text of its token."""
    text_end: str
    unfinished: str
    """What follows ``"finish_reason":null``."""
    choice_end: str
    """The end of the choices in every chunk."""
    no_usage: str
    """Stands in the usage's place, in a stream that does not report usage in every chunk."""
    said: Callable[[str], Mapping[str, object]]
    """The fields of a whole choice that hold its text."""
    first_chunk: str = ""
    """What follows a choice's index in a chunk before the first token; "": there is no such
    chunk."""
    first_chunk_end: str = ""
    choice_fields: Mapping[str, object] = field(default_factory=dict)
    """More fields of a whole choice."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """More fields of a whole answer, behind its usage."""


async def answer(
    replica: SimulatedReplica,
    request: web.BaseRequest,
    body: Body,
    prompts: Sequence[Tokens],
    max_tokens: int | None,
    form: ChoiceFormat,
) -> web.StreamResponse:
    """Generate and reply, streamed or whole. Raises ApiError."""
    sampling = Sampling.read(body, max_tokens, choices=choices_wanted(body))
    if body.get("stream_options") is not None and not body.flag("stream"):
        raise ApiError(
            "Stream options can only be defined when `stream=True`.", param="stream_options"
        )
    options = body.part("stream_options")
    usage = options.flag("include_usage")
    usage_so_far = options.flag("continuous_usage_stats") and usage
    generation = Generation(replica, request, body, prompts, sampling, prefix=form.id_prefix)
    if body.flag("stream"):
        stream = _ChoiceStream(generation, form, usage=usage, usage_so_far=usage_so_far)
        return await generation.stream(request, stream)
    await generation.run()
    return json_reply(_whole(generation, form), request)


def _identity(generation: Generation, kind: str) -> dict[str, object]:
    return {
        "id": generation.request_id,
        "object": kind,
        "created": generation.created_s,
        "model": generation.model,
    }


class _ChoiceStream:
    """Puts chunks together as text: they differ in little more than their token."""

    def __init__(
        self, generation: Generation, form: ChoiceFormat, *, usage: bool, usage_so_far: bool
    ) -> None:
        self._generation, self._form = generation, form
        self._usage, self._usage_so_far = usage, usage_so_far
        identity = orjson.dumps(_identity(generation, form.chunk)).decode()
        self._opening = f"data: {identity[:-1]},"

    def head(self) -> bytes:
        form = self._form
        if not form.first_chunk:
            return b""
        chunks = (
            f"{self._start(choice)}{form.first_chunk}{self._usage_now()}{form.first_chunk_end}\n\n"
            for choice in self._generation.choices
        )
        return "".join(chunks).encode()

    def tokens(self, choice: Choice, first: int, last: int) -> bytes:
        form, plan = self._form, choice.plan
        start = self._start(choice) + form.text_start
        end = f"{form.choice_end}{self._usage_now()}}}\n\n"
        reason = f'{form.text_end},"logprobs":null,"finish_reason":'
        unfinished = f"{reason}null{form.unfinished}{end}"
        ends = choice.ends(last)
        chunks = [start + plan.piece(i, i + 1) + unfinished for i in range(first, last - ends)]
        if ends:
            answer = choice.answer
            text = plan.piece(max(first, last - 1), last)
            stop_reason = orjson.dumps(answer.stop_reason).decode()
            chunks.append(
                f'{start}{text}{reason}"{answer.finish_reason}","stop_reason":{stop_reason}{end}'
            )
        return "".join(chunks).encode()

    def tail(self) -> bytes:
        if not self._usage:
            return _DONE
        usage = orjson.dumps(self._generation.usage().openai()).decode()
        return f'{self._opening}"choices":[],"usage":{usage}}}\n\n'.encode() + _DONE

    def _start(self, choice: Choice) -> str:
        return f'{self._opening}"choices":[{{"index":{choice.index},'

    def _usage_now(self) -> str:
        if not self._usage_so_far:
            return self._form.no_usage
        return f',"usage":{orjson.dumps(self._generation.usage().so_far()).decode()}'


def _whole(generation: Generation, form: ChoiceFormat) -> dict[str, object]:
    return {
        **_identity(generation, form.whole),
        "choices": [
            {
                "index": choice.index,
                **form.said(choice.answer.text),
                "logprobs": None,
                "finish_reason": choice.answer.finish_reason,
                "stop_reason": choice.answer.stop_reason,
                "token_ids": None,
                **form.choice_fields,
            }
            for choice in generation.choices
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": generation.usage().openai(),
        **form.fields,
    }
