"""Replicas that can be told to answer, refuse, hang or talk nonsense; served over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from picker.signals.scraper import Scraper
from picker.signals.settings import ScrapeSettings
from picker.signals.sharing import Sharing
from picker.signals.sink import ScrapeSink
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel


def vllm_page(waiting: float = 0, running: float = 0, kv: float = 0.5, adapters: str = "") -> str:
    lora = (
        '\nvllm:lora_requests_info{max_lora="2",'
        f'running_lora_adapters="{adapters}",waiting_lora_adapters=""}} 1.7e+09'
    )
    return (
        "# HELP vllm:num_requests_running Number of requests.\n"
        f'vllm:num_requests_running{{engine="0",model_name="m"}} {running}\n'
        f'vllm:num_requests_waiting{{engine="0",model_name="m"}} {waiting}\n'
        f'vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} {kv}\n'
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0'
        f"{lora if adapters else ''}\n"
    )


@dataclass
class Replica:
    """An HTTP server on an ephemeral port."""

    metrics: str = field(default_factory=vllm_page)
    metrics_path: str = "/metrics"
    models: list[dict[str, object]] = field(default_factory=lambda: [{"id": "m"}])
    models_status: int = 200
    status: int = 200
    """Of the metrics."""
    health: int = 404
    """Status of /health."""
    hangs: bool = False
    metrics_hang: bool = False
    headers: list[Mapping[str, str]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    port: int = 0
    _runner: web.AppRunner | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._stopping.clear()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        self.headers.append({name.lower(): text for name, text in request.headers.items()})
        if self.hangs or (self.metrics_hang and request.path == self.metrics_path):
            await self._stopping.wait()
        if request.path == "/v1/models":
            body = json.dumps({"object": "list", "data": self.models})
            return web.Response(text=body, status=self.models_status)
        if request.path == "/health":
            return web.Response(status=self.health)
        if request.path == self.metrics_path:
            return web.Response(text=self.metrics, status=self.status)
        if request.path + "/" == self.metrics_path:
            return web.Response(status=307, headers={"Location": self.metrics_path})
        return web.Response(status=404)


@dataclass
class Heard:
    """A sink that remembers, and can be waited on."""

    signals: list[tuple[str, Signals]] = field(default_factory=list)
    models: list[tuple[str, list[ServedModel]]] = field(default_factory=list)
    lacks: list[tuple[str, Lack, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    order: list[tuple[str, str]] = field(default_factory=list)
    started_s: list[float] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        self.signals.append((address, signals))
        self.started_s.append(started_s)
        self._note("signals", address)

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        self.models.append((address, list(models)))
        self._note("models", address)

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        self.lacks.append((address, lack, reason))
        self._note(f"no {lack}", address)

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        self.failed.append((address, reason))
        self._note("failed", address)

    def _note(self, what: str, address: str) -> None:
        self.order.append((what, address))
        self._changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for a condition on what was heard."""
        async with asyncio.timeout(20):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    def heard(self, what: str, address: str) -> int:
        return self.order.count((what, address))


@asynccontextmanager
async def scraping(
    sink: ScrapeSink, settings: ScrapeSettings, sharing: Sharing | None = None
) -> AsyncIterator[Scraper]:
    """A scraper that runs."""
    running = Scraper(settings, sharing=sharing)
    running.start(sink)
    try:
        yield running
    finally:
        await running.close()
