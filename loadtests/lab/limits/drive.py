"""Bounded load against one or more gateways, each answer of a known length, and what its clients
saw."""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import aiohttp
import orjson

from loadtests.lab.limits.history import Count, Seen, Tokens

Api = Literal["chat", "completions"]

_PATHS: Final[Mapping[Api, str]] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
}
_FAMILIES: Final[Mapping[str, tuple[Count, ...]]] = {
    "x-ratelimit-remaining-requests": ("requests",),
    "x-ratelimit-remaining-tokens": ("input_tokens", "output_tokens", "total_tokens"),
}
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 60.0
_AGAIN_S: Final = 0.1
"""Before a client asks again that does not heed Retry-After, or got no answer."""
_LONGEST_WAIT_S: Final = 5.0
_FIRST_ID: Final = 1_000
"""Token ids below are special in some vocabularies."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked for, and of whom."""

    targets: Sequence[str]
    """Base URLs of gateways that share their limits."""
    keys: Sequence[str]
    """API keys whose requests count together; none: requests have no key."""
    model: str
    api: Api = "completions"
    """completions: prompts are token ids, whose number a gateway can know exactly."""
    clients: int = 8
    requests: int = 2_000
    duration_s: float = 20.0
    prompt_tokens: int = 20
    output_tokens: int = 32
    """Of an answer at most; each has a length of its own."""
    streamed: float = 0.5
    """Share of the requests."""
    leaving: float = 0.1
    """Share of the streams that their client leaves."""
    estimate: float = 1.0
    """A gateway may take prompts for so many times their length."""
    seed: int = 1


class Drive:
    """One run; `seen` grows while it goes on."""

    def __init__(self, load: Load, *, now: Callable[[], float] = time.time) -> None:
        self._load = load
        self._now = now
        self._left = load.requests
        self._until_s = math.inf
        self.seen: list[Seen] = []

    async def run(self) -> tuple[Seen, ...]:
        """Until the time is over or the requests are spent."""
        self._until_s = self._now() + self._load.duration_s
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S, connect=_CONNECT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            # One alone, whose answer says what was left at the start.
            await self._turn(session, 0, random.Random(self._load.seed))
            async with asyncio.TaskGroup() as clients:
                for number in range(self._load.clients):
                    clients.create_task(self._client(session, number))
        return tuple(self.seen)

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        rng = random.Random(self._load.seed * 1_000 + number)
        while self._left > 0 and self._now() < self._until_s:
            seen = await self._turn(session, number, rng)
            wait_s = 0.0 if seen.admitted else _AGAIN_S
            if seen.retry_after_s is not None and rng.random() < 0.5:
                wait_s = min(seen.retry_after_s, _LONGEST_WAIT_S)
            remaining_s = max(0.0, self._until_s - self._now())
            await asyncio.sleep(min(wait_s, remaining_s))

    async def _turn(self, session: aiohttp.ClientSession, number: int, rng: random.Random) -> Seen:
        load = self._load
        self._left -= 1
        turn = load.requests - self._left
        key = load.keys[turn % len(load.keys)] if load.keys else ""
        target = load.targets[(turn + number) % len(load.targets)]
        seen = await self._ask(session, target.rstrip("/"), key, rng)
        self.seen.append(seen)
        return seen

    async def _ask(
        self, session: aiohttp.ClientSession, target: str, key: str, rng: random.Random
    ) -> Seen:
        load = self._load
        prompt_tokens = rng.randint(max(1, load.prompt_tokens // 2), load.prompt_tokens)
        output_tokens = rng.randint(1, load.output_tokens)
        stream = rng.random() < load.streamed
        leaves_after = None
        if stream and rng.random() < load.leaving:
            leaves_after = rng.randint(1, output_tokens)
        headers = {"x-request-id": str(uuid.uuid4()), "content-type": "application/json"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        document = body(load.api, load.model, prompt_tokens, output_tokens, stream, rng)
        reserved = Tokens(math.ceil(prompt_tokens * load.estimate), output_tokens)
        reading = _Reading(leaves_after)
        sent_s = self._now()
        status, head_s = 0, 0.0
        told: dict[str, str] = {}
        try:
            async with session.post(
                target + _PATHS[load.api], data=orjson.dumps(document), headers=headers
            ) as answer:
                status, head_s = answer.status, self._now()
                told = {name.lower(): value for name, value in answer.headers.items()}
                await reading.read(answer, stream=stream and status == 200)
        except (aiohttp.ClientError, TimeoutError, OSError):
            reading.whole = False
        end_s = self._now()
        return Seen(
            id=headers["x-request-id"],
            sent_s=sent_s,
            head_s=head_s or end_s,
            end_s=end_s,
            status=status,
            reserved=reserved,
            usage=reading.usage,
            shown_tokens=reading.shown_tokens,
            whole=reading.whole and status == 200,
            retry_after_s=_seconds(told),
            final=told.get("x-should-retry") == "false",
            left=_left(told),
        )


def body(
    api: Api, model: str, prompt_tokens: int, output_tokens: int, stream: bool, rng: random.Random
) -> dict[str, object]:
    """A request whose answer has just so many tokens."""
    document: dict[str, object] = {
        "model": model,
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": stream,
    }
    if stream:
        document["stream_options"] = {"include_usage": True}
    if api == "completions":
        document["prompt"] = [_FIRST_ID + rng.randrange(1_000) for _ in range(prompt_tokens)]
    else:
        words = " ".join(["tok"] * prompt_tokens)
        document["messages"] = [{"role": "user", "content": words}]
    return document


class _Reading:
    """An answer as far as its client reads it."""

    def __init__(self, leaves_after: int | None) -> None:
        self._leaves_after = leaves_after
        self.usage: Tokens | None = None
        self.shown_tokens: int | None = None
        self.whole = False

    async def read(self, answer: aiohttp.ClientResponse, *, stream: bool) -> None:
        """To its end, or until the client leaves."""
        if not stream:
            text = await answer.read()
            self.whole = True
            self.usage = _usage(_object(text))
            return
        self.shown_tokens = 0
        failed = False
        async for line in answer.content:
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:"):
                continue
            if data == b"[DONE]":
                self.whole = not failed
                continue
            event = _object(data)
            failed = failed or "error" in event
            self.shown_tokens += _shows_a_token(event)
            self.usage = _usage(event) or self.usage
            if self._leaves_after is not None and self.shown_tokens >= self._leaves_after:
                answer.close()
                return


def _object(text: bytes) -> Mapping[str, object]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _shows_a_token(event: Mapping[str, object]) -> bool:
    """Of one choice; a chunk that only opens it shows none."""
    choices = event.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    delta = choices[0].get("delta")
    opens = isinstance(delta, dict) and bool(delta.get("role")) and not delta.get("content")
    return not opens


def _usage(document: Mapping[str, object]) -> Tokens | None:
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    given, made = (count if isinstance(count, int) else 0 for count in counts)
    return Tokens(given, made)


def _left(headers: Mapping[str, str]) -> dict[Count, float]:
    """Of the tightest limit of each kind: of others there is more."""
    left: dict[Count, float] = {}
    for name, counts in _FAMILIES.items():
        try:
            given = float(headers[name])
        except (KeyError, ValueError):
            continue
        left.update(dict.fromkeys(counts, given))
    return left


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Of Retry-After, exact where the gateway is."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
    return None
