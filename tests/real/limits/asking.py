"""One request in any of the four APIs, and what its client can tell of it afterwards."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import orjson

from loadtests.sim.serving import tokens

Json = dict[str, object]


class Api(enum.Enum):
    """By path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    MESSAGES = "/v1/messages"
    RESPONSES = "/v1/responses"


_INPUT: Final = (
    "prompt_tokens",
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
"""Anthropic leaves out of its input what the cache has read or written."""
_BOUND: Final = {Api.RESPONSES: "max_output_tokens"}


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for."""

    api: Api
    prompt: str | tuple[int, ...]
    """Token ids for completions only: the picker counts them exactly; text it estimates."""
    model: str = "m"
    max_tokens: int | None = None
    stream: bool = True
    include_usage: bool = False
    """Of chat and completions; the others always tell."""
    user: str = ""
    abort_after: int | None = None
    """The client leaves after this many tokens of the stream."""
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def prompt_tokens(self) -> int:
        """As the simulated engine counts them."""
        if not isinstance(self.prompt, str):
            return len(self.prompt)
        if self.api is Api.COMPLETIONS:
            return tokens.count(tokens.encode(self.prompt))
        return tokens.count(tokens.render_chat([{"role": "user", "content": self.prompt}]))

    def body(self) -> Json:
        """The request's JSON."""
        body: Json = {"model": self.model, "stream": self.stream, **self.extra}
        if self.api is Api.COMPLETIONS:
            body["prompt"] = self.prompt
        elif self.api is Api.RESPONSES:
            body["input"] = self.prompt
        else:
            body["messages"] = [{"role": "user", "content": self.prompt}]
        if self.max_tokens is not None:
            body[_BOUND.get(self.api, "max_tokens")] = self.max_tokens
        if self.include_usage and self.stream:
            body["stream_options"] = {"include_usage": True}
        if self.user:
            if self.api is Api.MESSAGES:
                body["metadata"] = {"user_id": self.user}
            else:
                body["user"] = self.user
        return body


@dataclass(slots=True)
class Outcome:
    """What came of it. Instants of the wall clock, s."""

    ask: Ask
    request_id: str
    started_s: float
    granted_s: float = 0.0
    """The answer's headers were there."""
    ended_s: float = 0.0
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Json = field(default_factory=dict)
    """Body of an answer that is not 200."""
    input_tokens: int | None = None
    """As the engine told the client."""
    output_tokens: int | None = None
    shown_tokens: int = 0
    """In the events of the stream."""
    whole: bool = False
    """The answer came to its end."""
    left: bool = False
    """The client left before that."""

    @property
    def produced_tokens(self) -> int:
        """Output of a whole answer, told or else counted."""
        return self.shown_tokens if self.output_tokens is None else self.output_tokens


async def send(
    session: aiohttp.ClientSession, ask: Ask, key: str = "", *, request_id: str = ""
) -> Outcome:
    """Ask, and read the answer as far as the client wants it. What breaks off is told in the
    outcome."""
    headers = {"content-type": "application/json"}
    if request_id:
        headers["x-request-id"] = request_id
    if key:
        headers["authorization"] = f"Bearer {key}"
    outcome = Outcome(ask, request_id, time.time())
    data = orjson.dumps(ask.body())
    try:
        async with session.post(ask.api.value, data=data, headers=headers) as answer:
            outcome.granted_s = time.time()
            outcome.status, outcome.headers = (
                answer.status,
                {name.lower(): value for name, value in answer.headers.items()},
            )
            if answer.status != 200:
                outcome.error = _object(await answer.read())
            elif ask.stream:
                await _read_stream(answer, outcome)
            else:
                _take_usage(_object(await answer.read()), outcome)
                outcome.whole = True
    except aiohttp.ClientError:
        pass  # neither whole nor left
    outcome.ended_s = time.time()
    return outcome


async def _read_stream(answer: aiohttp.ClientResponse, outcome: Outcome) -> None:
    ends = {Api.MESSAGES: b'{"type":"message_stop"', Api.RESPONSES: b'{"type":"response.completed"'}
    end = ends.get(outcome.ask.api, b"[DONE]")
    async for line in answer.content:
        if not line.startswith(b"data: "):
            continue
        data = line[6:]
        if data.startswith(end):
            outcome.whole = True
        if data.startswith(b"{"):
            _take_event(_object(data), outcome)
        if outcome.shown_tokens == outcome.ask.abort_after:
            outcome.left, outcome.whole = True, False
            answer.close()
            return


def _take_event(event: Json, outcome: Outcome) -> None:
    kind, choices = str(event.get("type", "")), event.get("choices")
    if isinstance(choices, list) and choices:
        outcome.shown_tokens += "role" not in choices[0].get("delta", {})
    elif kind in ("content_block_delta", "response.output_text.delta"):
        outcome.shown_tokens += 1
    response = event.get("response")
    if kind == "message_start":
        return  # its output is none yet
    _take_usage(response if isinstance(response, dict) else event, outcome)


def _take_usage(document: Mapping[str, object], outcome: Outcome) -> None:
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return
    outcome.input_tokens = sum(usage.get(part) or 0 for part in _INPUT)
    outcome.output_tokens = usage.get("completion_tokens", usage.get("output_tokens"))


def _object(text: bytes) -> Json:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"text": text.decode(errors="replace")}
    return found if isinstance(found, dict) else {"text": found}
