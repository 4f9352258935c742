"""The supervisor: runs Envoy, the picker workers and the pools, and keeps them in step."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sqlite3
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Final

from gateway.children.child import ChildState
from gateway.config.config import Config
from gateway.config.reading.problems import ConfigError, Problem
from gateway.config.reading.wire import to_json
from gateway.config.sources.source import ConfigSource
from gateway.control.server import ControlServer
from gateway.envoy.plan import EnvoyPlan
from gateway.envoy.proxy import Envoy
from gateway.pools.fleet import Fleet
from gateway.pools.membership import Membership
from gateway.pools.provider import MakeProvider, ReplicaState
from gateway.pools.source import EndpointSource
from gateway.run.batch_lane import BatchLane
from gateway.run.certificates import write_self_signed
from gateway.run.compose import require_state, supervisor_tenancy
from gateway.run.in_force import ConfigInForce
from gateway.run.pickers import Pickers
from gateway.run.rundir import RunDir
from gateway.tenancy.supervisor import SupervisorTenancy
from gateway.tenancy.tenant_admin import TenantAdmin

log = logging.getLogger(__name__)

_REGISTRY_READ_S: Final = 1.0
_SETTLED_LOOK_S: Final = 0.05


class StartError(RuntimeError):
    """Penstock cannot start; the message names the reason and a remedy."""


class Supervisor:
    """One running Penstock."""

    def __init__(
        self,
        path: Path,
        config: Config,
        source: ConfigSource,
        run: RunDir,
        make: MakeProvider,
    ) -> None:
        self.path = path
        self._source = source
        self.in_force = ConfigInForce(config)
        self.run_dir = run
        self.started_s = time.time()
        self.fleet = Fleet(make)
        self.members = Membership()
        self.control = ControlServer(run.control_socket, self._reported)
        # By itself Envoy ejects a dead picker only after several failures.
        self.pickers = Pickers(run, self.control, self._update_envoy)
        self.batches = BatchLane(run)
        self.envoy: Envoy | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._stepping: asyncio.Task[None] | None = None
        self._tenancy: SupervisorTenancy | None = None
        self._store: tuple[object, ...] = ()
        """Where the tenancy keeps limits, keys and usage."""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.in_force.config

    # -- life

    async def start(self) -> None:
        """Start everything; return when requests are served, as far as replicas are up. Raises
        StartError and ChildError."""
        config = self.config
        self._hear_signals()
        if config.picker.ext_proc.port is not None:
            write_self_signed(self.run_dir.certificate)
        try:
            await asyncio.to_thread(require_state, config)
        except (OSError, sqlite3.Error) as error:
            raise StartError(str(_no_state(self.path, config, error))) from error
        await self._configure_tenants(config)
        await self.control.start()
        self._assign(config)
        self._stepping = asyncio.create_task(self._keep_in_step(self.fleet))
        await self.fleet.reconfigure(config.pools)
        self.run_dir.batch_key()  # before the pickers look for it
        await self.pickers.start(config.picker.workers)
        self._configure_batches(config)
        if config.envoy.enabled:
            self.envoy = Envoy(
                config.envoy,
                self.run_dir.path,
                self.run_dir.logs / "envoy.log",
                self._envoy_changed,
            )
            self.envoy.start(self._plan(), self._addresses())
            await self.envoy.child.wait_ready()
        self._following = asyncio.create_task(self._follow())

    async def settle(self) -> None:
        """Return when every replica is up or has failed once, or a signal to stop has come."""
        while not self.stopping:
            replicas = [one for pool in self.fleet.replicas().values() for one in pool]
            if all(one.state is not ReplicaState.STARTING for one in replicas):
                return
            await asyncio.sleep(_SETTLED_LOOK_S)

    async def serve(self) -> None:
        """Return at SIGTERM or SIGINT. Raises what ended a part that must not end."""
        assert self._following is not None
        assert self._stepping is not None
        stopped = asyncio.create_task(self._stop.wait())
        parts = {self._following, self._stepping, stopped}
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for part in done:
            part.result()

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_signal)
        # A terminal that is closed sends it too, and then Penstock ends as at Ctrl-C.
        on_hangup = self.on_signal if sys.stdin.isatty() else self.pickers.reopen_logs
        loop.add_signal_handler(signal.SIGHUP, on_hangup)

    def on_signal(self) -> None:
        """SIGTERM or SIGINT: stop, gracefully; at the second one, at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """A signal to stop has come."""
        return self._stop.is_set()

    async def stop(self) -> None:
        """Drain, then end everything, in the order in which requests leave."""
        if self._following is not None:
            self._following.cancel()
        listen = self.config.listen
        if self.stopping and self._following is not None:  # it has served
            self.pickers.leave()
            if self.envoy is not None and listen.shutdown_delay_s:
                await self.envoy.let_go()
            await self._unless_hurried(asyncio.sleep(listen.shutdown_delay_s))
        self.pickers.close_queues()
        lines = asyncio.create_task(self.batches.stop())
        if self.envoy is not None:
            await self._unless_hurried(self.envoy.drain(listen.drain_timeout_s))
            await self.envoy.stop()
        await self._unless_hurried(_done(lines))
        if self.batches.child is not None:
            self.batches.child.kill()
        await lines
        ending = asyncio.create_task(self.pickers.stop(listen.drain_timeout_s))
        await self._unless_hurried(_done(ending))
        self.pickers.hurry()
        await ending
        await self.fleet.stop()
        if self._stepping is not None:
            self._stepping.cancel()
        await self.control.stop()
        if self._tenancy is not None:
            await self._tenancy.close()

    async def _unless_hurried(self, draining: Coroutine[None, None, None]) -> None:
        tasks = [asyncio.create_task(draining), asyncio.create_task(self._hurry.wait())]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        for task in done:
            task.result()  # raises what ended it

    # -- configuration

    async def _follow(self) -> None:
        async for result in self._source.changes():
            refused = result if isinstance(result, ConfigError) else await self._obstacle(result)
            if refused is not None:
                self.in_force.refuse(refused)
                log.error("the changed configuration is refused, the old one stays:\n%s", refused)
            elif isinstance(result, Config):
                await self.apply(result)

    async def _obstacle(self, config: Config) -> ConfigError | None:
        """Why a valid configuration cannot come into force while this Penstock runs."""
        problem = None
        if self._tenancy is not None and self._store != _store_of(config):
            problem = Problem(
                *(self.path, 0, 0, "limits", "another place for limits, keys and usage"),
                "the one that Penstock was started with",
                "restart Penstock to change limits.store, state_dir, limits.usage_days or"
                " limits.max_users_per_day",
            )
        elif self._tenancy is None:
            try:
                await asyncio.to_thread(require_state, config)
            except (OSError, sqlite3.Error) as error:
                problem = _no_state(self.path, config, error)
        return None if problem is None else ConfigError([problem], files=frozenset({self.path}))

    async def apply(self, config: Config) -> None:
        """Bring an accepted configuration into force without a restart."""
        for part in self.in_force.needs_restart(config):
            log.warning("%s has changed: that takes a restart of Penstock", part)
        self.in_force.accept(config)
        await self._configure_tenants(config)
        await self.pickers.fewer(config.picker.workers, config.listen.drain_timeout_s)
        # Pools first: a new pool must be known before a model leads to it.
        self._assign(config)
        await self.fleet.reconfigure(config.pools)
        await self.pickers.more(config.picker.workers)
        self._configure_batches(config)
        self._update_envoy()
        log.info("the changed configuration is in force")

    def _configure_batches(self, config: Config) -> None:
        try:
            self.batches.configure(config)
        except OSError as error:
            log.error("files and batches are not served: %s", error)  # noqa: TRY400 - no stack

    async def _configure_tenants(self, config: Config) -> None:
        if self._tenancy is not None:
            self._tenancy.configure(config)
        elif config.has_tenants:
            tenancy = supervisor_tenancy(config, self._registry_written)
            await tenancy.start()
            self._tenancy, self._store = tenancy, _store_of(config)

    async def _registry_written(self) -> None:
        """Return when every picker here has read the registry: from then on a new key is accepted
        and a revoked one refused."""
        version = self.control.registry_written()
        with contextlib.suppress(TimeoutError):  # one that is stuck looks by itself later
            async with asyncio.timeout(_REGISTRY_READ_S):
                # Reports come in several times a second.
                while not self.control.all_have_applied(version):  # noqa: ASYNC110
                    await asyncio.sleep(_REGISTRY_READ_S / 50)

    @property
    def tenant_admin(self) -> TenantAdmin | None:
        """Tenants and keys; None: the configuration has had none since the start."""
        return self._tenancy.admin if self._tenancy is not None else None

    def _assign(self, config: Config) -> None:
        self.in_force.assigned(self.control.configure(to_json(config)))

    # -- parts in step

    async def _keep_in_step(self, source: EndpointSource) -> None:
        async for changes in source.changes():
            self.members.apply(changes)
            self._publish()

    def hold(self, pool: str, address: str, *, held: bool) -> None:
        """Send an endpoint no new requests, or some again."""
        self.members.hold(pool, address, held=held)
        self._publish()

    def _publish(self) -> None:
        """Bring what has changed of the endpoints to Envoy and to the pickers."""
        changes = self.members.publish(self.control.is_healthy, time.monotonic())
        if changes:
            self._update_envoy()  # it must know an endpoint before the pickers choose it
            self.control.change_endpoints(changes)

    def _update_envoy(self) -> None:
        if self.envoy is not None:
            self.envoy.update(self._plan(), self._addresses())

    def _addresses(self) -> dict[str, list[str]]:
        """Envoy keeps draining endpoints: requests still run on them."""
        members = self.members.endpoints()
        return {pool: [spec.address for spec in specs] for pool, specs in members.items()}

    def _plan(self) -> EnvoyPlan:
        return EnvoyPlan(self.run_dir.path, self.config, self.pickers.sockets())

    def _envoy_changed(self) -> None:
        if self.envoy is not None and self.envoy.child.state is ChildState.BACKOFF:
            self.control.proxy_ended(self.envoy.child.restarts + 1)

    def _reported(self) -> None:
        if self.members.hands_over:
            self._publish()
        elif self.control.reports and self.control.all_have_applied():
            for pool, address in self.members.leaving():
                if not self.control.in_flight((pool, address)):
                    self.fleet.drained(pool, address)


async def _done(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})


def _no_state(path: Path, config: Config, error: Exception) -> Problem:
    return Problem(
        *(path, 0, 0, "state_dir", f"{config.state_file}: {error}"),
        "a folder in which Penstock may keep tenants, keys and usage",
    )


def _store_of(config: Config) -> tuple[object, ...]:
    """The settings of the tenancy that only a start can change."""
    limits = config.limits
    return (config.state_dir, limits.store, limits.usage_days, limits.max_users_per_day)
