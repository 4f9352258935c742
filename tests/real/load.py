"""Steady traffic behind a test's back: every failed request is remembered."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp


class Load:
    """For the time of an ``async with``: ``clients`` loops, each one request after another, every
    second one a stream, every fourth one on a connection of its own."""

    def __init__(
        self, url: str, model: str = "m", *, clients: int = 4, max_tokens: int = 12
    ) -> None:
        self.done = 0
        self.ids: list[str] = []
        """`x-request-id` of each request that was sent."""
        self.failures: list[str] = []
        self._url, self._model = url, model
        self._name = f"load-{uuid.uuid4().hex[:8]}"  # no UUID: Envoy would write into it
        self._clients, self._max_tokens = clients, max_tokens
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._loop(index)) for index in range(self._clients)]
        await self.more(2 * self._clients)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def more(self, requests: int) -> None:
        """Returns when so many more have ended."""
        until = self.done + requests
        while self.done < until:  # noqa: ASYNC110 - a test's patience
            await asyncio.sleep(0.01)

    async def _loop(self, client: int) -> None:
        async with aiohttp.ClientSession(self._url) as session:
            while not self._stopping.is_set():
                problem = await self._request(session, client)
                self.done += 1
                if problem:
                    self.failures.append(problem)

    async def _request(self, session: aiohttp.ClientSession, client: int) -> str:
        stream = (self.done + client) % 2 == 0
        alone = (self.done + client) % 4 == 1
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": f"hello {self.done}"}],
            "max_tokens": self._max_tokens,
            "stream": stream,
        }
        self.ids.append(f"{self._name}-{len(self.ids)}")
        headers = {"x-request-id": self.ids[-1], **({"connection": "close"} if alone else {})}
        check: Callable[[str], object] = _whole_stream if stream else json.loads
        try:
            async with session.post("/v1/chat/completions", json=body, headers=headers) as answer:
                text = await answer.text()
                if answer.status != 200:
                    return f"{answer.status} {text}"
            check(text)
        except (aiohttp.ClientError, ValueError) as error:
            return f"stream={stream} alone={alone}: {error!r}"
        return ""


def _whole_stream(text: str) -> None:
    if not text.endswith("data: [DONE]\n\n"):
        raise ValueError(f"cut off: {text[-100:]}")
