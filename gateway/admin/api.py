"""The admin API: an aiohttp application over a StatusSource and a TenantSource, and its server."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import orjson
from aiohttp import web
from prometheus_client.registry import Collector

from gateway.admin.access import Access
from gateway.admin.accounts import AccountHandlers
from gateway.admin.answers import answer, refusals
from gateway.admin.batches import BatchCollector, BatchHandlers, BatchRecords
from gateway.admin.decisions import DecisionHandlers
from gateway.admin.gauges import StatusCollector
from gateway.admin.guard import error, errors, same_origin
from gateway.admin.queues import QueueHandlers
from gateway.admin.status import StatusSource, UnknownEndpointError
from gateway.admin.tenants import TenantHandlers, TenantSource
from gateway.config.schema.picker import MetricsSection
from gateway.config.schema.sections import Admin
from gateway.telemetry import multiprocess

_PAGE = resources.files("gateway.admin").joinpath("index.html").read_text(encoding="utf-8")


def application(
    source: StatusSource,
    tenants: TenantSource,
    access: Access,
    metrics_dir: Path,
    batches: BatchRecords | None = None,
) -> web.Application:
    """The admin application. ``metrics_dir``: where the workers keep their metrics
    (PROMETHEUS_MULTIPROC_DIR)."""
    batches = batches or BatchRecords()
    handlers = _Handlers(source, access, metrics_dir, batches)
    app = web.Application(
        middlewares=[errors, same_origin, access.middleware, refusals], client_max_size=64 * 1024
    )
    app.router.add_get("/", handlers.index)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/readyz", handlers.readyz)
    app.router.add_get("/api/status", handlers.status)
    app.router.add_get("/api/config", handlers.config)
    app.router.add_post("/api/drain", handlers.drain)
    TenantHandlers(tenants).add_to(app)
    AccountHandlers(tenants).add_to(app)
    QueueHandlers(source).add_to(app)
    DecisionHandlers(source).add_to(app)
    BatchHandlers(batches).add_to(app)
    return app


def metrics_application(
    source: StatusSource,
    access: Access,
    metrics_dir: Path,
    batches: BatchRecords | None = None,
) -> web.Application:
    """Only /metrics, without a token, for a second port that other machines may reach."""
    handlers = _Handlers(source, access, metrics_dir, batches or BatchRecords())
    app = web.Application(middlewares=[errors])
    app.router.add_get("/metrics", handlers.metrics)
    return app


class _Handlers:
    def __init__(
        self, source: StatusSource, access: Access, metrics_dir: Path, batches: BatchRecords
    ) -> None:
        self._source = source
        self._batches = batches
        self._access = access
        self._metrics_dir = metrics_dir

    async def index(self, _: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return web.Response(
            text=_PAGE.replace("{{nonce}}", nonce),
            content_type="text/html",
            headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"},
        )

    async def metrics(self, request: web.Request) -> web.Response:
        collectors: list[Collector] = [
            StatusCollector(self._source.status(), self._source.queues(), self._access.refused)
        ]
        with contextlib.suppress(OSError):  # of the lane's folder; the others are told all the same
            totals = await self._batches.totals()
            if totals is not None:
                collectors.append(BatchCollector(totals, time.time()))
        body, content_type = await asyncio.to_thread(
            multiprocess.render, self._metrics_dir, collectors, request.headers.get("Accept", "")
        )
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(self, _: web.Request) -> web.Response:
        return answer({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        missing = self._source.status().not_ready
        return answer({"ready": not missing, "missing": missing}, status=503 if missing else 200)

    async def status(self, _: web.Request) -> web.Response:
        return answer(self._source.status())

    async def config(self, _: web.Request) -> web.Response:
        return answer(self._source.config_document())

    async def drain(self, request: web.Request) -> web.Response:
        """Body: {"pool": NAME, "endpoint": "ip:port", "draining": true | false}."""
        wanted = '{"pool": NAME, "endpoint": "ip:port", "draining": true or false}'
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError as problem:
            return error(400, "bad_json", f"the body is no JSON: {problem}; expected {wanted}")
        fields = body if isinstance(body, dict) else {}
        pool, endpoint = fields.get("pool"), fields.get("endpoint")
        draining = fields.get("draining", True)
        if (
            not isinstance(pool, str)
            or not isinstance(endpoint, str)
            or not isinstance(draining, bool)
        ):
            return error(400, "bad_request", f"expected {wanted}")
        try:
            await self._source.set_draining(pool, endpoint, draining=draining)
        except UnknownEndpointError as problem:
            return error(404, "unknown_endpoint", str(problem))
        return answer({"pool": pool, "endpoint": endpoint, "draining": draining})


class AdminServer:
    """Serves from ``start`` to ``stop``."""

    def __init__(
        self,
        source: StatusSource,
        tenants: TenantSource,
        token: Callable[[], str | None],
        metrics_dir: Path,
        batches: BatchRecords | None = None,
    ) -> None:
        """``token``: returns the token of the configuration in force."""
        self._batches = batches or BatchRecords()
        self._source = source
        self._tenants = tenants
        self._access = Access(token)
        self._metrics_dir = metrics_dir
        self._runners: list[web.AppRunner] = []

    async def start(self, admin: Admin, metrics: MetricsSection) -> None:
        """Listen. Raises OSError when a port is taken."""
        app = application(
            self._source, self._tenants, self._access, self._metrics_dir, self._batches
        )
        await self._listen(app, admin.address, admin.port)
        if metrics.port is not None:
            app = metrics_application(self._source, self._access, self._metrics_dir, self._batches)
            await self._listen(app, metrics.address, metrics.port)

    async def stop(self) -> None:
        """Close both servers."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()
        await self._batches.close()

    async def _listen(self, app: web.Application, address: str, port: int) -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, address, port, shutdown_timeout=1.0).start()
