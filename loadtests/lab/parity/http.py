"""The requests, sent to a server: real vLLM, or the simulator.

The engine is paused (POST /pause?mode=keep) while a burst is sent, one request after another. When
it goes on (POST /resume), it finds the whole burst in its queue, in this order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import cast

import aiohttp
import orjson

from loadtests.lab.parity.asks import Burst, ParityRequest
from loadtests.lab.parity.events import EventLog, chain_of, subscribed
from loadtests.lab.parity.order import order_of, waves_of
from loadtests.lab.parity.recording import Moment, ParityError, RecordedAnswer, Recording
from loadtests.lab.replica_metrics import ReplicaCounters, counters
from loadtests.sim.calibration.probe import Facts
from loadtests.sim.calibration.probe_http import HttpTarget

_HEADERS_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 120.0
_POLL_S = 0.02
_QUIET_S = 1.0
_LOOK_S = 0.001
_STEPS_BEFORE = 5
"""By which a server may be ahead of what its clients have seen."""
_PROBES = 100
_PAUSE = "/pause?mode=keep&clear_cache=false"


@dataclass(frozen=True, slots=True)
class ParityServer:
    """Where a server listens, and where it publishes its KV events (None: nowhere)."""

    url: str
    events: str | None = None


async def facts_of(server: ParityServer) -> Facts:
    """What the server says of itself. Raises ProbeError."""
    async with HttpTarget(server.url) as target:
        return await target.facts()


async def record(
    server: ParityServer,
    facts: Facts,
    bursts: Sequence[Burst],
    *,
    who: str,
    like: Recording | None = None,
    under_way: int = 0,
) -> Recording:
    """Send all bursts to a server that does nothing else.

    ``like``: bursts arrive when they did in this recording, as nearly as possible. ``under_way``:
    steps that a paused server has begun and ends when it goes on: real vLLM none, the simulator
    one.

    Raises ParityError when the server cannot be paused, or does not report what is needed.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(_session(server))
        events = None
        if server.events is not None:
            events = await stack.enter_async_context(
                subscribed(server.events, facts.block_size_tokens)
            )
        run = _Run(session, facts, events, who)
        try:
            return await run.through(bursts, like, under_way)
        finally:
            await run.close()


class _Run:
    def __init__(
        self, session: aiohttp.ClientSession, facts: Facts, events: EventLog | None, who: str
    ) -> None:
        self._session, self._facts, self._events = session, facts, events
        self._recording = Recording(who)
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._adapters: dict[str, str | None] = {}
        self._answers = self._recording.answers
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def through(
        self, bursts: Sequence[Burst], like: Recording | None, under_way: int
    ) -> Recording:
        await self._control("/resume")
        await self._begin()
        before = await self._counters()
        for number, burst in enumerate(bursts):
            tokens = burst.after_tokens
            if like is not None:
                clock = like.came[number]
                tokens = clock.tokens if clock is not None else None
                if clock is not None:
                    await self._nearly(clock)
            if tokens is None:
                await self._finish()
                await self._control(_PAUSE)
                came = None
            else:
                came = await self._held(tokens, under_way, before.generation_tokens)
            self._recording.came.append(came)
            for ask in burst.asks:
                await self._send(ask)
            await self._control("/resume")
        await self._finish()
        await self._settled(before.generation_tokens)
        during = await self._counters() - before
        self._recording.preemptions = during.preemptions
        self._recording.hit_tokens = during.cached_tokens
        if self._events is not None:
            await self._quiet(self._events)
            self._recording.evicted_blocks = self._events.removed_blocks
            size = self._facts.block_size_tokens
            blocks = {
                name: chain_of(prompt, self._adapters[name], size)
                for name, prompt in self._prompts.items()
            }
            waves = waves_of(bursts, self._recording.came, blocks)
            self._recording.admitted = order_of(waves, self._events.stored)
        return self._recording

    async def close(self) -> None:
        """Cancel what is left, and let the server go on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._control("/resume")

    async def _begin(self) -> None:
        """Start with an empty cache, and make sure that KV events arrive."""
        if self._events is not None:
            for probe in range(_PROBES):
                if self._events.batches:
                    break
                tokens = tuple(range(300 + probe, 301 + probe + self._facts.block_size_tokens))
                await self._send(ParityRequest(f"probe-{probe}", tokens, 1))
                await self._finish()
            else:
                raise ParityError("no KV events come: is the endpoint right?")
        await self._control("/reset_prefix_cache")
        self._answers.clear()
        self._prompts.clear()
        self._tasks.clear()
        if self._events is not None:
            self._events.forget()

    async def _control(self, path: str) -> None:
        async with self._session.post(path) as response:
            if response.status != 200:
                raise ParityError(
                    f"POST {path} is answered with {response.status}; real vLLM has it with "
                    "VLLM_SERVER_DEV_MODE=1 in its environment"
                )

    async def _send(self, ask: ParityRequest) -> None:
        """Returns when the request is in the engine's queue."""
        prompt = ask.tokens
        if ask.continues is not None:
            earlier = self._answers[ask.continues]
            prompt = self._prompts[ask.continues] + earlier.tokens + prompt
        self._prompts[ask.name] = prompt
        self._adapters[ask.name] = ask.adapter
        self._answers[ask.name] = RecordedAnswer(len(prompt), 0, 0)
        body = {
            "model": ask.adapter or self._facts.model,
            "prompt": prompt,
            "max_tokens": ask.max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "return_token_ids": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        sent = asyncio.Event()
        self._tasks[ask.name] = asyncio.create_task(self._ask(ask, body, sent))
        await asyncio.wait_for(sent.wait(), _HEADERS_TIMEOUT_S)
        # Its answer shows that the server has done what it does before it reads a further request.
        async with self._session.get("/health") as response:
            response.raise_for_status()

    async def _ask(self, ask: ParityRequest, body: dict[str, object], sent: asyncio.Event) -> None:
        answer = self._answers[ask.name]
        tokens: list[int] = []
        text = ""
        try:
            async with self._session.post("/v1/completions", json=body) as response:
                if response.status != 200:
                    raise ParityError(f"{ask.name}: {response.status} {await response.text()}")
                sent.set()
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    event = orjson.loads(line[6:])
                    for choice in event["choices"]:
                        tokens += choice.get("token_ids") or ()
                        text += choice["text"]
                    _take_usage(answer, event.get("usage"))
        finally:
            sent.set()
        if answer.output_tokens != ask.max_tokens:
            raise ParityError(
                f"{ask.name} got {answer.output_tokens} of {ask.max_tokens} tokens: the server "
                "must answer with max_tokens"
            )
        answer.tokens = tuple(tokens) or await self._tokenized(text)
        if len(answer.tokens) != ask.max_tokens:
            raise ParityError(f"{ask.name}: its answer is not the tokens it was made of")

    async def _tokenized(self, text: str) -> tuple[int, ...]:
        body = {"model": self._facts.model, "prompt": text, "add_special_tokens": False}
        async with self._session.post("/tokenize", json=body) as response:
            response.raise_for_status()
            return tuple((await response.json())["tokens"])

    async def _nearly(self, clock: Moment) -> None:
        """Wait until a few steps before that moment."""
        task, answer = self._tasks[clock.request], self._answers[clock.request]
        while answer.output_tokens < clock.tokens - _STEPS_BEFORE and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    async def _held(self, tokens: int, under_way: int, made_before: int) -> Moment | None:
        """Pause the engine when its oldest request has about so many tokens.

        It runs for short times in between, because an engine may be far ahead of the clients that
        stream its answers. None when it has nothing left to do.
        """
        while True:
            await self._control(_PAUSE)
            await self._settled(made_before)
            oldest = next((name for name, task in self._tasks.items() if not task.done()), None)
            if oldest is None:
                return None
            when = Moment(oldest, self._answers[oldest].output_tokens + under_way)
            if when.tokens >= max(tokens, under_way + 1):
                return when
            await self._control("/resume")

    async def _finish(self) -> None:
        """Wait until all that was sent is answered."""
        waiting = [task for task in self._tasks.values() if not task.done()]
        if waiting:
            await asyncio.wait_for(asyncio.gather(*waiting), _ANSWER_TIMEOUT_S)
        for task in self._tasks.values():
            task.result()

    async def _quiet(self, events: EventLog) -> None:
        batches = -1
        while batches != events.batches:
            batches = events.batches
            await asyncio.sleep(_QUIET_S)

    async def _settled(self, before: int) -> None:
        """Wait until the clients have every token that the engine has made."""
        last = -1
        while True:
            await asyncio.sleep(_POLL_S)
            made = (await self._counters()).generation_tokens - before
            heard = sum(answer.output_tokens for answer in self._answers.values())
            if made == heard == last:
                return
            last = made

    async def _counters(self) -> ReplicaCounters:
        async with self._session.get("/metrics") as response:
            return counters(await response.read())


def _take_usage(answer: RecordedAnswer, usage: object) -> None:
    if not isinstance(usage, dict):
        return
    counted = cast("dict[str, object]", usage)
    answer.output_tokens = int(cast("int", counted.get("completion_tokens") or 0))
    details = counted.get("prompt_tokens_details")
    if isinstance(details, dict):
        answer.cached_tokens = int(details.get("cached_tokens") or 0)
        prompt_tokens = counted.get("prompt_tokens")
        if prompt_tokens != answer.prompt_tokens:
            raise ParityError(f"{prompt_tokens} prompt tokens counted, {answer.prompt_tokens} sent")


@asynccontextmanager
async def _session(server: ParityServer) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
    async with aiohttp.ClientSession(server.url, connector=connector, timeout=timeout) as session:
        yield session
