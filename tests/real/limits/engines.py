"""Replicas inside the test: one that knows exactly how many requests run, one that fails."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

import orjson
from aiohttp import web

from tests.real.replicas import Recorder

FAILURES: Final = ("error", "refused", "broken")
_STEP_S: Final = 0.02


class Counting(Recorder):
    """Streams completions, a token a step, and knows the most that ever ran at once. Prompts are
    token ids; usage is always told."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.running = 0
        self.most = 0
        self.requests = 0
        """Answered, at least in part."""
        self.input_tokens = 0
        self.output_tokens = 0

    async def _record(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self._answer(request, body)
        finally:
            self.running -= 1

    async def _answer(self, request: web.Request, body: dict[str, object]) -> web.StreamResponse:
        return await self._stream(request, body)

    async def _stream(
        self, request: web.Request, body: dict[str, object], *, upto: int | None = None
    ) -> web.StreamResponse:
        """``upto``: break off after so many tokens."""
        prompt, wanted = body["prompt"], body["max_tokens"]
        assert isinstance(prompt, list)
        assert isinstance(wanted, int)
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        self.requests += 1
        self.input_tokens += len(prompt)
        for token in range(wanted):
            if token == upto:
                assert request.transport is not None
                request.transport.close()  # after what was written
                return answer
            await asyncio.sleep(_STEP_S)
            self.output_tokens += 1
            choice = {"index": 0, "text": "word", "finish_reason": None}
            await answer.write(b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n")
        usage = {"prompt_tokens": len(prompt), "completion_tokens": wanted}
        # The last bytes may be read before this function goes on.
        self.running -= 1
        try:
            await answer.write(b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n")
            await answer.write(b"data: [DONE]\n\n")
            await answer.write_eof()
        finally:
            self.running += 1
        return answer


class Failing(Counting):
    """One request after another: an error, no answer at all, a stream that breaks off after three
    tokens, a good one."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.failures = dict.fromkeys(FAILURES, 0)
        self._next = itertools.cycle((*FAILURES, "ok"))

    async def _answer(self, request: web.Request, body: dict[str, object]) -> web.StreamResponse:
        kind = next(self._next)
        if kind in self.failures:
            self.failures[kind] += 1
        if kind == "error":
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        if kind == "refused":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return await self._stream(request, body, upto=3 if kind == "broken" else None)
