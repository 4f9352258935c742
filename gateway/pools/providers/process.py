"""Pools of replicas that are processes of ours: started, watched, scaled, replaced, drained."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import aiohttp

from gateway.config.schema.pools import ProcessPool, SimulatedPool
from gateway.pools.provider import OnChange, PoolConfig, ReplicaRecord
from gateway.pools.providers.replica import LaunchTemplate, Replica, ReplicaPlan
from picker.state.spec import EndpointSpec

_LOG: Final = logging.getLogger("penstock.pools")

_Config = TypeVar("_Config", ProcessPool, SimulatedPool)


def process_plan(config: ProcessPool) -> ReplicaPlan:
    """How the replicas of a `process` pool are run."""
    launch = LaunchTemplate(
        command=config.command,
        env={
            key: value if isinstance(value, str) else value.reveal()
            for key, value in config.env.items()
        },
        cwd=config.cwd,
        host=config.host,
        first_port=config.first_port,
    )
    headers = config.upstream_headers
    return ReplicaPlan(launch, config.ready, config.stop, config.restart, headers)


class ReplicaProcesses(Generic[_Config]):
    """A pool of processes.

    Fewer replicas: the last ones drain, then stop. More: they become endpoints when ready. Another
    command, environment, folder, host or port: one replica after the other is drained, stopped and
    started anew, the next one when that is ready, so a broken command stops the exchange early.
    Other timings apply to replicas started from then on.
    """

    def __init__(
        self,
        config: _Config,
        plan_of: Callable[[_Config], ReplicaPlan],
        *,
        on_change: OnChange,
        log_dir: Path | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """``log_dir``: folder for a log file of each replica; None: only their last lines."""
        self._section: type[_Config] = type(config)
        self._plan_of: Callable[[_Config], ReplicaPlan] = plan_of
        self._plan = plan_of(config)
        self._config: _Config = config
        self._count = config.replicas
        self._on_change = on_change
        self._log_dir = log_dir
        self._rng = rng or random.Random()  # noqa: S311 - ports and jitter
        self._replicas: dict[int, Replica] = {}
        self._retiring: dict[Replica, asyncio.Task[None]] = {}
        self._announced: tuple[EndpointSpec, ...] = ()
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """See Provider."""
        self._http = aiohttp.ClientSession()
        self._reconcile()

    async def stop(self) -> None:
        """See Provider."""
        http, self._http = self._http, None
        if http is None:
            return
        retiring = dict(self._retiring)
        children = [replica.child for replica in self._all()]
        self._replicas = {}
        for replica in retiring:
            replica.drained()
        try:
            await asyncio.gather(*retiring.values(), *(child.stop() for child in children))
        except asyncio.CancelledError:
            for child in children:
                child.kill()
            await asyncio.gather(*(child.stop() for child in children))
            raise
        finally:
            await http.close()
            self._announce()

    def endpoints(self) -> tuple[EndpointSpec, ...]:
        """See Provider."""
        serving = [r for r in self._all() if r.ready and (r.draining or r not in self._retiring)]
        specs = [
            EndpointSpec(replica.address, draining=replica.draining, kv_events=replica.kv_events)
            for replica in serving
            if replica.address is not None
        ]
        return tuple(sorted(specs, key=lambda spec: spec.address))

    def reconfigure(self, config: PoolConfig) -> bool:
        """See Provider."""
        if not isinstance(config, self._section):
            return False
        self._config, self._plan = config, self._plan_of(config)
        return self.scale(config.replicas)

    def scale(self, replicas: int) -> bool:
        """See Provider."""
        self._count = replicas
        self._reconcile()
        return True

    async def leave(self) -> None:
        """See Provider."""
        self.scale(0)
        while self._retiring:
            done, _ = await asyncio.wait(self._retiring.values())
            for task in done:
                task.result()  # raises what ended it

    def drained(self, address: str) -> None:
        """See Provider."""
        for replica in self._retiring:
            if replica.address == address:
                replica.drained()

    def replicas(self) -> tuple[ReplicaRecord, ...]:
        """See Provider."""
        ordered = sorted(self._all(), key=lambda replica: (replica.index, not replica.draining))
        return tuple(replica.record() for replica in ordered)

    def _all(self) -> list[Replica]:
        return [*self._replicas.values(), *self._retiring]

    def _on_state(self) -> None:
        for replica in self._retiring:
            if not replica.ready:  # it ended while it drained: nothing left to wait for
                replica.drained()
        self._announce()
        self._reconcile()

    def _announce(self) -> None:
        now = self.endpoints()
        if now != self._announced:
            self._announced = now
            self._on_change()

    def _reconcile(self) -> None:
        """Take those steps towards the configuration that can be taken now."""
        if self._http is None:
            return
        for index in [index for index in self._replicas if index >= self._count]:
            self._retire(self._replicas.pop(index))
        for replica in self._outdated():
            self._retire(self._replicas.pop(replica.index))
        for index in range(self._count):
            if index not in self._replicas:
                self._fill(index, self._http)
        self._announce()

    def _fill(self, index: int, http: aiohttp.ClientSession) -> None:
        """Start a replica, or take back the one of this index that drains. One that stops may still
        hold its port and its device: nothing is started before it has ended."""
        before = next((replica for replica in self._retiring if replica.index == index), None)
        if before is None:
            replica = Replica(
                self._config.name,
                index,
                self._plan,
                http=http,
                taken_ports=lambda: {port for r in self._all() for port in r.ports},
                log_dir=self._log_dir,
                on_state=self._on_state,
                rng=self._rng,
            )
            self._replicas[index] = replica
            replica.child.start()
        elif before.draining and before.plan.launch == self._plan.launch:
            before.undrain()
            self._retiring.pop(before).cancel()
            self._replicas[index] = before

    def _outdated(self) -> list[Replica]:
        """Replicas of an old plan to be replaced now: all that do not serve. When all serve, a
        single one, and only while every other one is ready."""
        old = [r for r in self._replicas.values() if r.plan.launch != self._plan.launch]
        idle = [replica for replica in old if not replica.ready]
        new_ones_ready = all(
            replica.ready or replica in idle for replica in self._replicas.values()
        )
        complete = len(self._replicas) == self._count and not self._retiring
        if idle or not (old and new_ones_ready and complete):
            return idle
        return old[:1]

    def _retire(self, replica: Replica) -> None:
        replica.drain()
        self._retiring[replica] = asyncio.create_task(
            self._retired(replica), name=f"retire {self._config.name}-{replica.index}"
        )

    async def _retired(self, replica: Replica) -> None:
        try:
            async with asyncio.timeout(self._config.drain_timeout_s):
                await replica.wait_drained()
        except TimeoutError:
            _LOG.warning(
                "pool %s: %s still had requests after %g s and is stopped",
                self._config.name,
                replica.address,
                self._config.drain_timeout_s,
            )
        replica.undrain()
        self._announce()
        await replica.child.stop()
        self._retiring.pop(replica, None)
        self._on_state()
