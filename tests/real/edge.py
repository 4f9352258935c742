"""A real Envoy over a picker that lives in the test's process: what passes between the two can be
set and seen."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import policies.routing  # noqa: F401 - registers the built-in policies
from gateway.config.config import Config
from gateway.config.schema.sections import EnvoyProxy
from gateway.envoy.files import DiscoveryFiles
from gateway.envoy.plan import EnvoyPlan, WorkerSockets
from gateway.envoy.proxy import binary
from gateway.envoy.render import bootstrap
from picker.core import Parts, Picker
from picker.seams.gate import Gate, OpenGate
from picker.server.health import Health
from picker.server.listen import Listeners, Servers
from picker.settings import PickerSettings, PoolSettings, RewriteRule, RewriteTarget
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec
from policies.limits.prices import Usage
from tests.picker.accounts import Accounts
from tests.picker.fleet import IDLE, MODEL, POOL, Recorder, policy
from tests.real.gateway import eventually
from tests.real.ports import free_port
from tests.real.spawn import spawn, tail

ALIAS = "alias"
"""A name of clients for MODEL."""


class Edge:
    """Runs for the time of an ``async with``. ``replicas``: addresses that serve MODEL."""

    def __init__(
        self,
        replicas: Sequence[str],
        *,
        gate: Gate | None = None,
        plan: Callable[[EnvoyPlan], EnvoyPlan] = lambda plan: plan,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pst-"))  # unix sockets have short paths
        self.port = free_port()
        self.seen = Recorder()
        self.accounts = Accounts()
        parts = Parts(observer=self.seen, gate=gate or OpenGate(), limiter=self.accounts)
        self.picker = Picker("p0", parts, now=time.monotonic, rng=random.Random(1))
        self._replicas = list(replicas)
        self.replicas_are_well()
        sockets = WorkerSockets(self._folder / "picker.sock", self._folder / "log.sock")
        self._health = Health(self.picker)
        self._decisions = Listeners(sockets.decisions, None, None, None)
        self._servers = Servers(self.picker, self._health, self._decisions)
        logs = Listeners(None, sockets.access_logs, None, None)
        self._logs = Servers(self.picker, self._health, logs)
        config = Config.model_validate_json(
            json.dumps(
                {
                    "listen": {"port": self.port, "stream_idle_timeout_s": 300},
                    "picker": {"decision_timeout_s": 5},
                    "pools": [{"name": POOL, "type": "static", "endpoints": []}],
                }
            )
        )
        self._plan = plan(EnvoyPlan(self._folder, config, (sockets,)))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self._logs.start()
        await self._servers.start()
        file = self._folder / "bootstrap.json"
        file.write_text(json.dumps(bootstrap(self._plan)))
        DiscoveryFiles().write(self._plan, {POOL: self._replicas})
        command = [str(binary(EnvoyProxy())), "-c", str(file), "--use-dynamic-base-id"]
        command += ["--concurrency", "1", "--log-level", "warn"]
        command += ["--component-log-level", "misc:error,ext_proc:error"]
        self._process = spawn(command, self._folder / "envoy.log")
        await eventually(self._listens, "Envoy listens")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        await self.stop_picker()
        if error is not None:
            print(tail(self._folder / "envoy.log"))
        shutil.rmtree(self._folder, ignore_errors=True)

    async def stop_picker(self) -> None:
        """From now on no picker answers."""
        await asyncio.gather(self._servers.stop(0), self._logs.stop(0))

    async def restart_picker(self) -> None:
        """It listens anew before it stops listening, and what it was asked before is decided."""
        before = self._servers
        self._servers = Servers(self.picker, self._health, self._decisions)
        await self._servers.start()
        await before.stop(0.5)

    @property
    def open_exchanges(self) -> int:
        """Streams between Envoy and the picker."""
        return self._servers._unix.running

    async def settled(self, count: int = 1) -> list[Usage]:
        """What the next requests were charged, when that many have ended."""

        async def so() -> bool:
            return len(self.accounts.settled) + self.accounts.released >= count

        await eventually(so, f"{count} requests have ended")
        charged = list(self.accounts.settled)
        self.accounts.clear()
        return charged

    def replicas_are_well(self) -> None:
        """The picker believes in all of them, whatever it has seen of them."""
        self.picker.configure(
            PickerSettings(
                pools=(PoolSettings(POOL, policy()),),
                rewrites=(RewriteRule(ALIAS, (RewriteTarget(MODEL),)),),
                stale_after_s=3600.0,
            )
        )
        self.picker.pools.sync_endpoints(
            POOL, [EndpointSpec(address) for address in self._replicas]
        )
        now_s = self.picker.now()
        for address in self._replicas:
            self.picker.apply_signals(POOL, address, IDLE, now_s)
            self.picker.apply_models(POOL, address, [ServedModel(MODEL, None, 32_768)], now_s)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True
