"""The servers of the admin API and of the second metrics port."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from gateway.admin.access import Access
from gateway.admin.api import application, metrics_application
from gateway.admin.status import StatusSource
from gateway.admin.tenants import TenantSource
from gateway.config.schema.admin import Admin
from gateway.config.schema.picker import MetricsSection


class AdminServer:
    """Serves from ``start`` to ``stop``."""

    def __init__(
        self,
        source: StatusSource,
        tenants: TenantSource,
        token: Callable[[], str | None],
        metrics_dir: Path,
    ) -> None:
        """``token``: returns the token of the configuration in force."""
        self._source = source
        self._tenants = tenants
        self._access = Access(token)
        self._metrics_dir = metrics_dir
        self._runners: list[web.AppRunner] = []

    async def start(self, admin: Admin, metrics: MetricsSection) -> None:
        """Listen. Raises OSError when a port is taken."""
        app = application(self._source, self._tenants, self._access, self._metrics_dir)
        await self._listen(app, admin.address, admin.port)
        if metrics.port is not None:
            app = metrics_application(self._source, self._access, self._metrics_dir)
            await self._listen(app, metrics.address, metrics.port)

    async def stop(self) -> None:
        """Close both servers."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _listen(self, app: web.Application, address: str, port: int) -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, address, port, shutdown_timeout=1.0).start()
