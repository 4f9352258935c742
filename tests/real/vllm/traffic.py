"""Requests as clients send them, in every shape that vLLM serves, and what a client sees of each.

Answers are read raw, without a client library: what counts here is what is on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import aiohttp

from tests.real.vllm.model import VOCABULARY_TOKENS, sentence

Json: TypeAlias = dict[str, object]

CHAT: Final = "/v1/chat/completions"

_FIRST_ORDINARY_TOKEN = 3
_SHARED_PREFIX_WORDS = (40, 40, 150, 400, 900)
"""Prompts begin with one of these shared texts, or with none."""
_OWN_WORDS = (1, 2, 5, 20, 60, 200)
_OUTPUT_TOKENS = (1, 2, 3, 8, 20, 50)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to make."""

    id: str
    """Its x-request-id."""
    path: str
    body: bytes
    asks_for_usage: bool = True
    """False: a stream of a path where usage must be asked for, and was not."""

    @classmethod
    def of(cls, request_id: str, path: str, body: Mapping[str, object]) -> Call:
        """A call with a JSON body."""
        asks = not body.get("stream") or path not in (CHAT, "/v1/completions")
        options = body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            asks = True
        return cls(request_id, path, json.dumps(body).encode(), asks)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the answer says it cost, in tokens."""

    input_tokens: int
    """The whole prompt, cached or not."""
    output_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client saw."""

    status: int
    usage: Usage | None
    usage_events: int
    """Events of a stream that carry usage."""
    events: int
    """All events of a stream but its [DONE]."""
    broken: bool
    """The body ended too early."""
    headers_s: float
    """From sending to the response's headers."""
    first_byte_s: float
    """From sending to the first byte of the response's body."""
    duration_s: float


async def ask(
    session: aiohttp.ClientSession, call: Call, headers: Mapping[str, str] | None = None
) -> Answer:
    """Make one request and read its answer to the end."""
    sent_s = time.monotonic()
    headers = {"content-type": "application/json", "x-request-id": call.id, **(headers or {})}
    async with session.post(call.path, data=call.body, headers=headers) as response:
        headers_s = time.monotonic() - sent_s
        body = await response.content.readany()
        first_byte_s = time.monotonic() - sent_s
        broken = False
        try:
            async for piece in response.content.iter_any():
                body += piece
        except aiohttp.ClientPayloadError:
            broken = True
    duration_s = time.monotonic() - sent_s
    streamed = response.content_type == "text/event-stream"
    documents = list(_events(body)) if streamed else [json.loads(body)]
    usages = [usage for document in documents for usage in _usages(document)]
    return Answer(
        status=response.status,
        usage=usages[-1] if usages else None,
        usage_events=len(usages),
        events=len(documents) if streamed else 0,
        broken=broken,
        headers_s=headers_s,
        first_byte_s=first_byte_s,
        duration_s=duration_s,
    )


async def ask_all(
    session: aiohttp.ClientSession, calls: Sequence[Call], *, concurrency: int
) -> list[Answer]:
    """Make all requests, so many at a time; the answers in the order of the calls."""
    slots = asyncio.Semaphore(concurrency)

    async def one(call: Call) -> Answer:
        async with slots:
            return await ask(session, call)

    return list(await asyncio.gather(*(one(call) for call in calls)))


async def leave_after(port: int, call: Call, *, events: int) -> int:
    """Ask, read so many events, and leave; the events that had been delivered by then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {call.path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"x-request-id: {call.id}\r\ncontent-length: {len(call.body)}\r\n\r\n"
    )
    writer.write(head.encode() + call.body)
    seen = b""
    while seen.count(b"data: ") < events:
        piece = await reader.read(1 << 16)
        assert piece, seen
        seen += piece
    writer.write_eof()  # leaves, and reads what was under way
    with contextlib.suppress(ConnectionResetError):  # then nothing more was delivered
        seen += await reader.read()
    writer.close()
    return seen.count(b"data: ")


def chat_of(words: int, seed: int, **fields: object) -> Json:
    """A chat body about as long as that, for the model ``tiny`` unless the fields say otherwise."""
    messages = [{"role": "user", "content": sentence(words, seed)}]
    return {"model": "tiny", "messages": messages, "max_tokens": 4, **fields}


def chats(name: str, count: int, seed: int, words: int = 40, **fields: object) -> list[Call]:
    """That many chats of different prompts."""
    return [Call.of(f"{name}-{n}", CHAT, chat_of(words, seed + n, **fields)) for n in range(count)]


def mixed(count: int, models: Sequence[str], seed: int) -> list[Call]:
    """Chat, completions, responses and messages; streams and not, of which some ask for usage;
    short and long prompts, with and without a prefix that others have; each model in turn."""
    rng = random.Random(seed)
    forms = (_chat, _completion, _response, _message)
    calls = []
    for number in range(count):
        path, body = forms[number % len(forms)](rng)
        body["model"] = models[number // len(forms) % len(models)]
        body["stream"] = rng.random() < 0.5
        if body["stream"] and path in (CHAT, "/v1/completions"):
            options: list[Json | None] = [None, {"include_usage": False}, {"include_usage": True}]
            chosen = rng.choice(options)
            if chosen is not None:
                body["stream_options"] = chosen
        calls.append(Call.of(f"mixed-{seed}-{number}", path, body))
    return calls


def _chat(rng: random.Random) -> tuple[str, Json]:
    shared, own = _prompt(rng)
    messages = [{"role": "user", "content": own}]
    if shared:
        messages = [{"role": "system", "content": shared}, *messages]
    limit = rng.choice(("max_tokens", "max_completion_tokens"))
    return CHAT, {"messages": messages, limit: rng.choice(_OUTPUT_TOKENS)}


def _completion(rng: random.Random) -> tuple[str, Json]:
    shared, own = _prompt(rng)
    prompt: object = f"{shared} {own}"
    if rng.random() < 0.25:
        ids = range(_FIRST_ORDINARY_TOKEN, VOCABULARY_TOKENS)
        prompt = rng.choices(ids, k=rng.choice(_OWN_WORDS))
    return "/v1/completions", {"prompt": prompt, "max_tokens": rng.choice(_OUTPUT_TOKENS)}


def _response(rng: random.Random) -> tuple[str, Json]:
    shared, own = _prompt(rng)
    given: object = own if rng.random() < 0.5 else [{"role": "user", "content": own}]
    body: Json = {"input": given, "max_output_tokens": rng.choice(_OUTPUT_TOKENS)}
    return "/v1/responses", body | ({"instructions": shared} if shared else {})


def _message(rng: random.Random) -> tuple[str, Json]:
    shared, own = _prompt(rng)
    content: object = own if rng.random() < 0.5 else [{"type": "text", "text": own}]
    messages = [{"role": "user", "content": content}]
    body: Json = {"messages": messages, "max_tokens": rng.choice(_OUTPUT_TOKENS)}
    return "/v1/messages", body | ({"system": shared} if shared else {})


def _prompt(rng: random.Random) -> tuple[str, str]:
    own = sentence(rng.choice(_OWN_WORDS), rng.randrange(1 << 30))
    if rng.random() < 0.3:
        return "", own
    which = rng.randrange(len(_SHARED_PREFIX_WORDS))
    return sentence(_SHARED_PREFIX_WORDS[which], which), own


def _events(body: bytes) -> Iterator[Json]:
    for line in body.splitlines(keepends=True):
        data = line.removeprefix(b"data: ")
        if data != line and data.endswith(b"\n") and data != b"[DONE]\n":
            yield json.loads(data)


def _usages(document: Json) -> Iterator[Usage]:
    """At the top, in ``response`` of the Responses API, in ``message`` of Anthropic's start."""
    for holder in (document, document.get("response"), document.get("message")):
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            yield _usage(usage)


def _usage(told: Mapping[str, object]) -> Usage:
    def count(holder: object, *keys: str) -> int:
        found = holder if isinstance(holder, dict) else {}
        return sum(value for key in keys if isinstance(value := found.get(key), int))

    cached = count(told.get("prompt_tokens_details"), "cached_tokens")
    cached += count(told.get("input_tokens_details"), "cached_tokens")
    return Usage(
        # Anthropic's input_tokens leaves out what was cached and what was newly cached.
        input_tokens=count(
            told,
            *("prompt_tokens", "input_tokens"),
            *("cache_read_input_tokens", "cache_creation_input_tokens"),
        ),
        output_tokens=count(told, "completion_tokens", "output_tokens"),
        cached_tokens=cached + count(told, "cache_read_input_tokens"),
    )
