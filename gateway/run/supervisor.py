"""The supervisor: runs Envoy, the picker workers and the pools, and keeps them in step."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Final

from gateway.children.child import (
    Backoff,
    Child,
    ChildError,
    ChildSpec,
    ChildState,
    Launch,
)
from gateway.config.config import Config
from gateway.config.reading.problems import ConfigError, Problem
from gateway.config.reading.wire import to_json
from gateway.config.schema.pools import SimulatedPool
from gateway.config.sources.source import ConfigSource
from gateway.control.server import ControlServer
from gateway.envoy.plan import EnvoyPlan
from gateway.envoy.proxy import Envoy
from gateway.pools.fleet import Fleet
from gateway.pools.handover import Handover
from gateway.pools.provider import ReplicaState
from gateway.run import derive
from gateway.run.certificates import write_self_signed
from gateway.run.compose import require_state, supervisor_tenancy
from gateway.run.rundir import RunDir
from gateway.telemetry.multiprocess import worker_ended
from gateway.tenancy.supervisor import SupervisorTenancy
from gateway.tenancy.tenant_admin import TenantAdmin
from picker.state.endpoints import EndpointSpec

log = logging.getLogger(__name__)

_PICKER_GRACE_S: Final = 14.0
"""To finish what runs, and to deliver settlements to a slow limit store."""
_RETIRE_S: Final = 0.3
"""From taking a picker out of Envoy's list to ending it: Envoy reads the list within that time."""
_REGISTRY_READ_S: Final = 1.0
_NEEDS_RESTART: Final = ("run_dir", "envoy")
"""Sections that a running Penstock cannot change."""


class StartError(RuntimeError):
    """Penstock cannot start; the message says what to do."""


class Supervisor:
    """One running Penstock."""

    def __init__(self, path: Path, config: Config, source: ConfigSource, run: RunDir) -> None:
        self.config = config
        self.run_dir = run
        self.config_version = 0
        self._assigned_version = 0
        self.started_s = time.time()
        self.accepted_s = time.time()
        self.refused: ConfigError | None = None
        """The last change of the file, when it was not accepted."""
        self.refused_s = 0.0
        self.path = path
        self._source = source
        self.fleet = Fleet(run.logs, self._pools_changed)
        self.control = ControlServer(run.control_socket, self._reported)
        self.pickers: list[Child] = []
        self._retiring: Child | None = None
        self.envoy: Envoy | None = None
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._held: set[tuple[str, str]] = set()
        self._handover = Handover()
        self._kept: set[tuple[str, str]] = set()
        self._worker_pids: dict[str, set[int]] = {}
        self._live_pickers: set[str] = set()
        self._tenancy: SupervisorTenancy | None = None
        self._store: tuple[object, ...] = ()
        """Where the tenancy keeps what it keeps."""

    # -- life

    async def start(self) -> None:
        """Start everything; returns when requests are served, as far as replicas are up.

        Raises StartError and ChildError.
        """
        config = self.config
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_signal)
        # A terminal that is closed sends it too, and then Penstock ends as at Ctrl-C.
        on_hangup = self.on_signal if sys.stdin.isatty() else self.reopen_logs
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
        if config.picker.ext_proc.port is not None:
            write_self_signed(self.run_dir.certificate)
        try:
            await asyncio.to_thread(require_state, config)
        except (OSError, sqlite3.Error) as error:
            raise StartError(str(_no_state(self.path, config, error))) from error
        await self._configure_tenants(config)
        await self.control.start()
        self._assign(config)
        await self.fleet.reconfigure(config.pools)
        self._run_pickers(config.picker.workers)
        await self._first_of_each_picker()
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
            replicas = [one for pool in self.fleet.status().values() for one in pool]
            if all(one.state is not ReplicaState.STARTING for one in replicas):
                return
            await self.changed(0.2)

    async def serve(self) -> None:
        """Return at SIGTERM or SIGINT; raises what ended a part that must not end."""
        assert self._following is not None
        stopped = asyncio.create_task(self._stop.wait())
        parts = {self._following, stopped}
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._following in done:
            self._following.result()

    def on_signal(self) -> None:
        """SIGTERM or SIGINT: stop, gracefully; at the second one, at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def reopen_logs(self) -> None:
        """SIGHUP: the request log's file was rotated; the pickers hold it open."""
        for child in self.pickers:
            if child.state is ChildState.READY and child.pid is not None:
                with contextlib.suppress(ProcessLookupError):  # it opens the file anew anyway
                    os.kill(child.pid, signal.SIGHUP)

    @property
    def stopping(self) -> bool:
        """A signal to stop has come."""
        return self._stop.is_set()

    async def stop(self) -> None:
        """Drain, then end everything, in the order in which requests leave."""
        if self._following is not None:
            self._following.cancel()
        if self.envoy is not None:
            await self._unless_hurried(self.envoy.drain(self.config.listen.drain_timeout_s))
            await self.envoy.stop()
        await asyncio.gather(*(child.stop() for child in self.pickers))
        await self.fleet.stop()
        await self.control.stop()
        if self._tenancy is not None:
            await self._tenancy.close()

    async def _unless_hurried(self, draining: Coroutine[None, None, None]) -> None:
        tasks = [asyncio.create_task(draining), asyncio.create_task(self._hurry.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    # -- configuration

    async def _follow(self) -> None:
        async for result in self._source.changes():
            refused = result if isinstance(result, ConfigError) else await self._obstacle(result)
            if refused is not None:
                self.refused, self.refused_s = refused, time.time()
                log.error("the changed configuration is refused, the old one stays:\n%s", refused)
            elif isinstance(result, Config):
                await self.apply(result)

    async def _obstacle(self, config: Config) -> ConfigError | None:
        """Why a sound configuration cannot come into force while this Penstock runs."""
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
        before = self.config
        for section in _NEEDS_RESTART:
            if getattr(before, section) != getattr(config, section):
                log.warning("%s has changed: that takes a restart of Penstock", section)
        if (before.admin.address, before.admin.port) != (config.admin.address, config.admin.port):
            log.warning("admin's address has changed: that takes a restart of Penstock")
        if before.picker.ext_proc != config.picker.ext_proc or (
            before.picker.health != config.picker.health
        ):
            log.warning("a picker port has changed: that takes a restart of Penstock")
        self.config, self.accepted_s, self.refused = config, time.time(), None
        await self._configure_tenants(config)
        await self._fewer_pickers(config.picker.workers)
        # Pools first: a new pool must be known before a model leads to it.
        self._assign(config)
        await self.fleet.reconfigure(config.pools)
        await self._more_pickers(config.picker.workers)
        self._pools_changed()
        log.info("the changed configuration is in force")

    async def _configure_tenants(self, config: Config) -> None:
        if self._tenancy is not None:
            self._tenancy.configure(config)
        elif config.has_tenants:
            tenancy = supervisor_tenancy(config, self._registry_written)
            await tenancy.start()
            self._tenancy, self._store = tenancy, _store_of(config)

    async def _registry_written(self) -> None:
        """Return when every picker here has read it: a key that was told opens at once, and one
        that was revoked is refused."""
        version = self.control.assign(registry_written=True)
        with contextlib.suppress(TimeoutError):  # one that is stuck looks by itself later
            async with asyncio.timeout(_REGISTRY_READ_S):
                while any(  # noqa: ASYNC110 - reports come in several times a second
                    report.applied_version < version for report in self.control.reports.values()
                ):
                    await asyncio.sleep(_REGISTRY_READ_S / 50)

    @property
    def tenant_admin(self) -> TenantAdmin | None:
        """Tenants and keys; None: the configuration has had none since the start."""
        return self._tenancy.admin if self._tenancy is not None else None

    def _assign(self, config: Config) -> None:
        self._assigned_version = self.control.assign(
            configuration=to_json(config), pools=self.members()
        )
        self.config_version += 1

    def config_version_of(self, worker: str) -> int:
        """Version of the configuration that a picker worker works by, 0: none yet."""
        report = self.control.reports.get(worker)
        if report is None or report.applied_version == 0:
            return 0
        return self.config_version - (report.applied_version < self._assigned_version)

    # -- parts in step

    def members(self) -> dict[str, list[EndpointSpec]]:
        """Endpoints by pool; those that a person has taken out count as draining, and those that
        are needed until their replacements are healthy do not."""
        return {
            pool: [replace(spec, draining=self._drains(pool, spec)) for spec in specs]
            for pool, specs in self.fleet.endpoints().items()
        }

    def _drains(self, pool: str, spec: EndpointSpec) -> bool:
        one = (pool, spec.address)
        return one in self._held or (spec.draining and one not in self._kept)

    def _hand_over(self) -> None:
        healthy = {
            (status.pool, status.address)
            for report in self.control.reports.values()
            for status in report.endpoints
            if status.healthy
        }
        self._kept = self._handover.keep(self.fleet.endpoints(), healthy, time.monotonic())

    def hold(self, pool: str, address: str, *, held: bool) -> None:
        """Send an endpoint no new requests, or some again."""
        (self._held.add if held else self._held.discard)((pool, address))
        self._pools_changed()

    def _addresses(self) -> dict[str, list[str]]:
        """Envoy keeps draining endpoints: requests still run on them."""
        return {pool: [spec.address for spec in specs] for pool, specs in self.members().items()}

    def _plan(self) -> EnvoyPlan:
        serving = [
            index
            for index, child in enumerate(self.pickers)
            if child.state is ChildState.READY and child is not self._retiring
        ]
        indices = serving or range(len(self.pickers))
        sockets = tuple(self.run_dir.picker_socket(i) for i in indices)
        return derive.envoy_plan(self.config, self.run_dir.path, sockets)

    def _envoy_changed(self) -> None:
        if self.envoy is not None and self.envoy.child.state is ChildState.BACKOFF:
            self.control.assign(proxy_generation=self.envoy.child.restarts + 1)
        self._notify()

    def _pickers_changed(self) -> None:
        if self.envoy is not None:  # one that has ended gets no more requests
            self.envoy.update(self._plan(), self._addresses())
        self._notify()

    def _pools_changed(self) -> None:
        self._hand_over()
        if self.envoy is not None:  # Envoy must know an endpoint before the pickers choose it
            self.envoy.update(self._plan(), self._addresses())
        self.control.assign(pools=self.members())
        self._notify()

    def _reported(self) -> None:
        live = {report.picker_id for report in self.control.reports.values()}
        if live != self._live_pickers:
            self._live_pickers = live
            self.control.assign(live_pickers=live)
        busy: dict[tuple[str, str], int] = {}
        for report in self.control.reports.values():
            for status in report.endpoints:
                key = (status.pool, status.address)
                busy[key] = busy.get(key, 0) + status.in_flight_requests
        applied = [report.applied_version for report in self.control.reports.values()]
        if self._kept:
            before = self._kept
            self._hand_over()
            if self._kept != before:
                self._pools_changed()
        elif applied and min(applied) == self.control.version:
            self.fleet.observe_load(busy)
        self._notify()

    def some_model(self) -> str | None:
        """A base model to try, if one is configured."""
        for pool in self.config.pools:
            if isinstance(pool, SimulatedPool):
                return pool.model
            if pool.models:
                return pool.models[0]
        return None

    def _notify(self) -> None:
        self._changed.set()

    async def changed(self, timeout_s: float) -> None:
        """Return when something has changed, or after the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()

    # -- pickers

    def _run_pickers(self, workers: int) -> None:
        self.pickers = [self._picker(index) for index in range(workers)]
        for child in self.pickers:
            child.start()

    async def _more_pickers(self, workers: int) -> None:
        """Start what is missing; those that run have been told how many there will be."""
        for index in range(len(self.pickers), workers):
            self.pickers.append(self._picker(index))
            await self._begin(self.pickers[index])

    async def _fewer_pickers(self, workers: int) -> None:
        """End those that are too many, while the others still tell them how their requests end."""
        for child in self.pickers[workers:]:
            await self._retire(child)
        del self.pickers[workers:]

    async def _begin(self, child: Child) -> None:
        child.start()
        try:
            await child.wait_ready()
        except ChildError as error:
            log.error("%s; it is started again", error)  # noqa: TRY400 - no stack wanted

    async def _retire(self, child: Child) -> None:
        self._retiring = child
        self._pickers_changed()
        await asyncio.sleep(_RETIRE_S)
        await child.stop()
        self._retiring = None

    def _picker(self, index: int) -> Child:
        name = f"picker-{index}"
        command = (
            *(sys.executable, "-m", "gateway.run.worker", "--run-dir", str(self.run_dir.path)),
            *("--index", str(index)),
        )

        async def ready() -> bool:
            report = self.control.reports.get(name)
            return report is not None and report.pid == child.pid and report.ready

        child = Child(
            ChildSpec(
                name=name,
                launch=lambda: Launch(command, env=self.run_dir.worker_environment()),
                ready=ready,
                ready_timeout_s=30.0,
                grace_s=_PICKER_GRACE_S,
                backoff=Backoff(initial_s=0.05, max_s=5.0, stable_after_s=5.0),
                log_file=self.run_dir.logs / f"{name}.log",
            ),
            on_state=self._picker_changed,
        )
        return child

    def _picker_changed(self, child: Child) -> None:
        if child.state in (ChildState.BACKOFF, ChildState.STOPPED):
            for pid in self._worker_pids.pop(child.spec.name, set()):
                worker_ended(pid, self.run_dir.metrics)
            if child.state is ChildState.BACKOFF:
                self.control.assign(picker_crashed=True)
        elif child.pid is not None:
            self._worker_pids.setdefault(child.spec.name, set()).add(child.pid)
        # Envoy's own ejection takes several failures, and longer the second time.
        self._pickers_changed()

    async def _first_of_each_picker(self) -> None:
        await asyncio.gather(*(child.wait_ready() for child in self.pickers))


def _no_state(path: Path, config: Config, error: Exception) -> Problem:
    return Problem(
        *(path, 0, 0, "state_dir", f"{config.state_file}: {error}"),
        "a folder in which Penstock may keep tenants, keys and usage",
    )


def _store_of(config: Config) -> tuple[object, ...]:
    """What only a start can change."""
    limits = config.limits
    return (config.state_dir, limits.store, limits.usage_days, limits.max_users_per_day)
