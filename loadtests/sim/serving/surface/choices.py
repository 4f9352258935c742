"""Answers as OpenAI's choices: what chat completions and completions have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson
from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.answers import PlannedAnswer
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.structures import Structure
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.generation import (
    Choice,
    Generation,
    Sampling,
    choices_wanted,
)
from loadtests.sim.serving.surface.logprobs import LogprobsWanted
from loadtests.sim.serving.surface.reply import Reply
from loadtests.sim.serving.surface.tools import call_id
from loadtests.sim.serving.tokens import Tokens

_DONE = b"data: [DONE]\n\n"
_CALL_START = '"delta":{"tool_calls":[{"index":0,"function":{"arguments":"'
_CALL_END = '"}}]}'


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
    said: Callable[[PlannedAnswer, str], Mapping[str, object]]
    """The fields of a whole choice that hold its text, or its call with this id."""
    first_chunk: str = ""
    """What follows a choice's index in a chunk before the first token; "": there is no such
    chunk."""
    first_chunk_end: str = ""
    choice_fields: Mapping[str, object] = field(default_factory=dict)
    """More fields of a whole choice."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """More fields of a whole answer, behind its usage."""
    chat: bool = False
    """Log probabilities have chat's form."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a request wants beside plain text."""

    tools: Structure | None = None
    logprobs: LogprobsWanted | None = None
    echo: bool = False
    """The prompt comes before the answer."""


async def answer(
    replica: SimulatedReplica,
    request: web.BaseRequest,
    body: Body,
    prompts: Sequence[Tokens],
    max_tokens: int | None,
    form: ChoiceFormat,
    extras: Extras,
) -> Reply:
    """Generate and reply, streamed or whole. Raises ApiError."""
    sampling = Sampling.read(body, max_tokens, choices=choices_wanted(body), structure=extras.tools)
    if body.get("stream_options") is not None and not body.flag("stream"):
        raise ApiError(
            "Stream options can only be defined when `stream=True`.", param="stream_options"
        )
    options = body.part("stream_options")
    usage = options.flag("include_usage")
    usage_so_far = options.flag("continuous_usage_stats") and usage
    generation = Generation(replica, request, body, prompts, sampling, prefix=form.id_prefix)
    if body.flag("stream"):
        stream = _ChoiceStream(generation, form, extras, usage=usage, usage_so_far=usage_so_far)
        return await generation.stream(request, stream)
    await generation.run()
    return _whole(generation, form, extras)


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
        self,
        generation: Generation,
        form: ChoiceFormat,
        extras: Extras,
        *,
        usage: bool,
        usage_so_far: bool,
    ) -> None:
        self._generation, self._form, self._extras = generation, form, extras
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
        opening = self._start(choice)
        start = opening + (_CALL_START if plan.tool else form.text_start)
        end = f"{form.choice_end}{self._usage_now()}}}\n\n"
        text_end = _CALL_END if plan.tool else form.text_end
        unfinished = f',"finish_reason":null{form.unfinished}{end}'
        ends = choice.ends(last)
        chunks = []
        if plan.tool and first == 0:
            chunks.append(f'{opening}{self._call(choice)},"logprobs":null{unfinished}')
        if not (plan.prescribed or self._extras.echo or self._extras.logprobs):
            rest = f'{text_end},"logprobs":null{unfinished}'
            chunks += [start + plan.piece(i, i + 1) + rest for i in range(first, last - ends)]
            first = max(first, last - ends)
        for index in range(first, last - ends):
            text = self._echo(choice, index) + plan.piece_in_json(index, index + 1)
            known = self._logprobs(choice, index, index + 1)
            chunks.append(f'{start}{text}{text_end},"logprobs":{known}{unfinished}')
        if ends:
            answer, at = choice.answer, max(first, last - 1)
            text = self._echo(choice, at) + plan.piece_in_json(at, last)
            known = self._logprobs(choice, at, last)
            stop_reason = orjson.dumps(answer.stop_reason).decode()
            chunks.append(
                f'{start}{text}{text_end},"logprobs":{known},"finish_reason":'
                f'"{_finish_reason(answer)}","stop_reason":{stop_reason}{end}'
            )
        return "".join(chunks).encode()

    def tail(self) -> bytes:
        if not self._usage:
            return _DONE
        usage = orjson.dumps(self._generation.usage().openai()).decode()
        return f'{self._opening}"choices":[],"usage":{usage}}}\n\n'.encode() + _DONE

    def _call(self, choice: Choice) -> str:
        """The delta that opens a call."""
        call = _call_of(choice.plan, _call_id(self._generation, choice))
        opened = {"index": 0, **call, "function": {"name": choice.plan.tool, "arguments": ""}}
        return f'"delta":{orjson.dumps({"tool_calls": [opened]}).decode()}'

    def _echo(self, choice: Choice, index: int) -> str:
        """What comes before a token: the prompt before the first one."""
        if index or not self._extras.echo:
            return ""
        return orjson.dumps(tokens.decode(choice.job.prompt)).decode()[1:-1]

    def _logprobs(self, choice: Choice, first: int, last: int) -> str:
        """Of some tokens, as JSON."""
        wanted = self._extras.logprobs
        if wanted is None:
            return "null"
        known = _known(wanted, self._form, self._extras, choice, choice.plan, first, last)
        return orjson.dumps(known).decode()

    def _start(self, choice: Choice) -> str:
        return f'{self._opening}"choices":[{{"index":{choice.index},'

    def _usage_now(self) -> str:
        if not self._usage_so_far:
            return self._form.no_usage
        return f',"usage":{orjson.dumps(self._generation.usage().so_far()).decode()}'


def _whole(generation: Generation, form: ChoiceFormat, extras: Extras) -> dict[str, object]:
    return {
        **_identity(generation, form.whole),
        "choices": [
            {
                "index": choice.index,
                **form.said(_shown(choice, extras), _call_id(generation, choice)),
                "logprobs": _all_logprobs(choice, form, extras),
                "finish_reason": _finish_reason(choice.answer),
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


def _shown(choice: Choice, extras: Extras) -> PlannedAnswer:
    """With the prompt in front where it is echoed."""
    if not extras.echo:
        return choice.answer
    return replace(choice.answer, text=tokens.decode(choice.job.prompt) + choice.answer.text)


def _finish_reason(answer: PlannedAnswer) -> str:
    """As vLLM: a call that the client demanded by name just stops."""
    return "tool_calls" if answer.calls and not answer.named else answer.finish_reason


def _call_id(generation: Generation, choice: Choice) -> str:
    return call_id(generation.request_id, choice.index)


def _call_of(answer: PlannedAnswer, name: str) -> dict[str, object]:
    function = {"name": answer.tool, "arguments": answer.text}
    return {"id": f"call_{name}", "type": "function", "function": function}


def calls_of(answer: PlannedAnswer, name: str) -> list[dict[str, object]]:
    """``tool_calls`` of a message."""
    return [_call_of(answer, name)] if answer.tool else []


def _all_logprobs(choice: Choice, form: ChoiceFormat, extras: Extras) -> object:
    if extras.logprobs is None:
        return None
    answer = choice.answer
    last = tokens.count(answer.tokens)
    return _known(extras.logprobs, form, extras, choice, answer, 0, last)


def _known(
    wanted: LogprobsWanted,
    form: ChoiceFormat,
    extras: Extras,
    choice: Choice,
    answer: PlannedAnswer,
    first: int,
    last: int,
) -> dict[str, object]:
    if form.chat:
        return wanted.chat(answer.tokens, first, last)
    prompt = choice.job.prompt if extras.echo else None
    before = len(tokens.decode(prompt)) if prompt is not None and first else 0
    before += len(answer.text[: first * tokens.TOKEN_BYTES])
    echoed = None if first else prompt
    return wanted.completions(answer.tokens, first, last, before, prompt=echoed)
