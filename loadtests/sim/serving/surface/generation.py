"""From a request to sequences in the engine, and from their progress to a response."""

import time
import uuid
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.answers import OutputLimits, PlannedAnswer, write_answer
from loadtests.sim.serving.faults import Stream
from loadtests.sim.serving.job import EngineJob
from loadtests.sim.serving.replica import SimulatedReplica, UnknownModelError
from loadtests.sim.serving.structures import Structure
from loadtests.sim.serving.surface.body import ApiError, Body, not_found
from loadtests.sim.serving.surface.structure import read_structure
from loadtests.sim.serving.tokens import Tokens

_MOST_CHOICES = 16384
"""vLLM's VLLM_MAX_N_SEQUENCES."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a request says about its output, whatever its prompt."""

    max_tokens: int | None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    seed: int = 0
    choices: int = 1
    structure: Structure | None = None
    """What the answer has to be like; None: as the model likes."""

    @classmethod
    def read(
        cls,
        body: Body,
        max_tokens: int | None,
        *,
        stop: str = "stop",
        choices: int = 1,
        structure: Structure | None = None,
    ) -> "Sampling":
        """The fields that all generating endpoints of vLLM share. Raises ApiError."""
        greedy = body.number("temperature", 1.0, least=0.0) == 0.0
        seed = body.integer("seed", least=-(2**63)) or 0
        return cls(
            max_tokens=max_tokens,
            structure=structure or read_structure(body),
            min_tokens=body.integer("min_tokens", least=0) or 0,
            ignore_eos=body.flag("ignore_eos"),
            stop=tuple(text for text in body.strings(stop) if text),
            seed=0 if greedy else seed,
            choices=choices,
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer while it is generated."""

    index: int
    job: EngineJob
    plan: PlannedAnswer
    """The answer, unless it is aborted."""

    @property
    def answer(self) -> PlannedAnswer:
        """The answer as far as it can still come."""
        job = self.job
        return self.plan.cut(job.generated_tokens) if job.aborted else self.plan

    def ends(self, tokens: int) -> bool:
        """Whether the answer ends after so many tokens, which are all that exist so far."""
        return tokens == self.job.answer_tokens or self.job.aborted


@dataclass(frozen=True, slots=True)
class GenerationUsage:
    """Tokens of a whole request; a prompt with several choices counts once."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    created_cache_tokens: int

    def so_far(self) -> dict[str, object]:
        """As a stream's chunks report it before the end."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def openai(self) -> dict[str, object]:
        """As chat completions and completions report it at the end."""
        details = {
            "cached_tokens": self.cached_tokens,
            "created_cache_tokens": self.created_cache_tokens,
        }
        return self.so_far() | {"prompt_tokens_details": details}


class StreamFormat(Protocol):
    """How an endpoint writes a stream; each method returns whole server-sent events."""

    def head(self) -> bytes:
        """Before the first token, at its time."""
        ...

    def tokens(self, choice: Choice, first: int, last: int) -> bytes:
        """Tokens first (inclusive) to last (exclusive) of a choice, and its end if it ends.

        There may be an end without tokens.
        """
        ...

    def tail(self) -> bytes:
        """After the end of the last choice."""
        ...


class Generation:
    """A request for which answers are generated."""

    def __init__(
        self,
        replica: SimulatedReplica,
        request: web.BaseRequest,
        body: Body,
        prompts: Ordered[Tokens],
        sampling: Sampling,
        *,
        prefix: str,
    ) -> None:
        """Checks the request; nothing runs yet. ``prefix``: of the request's id. Raises
        ApiError."""
        self.request_id = make_request_id(prefix, request)
        self._named = _header(request, "X-Request-Id")
        self.created_s = int(time.time())
        adapter, self.model = find_model(replica, body)
        cache_salt, session_id = body.text("cache_salt"), _session_id(request, body)
        self.choices: list[Choice] = []
        self._prompts = len(prompts)
        self._replica = replica
        for prompt in prompts:
            limits = _limits(sampling, tokens.count(prompt), replica.limits.max_model_len)
            for choice in range(sampling.choices):
                answer = write_answer(
                    prompt,
                    limits,
                    replica.settings.lengths,
                    seed=replica.settings.seed,
                    choice=choice,
                    structure=sampling.structure,
                )
                job = EngineJob(
                    prompt,
                    answer.tokens,
                    answer.finish_reason,
                    adapter=adapter,
                    adapter_path=replica.adapter_path(adapter),
                    cache_salt=cache_salt,
                    session_id=session_id,
                    max_tokens=sampling.max_tokens,
                )
                self.choices.append(Choice(len(self.choices), job, answer))

    def usage(self) -> GenerationUsage:
        """Tokens so far."""
        block_tokens = self._replica.limits.block_size_tokens
        firsts = [choice.job for choice in self.choices[:: len(self.choices) // self._prompts]]
        cached_tokens = sum(job.cached_tokens for job in firsts)
        full_tokens = sum(job.prompt_tokens // block_tokens * block_tokens for job in firsts)
        return GenerationUsage(
            prompt_tokens=sum(job.prompt_tokens for job in firsts),
            completion_tokens=sum(choice.job.generated_tokens for choice in self.choices),
            cached_tokens=cached_tokens,
            created_cache_tokens=full_tokens - cached_tokens,
        )

    async def run(self) -> None:
        """Run until all choices are finished; when cancelled, nothing stays in the engine."""
        try:
            await self._replica.engine.complete([choice.job for choice in self.choices])
        finally:
            self._note()

    async def stream(
        self, request: web.BaseRequest, stream_format: StreamFormat
    ) -> web.StreamResponse:
        """Send headers at once and tokens as they come; when the client leaves, the work ends.

        A client that reads slowly does not delay the engine: it gets the rest later.
        """
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8"} | echo_request_id(request)
        )
        submission = self._replica.engine.submit([choice.job for choice in self.choices])
        try:
            await response.prepare(request)
            sent = [0] * len(self.choices)
            unfinished = list(self.choices)
            stream = Stream()
            started = False
            while unfinished:
                await submission.progress()
                events = [] if started else [stream_format.head()]
                started = True
                fresh_tokens = 0
                for choice in tuple(unfinished):
                    first, last = sent[choice.index], choice.job.generated_tokens
                    over = choice.job.done
                    if last > first or over:
                        events.append(stream_format.tokens(choice, first, last))
                        sent[choice.index] = last
                        fresh_tokens += last - first
                    if over:
                        unfinished.remove(choice)
                if not unfinished:
                    events.append(stream_format.tail())
                await self._replica.faults.before_write(stream, fresh_tokens)
                await response.write(b"".join(events))
            await response.write_eof()
        finally:
            submission.abort()
            self._note()
        return response

    def _note(self) -> None:
        """For who compares: the client may have seen less than was generated."""
        jobs = [choice.job for choice in self.choices]
        self._replica.generated.note(self._named, self.usage().prompt_tokens, jobs)


def choices_wanted(body: Body) -> int:
    """Number of answers to each prompt. Raises ApiError."""
    return body.integer("n", least=1, most=_MOST_CHOICES) or 1


def find_model(replica: SimulatedReplica, body: Body) -> tuple[str | None, str]:
    """The adapter asked for, if any, and the model name for the reply. Raises ApiError."""
    model = body.text("model") or replica.base_model
    try:
        return replica.adapter_of(model), model
    except UnknownModelError as error:
        aliases = ", ".join(replica.settings.models)
        raise not_found(
            f"The model `{model}` does not exist. Valid aliases: {aliases}.", "model"
        ) from error


def _session_id(request: web.BaseRequest, body: Body) -> str | None:
    """The session's id, looked for where vLLM does, in this order."""
    extra = body.part("vllm_xargs").get("session_id")
    named = body.text("session_id") or _header(request, "X-Session-ID") or extra
    return named if isinstance(named, str) and named else None


def make_request_id(prefix: str, request: web.BaseRequest) -> str:
    """Prefix and the client's X-Request-Id, or a fresh one."""
    return f"{prefix}-{_header(request, 'X-Request-Id') or uuid.uuid4().hex}"


def echo_request_id(request: web.BaseRequest) -> dict[str, str]:
    """The client's X-Request-Id as a response header, if it sent one."""
    request_id = _header(request, "X-Request-Id")
    return {"X-Request-Id": request_id} if request_id else {}


def _header(request: web.BaseRequest, name: str) -> str:
    """A header as text that can be sent again; bytes that are not UTF-8 become U+FFFD."""
    return request.headers.get(name, "").encode(errors="surrogateescape").decode(errors="replace")


def check_prompt(prompt_tokens: int, max_model_tokens: int) -> None:
    """Raises ApiError for a prompt that leaves no room for a token of output."""
    if prompt_tokens >= max_model_tokens:
        raise ApiError(
            f"This model's maximum context length is {max_model_tokens} tokens. However, your "
            f"request has {prompt_tokens} input tokens. Please reduce the length of the input "
            "messages.",
            param="input_tokens",
        )


def _limits(sampling: Sampling, prompt_tokens: int, max_model_tokens: int) -> OutputLimits:
    check_prompt(prompt_tokens, max_model_tokens)
    room = max_model_tokens - prompt_tokens
    max_tokens = room if sampling.max_tokens is None else sampling.max_tokens
    if max_tokens > room:
        raise ApiError(
            f"'max_tokens' or 'max_completion_tokens' is too large: {max_tokens}. This model's "
            f"maximum context length is {max_model_tokens} tokens and your request has "
            f"{prompt_tokens} input tokens ({max_tokens} > {max_model_tokens} - {prompt_tokens}).",
            param="max_tokens",
        )
    if sampling.min_tokens > max_tokens:
        raise ApiError(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, "
            f"got {sampling.min_tokens}.",
            param="min_tokens",
        )
    return OutputLimits(
        max_tokens, sampling.min_tokens, sampling.ignore_eos, sampling.stop, sampling.seed
    )
