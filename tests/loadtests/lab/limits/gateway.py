"""A gateway with one limit and a replica in it, which does its accounts well or badly."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import orjson
from aiohttp import web

Flaw = Literal["", "overshoot", "lost", "doubled", "charged twice", "refuses", "early", "late"]


@dataclass
class Bucket:
    """Of tokens; refills evenly."""

    burst: float
    rate: float
    level: float = 0.0
    at_s: float = 0.0

    def take(self, amount: float) -> float:
        """Seconds to wait; 0: it is taken."""
        now_s = time.monotonic()
        self.level = min(self.burst, self.level + (now_s - self.at_s) * self.rate)
        self.at_s = now_s
        if amount > self.level:
            return (amount - self.level) / self.rate
        self.level -= amount
        return 0.0


@dataclass
class LimitedGateway:
    """Answers /v1/completions, /sim/generated and /api/usage."""

    flaw: Flaw = ""
    burst: float = 150.0
    rate: float = 1.0
    charged: int = 0
    made: list[dict[str, object]] = field(default_factory=list)
    seen: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._bucket = Bucket(self.burst, self.rate, self.burst, time.monotonic())

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        body = orjson.loads(await request.read())
        self.seen += 1
        given, wanted = len(body["prompt"]), body["max_tokens"]
        wait_s = self._bucket.take(given + wanted)
        odd = self.seen % 5 == 0
        if self.flaw == "refuses" and self.seen <= 2:
            wait_s = 1.0
        if wait_s and not (self.flaw == "overshoot" and odd):
            wait_s = {"early": 0.0, "late": wait_s + 20}.get(self.flaw, wait_s)
            headers = {"retry-after": str(math.ceil(wait_s))}
            return web.json_response({"error": {}}, status=429, headers=headers)
        answer = web.StreamResponse()
        streamed = body["stream"]
        if streamed:
            answer.headers["content-type"] = "text/event-stream"
        await answer.prepare(request)
        made = 0
        try:
            for token in range(wanted):
                made += 1
                if streamed and not (self.flaw == "lost" and token == 0):
                    await self._event(answer, {"choices": [{"text": "x"}]})
                if streamed and self.flaw == "doubled" and token == 0:
                    await self._event(answer, {"choices": [{"text": "x"}]})
                await asyncio.sleep(0)
            usage = {"prompt_tokens": given, "completion_tokens": made}
            if streamed:
                await self._event(answer, {"choices": [], "usage": usage})
                await answer.write(b"data: [DONE]\n\n")
            else:
                await answer.write(orjson.dumps({"choices": [{}], "usage": usage}))
            await answer.write_eof()
        finally:
            name = request.headers["x-request-id"]
            entry = {"request_id": name, "prompt_tokens": given, "generated_tokens": made}
            self.made.append(entry)
            self.charged += (given + made) * (2 if self.flaw == "charged twice" and odd else 1)
            self._bucket.level += wanted - made
        return answer

    async def _event(self, answer: web.StreamResponse, document: dict[str, object]) -> None:
        await answer.write(b"data: " + orjson.dumps(document) + b"\n\n")

    async def generated(self, _: web.Request) -> web.Response:
        """As a simulated replica reports it."""
        return web.json_response({"requests": self.made})

    async def usage(self, _: web.Request) -> web.Response:
        """As Penstock's admin API reports it."""
        row = {"tenant": "acme", "input_tokens": self.charged, "output_tokens": 0}
        return web.json_response({"rows": [row]})


@contextmanager
def serving(gateway: LimitedGateway) -> Iterator[str]:
    """Runs it in a thread; its URL."""
    loop = asyncio.new_event_loop()
    ready, ended = threading.Event(), asyncio.Event()

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/completions", gateway.complete)
        app.router.add_get("/sim/generated", gateway.generated)
        app.router.add_get("/api/usage", gateway.usage)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        gateway.url = f"http://{host}:{port}"
        ready.set()
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield gateway.url
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
