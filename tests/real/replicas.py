"""Replicas of static pools: simulated ones as processes, and one that records what it is sent."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp import web

from tests.real.ports import free_port
from tests.real.spawn import spawn, tail

_READY_S: Final = 30.0


def stepping(step_ms: float) -> tuple[str, ...]:
    """Options for a token in every so many milliseconds, however much is computed."""
    return ("--profile=constant-step", f"--set=overhead_s={step_ms / 1e3}")


FAST: Final = ("--profile=constant-step", "--num-blocks=16384", "--time-scale=0")
"""Answers come without waiting."""
STEADY: Final = (*stepping(10), "--output-tokens-min=100000", "--num-blocks=65536")
"""A hundred tokens a second, until max_tokens."""


class Replica:
    """A simulated vLLM server (``python -m loadtests.sim``) that can be killed and come back."""

    def __init__(self, folder: Path, *options: str, model: str = "m") -> None:
        self.port = free_port()
        self._log = folder / f"replica-{self.port}.log"
        self._command = (
            *(sys.executable, "-m", "loadtests.sim", f"--port={self.port}", f"--model={model}"),
            *options,
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``ip:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Started and not killed."""
        return self._process is not None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    async def start(self) -> None:
        """Returns when it answers /health."""
        self._process = spawn(self._command, self._log)
        deadline_s = time.monotonic() + _READY_S
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline_s:
                assert self._process.poll() is None, f"the replica ended:\n{tail(self._log)}"
                try:
                    await session.get(f"http://{self.address}/health")
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
                else:
                    return
        raise AssertionError(f"the replica is not ready:\n{tail(self._log)}")

    def kill(self) -> None:
        """kill -9; harmless when it has ended already."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    async def metric(self, name: str) -> float:
        """Sum of a metric's samples, for example ``vllm:num_requests_running``."""
        async with aiohttp.ClientSession() as session:
            answer = await session.get(f"http://{self.address}/metrics")
            page = await answer.text()
        samples = (line for line in page.splitlines() if line.startswith(name + "{"))
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    async def running(self) -> float:
        """Requests in its batch."""
        return await self.metric("vllm:num_requests_running")


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it reached the recorder."""

    method: str
    path: str
    """With the query string."""
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Recorder:
    """A replica for model ``recorded`` that answers every other path with an empty JSON object,
    gzipped where the request allows it, and keeps what it was sent."""

    model: str = "recorded"
    port: int = field(default_factory=free_port)
    seen: list[Seen] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """``ip:port``."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", self._record)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        labels = f'{{engine="0",model_name="{self.model}"}}'
        return web.Response(text="".join(f"vllm:{name}{labels} 0.0\n" for name in names))

    async def _models(self, _: web.Request) -> web.Response:
        entry = {"id": self.model, "object": "model", "parent": None, "max_model_len": 4096}
        return web.json_response({"object": "list", "data": [entry]})

    async def _record(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.path_qs, headers, body))
        answer = web.json_response({})
        answer.enable_compression()
        return answer


PADDING: Final = "x" * 300_000


class Scripted(Recorder):
    """A recorder that answers as the request tells: ``{"answer": [chunk, ...], "type": ...}``,
    ``PADDING`` in a chunk being many bytes."""

    async def _record(self, request: web.Request) -> web.StreamResponse:
        script = json.loads(await request.read())
        answer = web.StreamResponse(headers={"content-type": script["type"]})
        await answer.prepare(request)
        for chunk in script["answer"]:
            await answer.write(chunk.replace("PADDING", PADDING).encode())
            await asyncio.sleep(0.005)  # so that each is a chunk of its own
        await answer.write_eof()
        return answer
