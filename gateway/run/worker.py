"""A picker worker process: builds the picker, hands it its parts, serves until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

import policies.routing  # noqa: F401 - registers the built-in policies
from gateway.config.config import Config
from gateway.config.reading.wire import from_json
from gateway.control.client import ControlClient
from gateway.run import compose, derive
from gateway.run.certificates import ext_proc_certificate
from gateway.run.rundir import RunDir
from gateway.telemetry.multiprocess import use_fixed_process
from gateway.telemetry.worker import WorkerTelemetry
from picker.core import Picker
from picker.replication.local import LocalPeers
from picker.server.health import Health
from picker.server.listen import Address, Listeners, Servers
from picker.signals.scraper import Scraper
from picker.state.endpoints import EndpointSpec, ServedModel, Signals
from picker.wire import control_pb2
from policies import registry

log = logging.getLogger(__name__)

_TICK_S: Final = 0.25
_FIRST_LOOK_S: Final = 1.0
_DRAIN_GRACE_S: Final = 5.0


class Worker:
    """One picker process."""

    def __init__(self, run: RunDir, *, index: int) -> None:
        self._run = run
        self._index = index
        self._name = f"picker-{index}"
        self._telemetry = WorkerTelemetry(
            self._name, lambda name: self._picker.catalog.is_known(name)
        )
        self._picker = Picker(
            f"{index}.{secrets.token_hex(4)}",
            observer=self._telemetry.observer,
            now=time.monotonic,
            rng=random.Random(),  # noqa: S311 - ties and weights, nothing secret
        )
        self._health = Health(self._picker)
        self._peers = LocalPeers(
            self._picker,
            own=run.peer_socket(index),
            others=(),
        )
        self._tenancy = compose.worker_tenancy(self._telemetry.tenants, run.accounts_socket(index))
        self._picker.gate = self._tenancy
        self._picker.traffic.limiter = self._tenancy
        self._scraper: Scraper | None = None
        self._servers: Servers | None = None
        self._config: Config | None = None
        self._applied_version = 0
        self._proxy_generation = 0
        self._registry_generation = 0
        self._crash_generation = 0
        self._latest: control_pb2.Assignment | None = None
        self._configuration = b""
        """Came with an assignment and is not applied yet."""
        self._scraped: set[str] = set()
        self._looked_at: set[tuple[str, str]] = set()
        """Pool and address of the replicas that were read or could not be, before it serves."""
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM, then finish what runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._telemetry.reopen_log)
        client = ControlClient(self._run.control_socket, apply=self._apply, report=self._report)
        attached = asyncio.create_task(client.run())
        ticking = asyncio.create_task(self._tick())
        applying = asyncio.create_task(self._applier())
        self._peers.start()
        try:
            stopped = asyncio.create_task(self._stop.wait())
            done, _ = await asyncio.wait(
                {stopped, attached, ticking, applying}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopped}:
                task.result()  # raises what ended it
        finally:
            await self._drain()
            for task in (attached, ticking, applying):
                task.cancel()
            await asyncio.gather(attached, ticking, applying, return_exceptions=True)

    async def _drain(self) -> None:
        self._picker.draining = True
        await self._health.refresh()
        if self._servers is not None:
            await self._servers.stop(_DRAIN_GRACE_S)
        if self._scraper is not None:
            await self._scraper.close()
        self._peers.stop()  # no end may be told to accounts that are closed
        await self._tenancy.close()
        self._telemetry.close()

    # -- what the supervisor says

    def _apply(self, assignment: control_pb2.Assignment) -> None:
        # Assignments that come faster than they are applied are left out, configurations never.
        self._configuration = assignment.configuration or self._configuration
        self._latest = assignment
        self._wake.set()

    async def _applier(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            assignment = self._latest
            assert assignment is not None
            if self._configuration:
                configuration, self._configuration = self._configuration, b""
                await self._configure(from_json(configuration))
            if assignment.registry_generation != self._registry_generation:
                self._registry_generation = assignment.registry_generation
                await self._tenancy.refresh()
            if assignment.crash_generation != self._crash_generation:
                self._crash_generation = assignment.crash_generation
                self._picker.traffic.picker_crashed()
            self._picker.traffic.live_pickers = frozenset(assignment.live_pickers)
            self._sync_endpoints(assignment)
            if self._servers is None:
                await self._first_look(assignment)
                await self._serve()
            if assignment.proxy_generation != self._proxy_generation:
                self._proxy_generation = assignment.proxy_generation
                self._picker.traffic.forget_all()
            self._applied_version = assignment.version

    async def _first_look(self, assignment: control_pb2.Assignment) -> None:
        """A worker that was started again takes no request before it has seen the replicas."""
        wanted = {(pool.pool, e.address) for pool in assignment.pools for e in pool.endpoints}
        try:
            async with asyncio.timeout(_FIRST_LOOK_S):
                while not wanted <= self._looked_at:  # noqa: ASYNC110 - once, at the start
                    await asyncio.sleep(_FIRST_LOOK_S / 100)
        except TimeoutError:
            log.info("some replicas do not answer yet")

    async def _serve(self) -> None:
        assert self._config is not None
        self._servers = Servers(self._picker, self._health, self._listeners(self._config))
        await self._servers.start()

    async def _configure(self, config: Config) -> None:
        self._picker.configure(derive.picker_settings(config))
        if self._config is None or self._config.limits.tokenizers != config.limits.tokenizers:
            self._picker.counting = derive.counting(config)
        self._telemetry.configure(config.telemetry)
        workers = range(config.picker.workers)
        self._peers.follow(self._run.peer_socket(i) for i in workers if i != self._index)
        before, self._config = self._config, config
        await self._tenancy.configure(config)
        if (
            self._scraper is None
            or before is None
            or (derive.scrape_settings(before) != derive.scrape_settings(config))
        ):
            if self._scraper is not None:
                await self._scraper.close()
            self._scraper = Scraper(self, derive.scrape_settings(config), clock=self._picker.now)
            await self._scraper.__aenter__()
            self._picker.traffic.watch = self._scraper

    def _listeners(self, config: Config) -> Listeners:
        settings, health = config.picker.ext_proc, config.picker.health
        ext_proc = None
        if settings.port is not None:
            certificate = ext_proc_certificate(settings, self._run.certificate)
            ext_proc = Address(settings.address, settings.port, certificate)
        return Listeners(
            socket=self._run.picker_socket(self._index) if config.envoy.enabled else None,
            ext_proc=ext_proc,
            health=Address(health.address, health.port) if health.port is not None else None,
        )

    def _sync_endpoints(self, assignment: control_pb2.Assignment) -> None:
        assert self._config is not None
        assert self._scraper is not None
        members = {pool.pool: pool.endpoints for pool in assignment.pools}
        for pool in self._config.pools:
            specs = [EndpointSpec(e.address, e.draining) for e in members.get(pool.name, ())]
            self._picker.sync_endpoints(pool.name, specs)
            scraped = derive.scraped_pool(pool)
            self._scraper.sync(scraped, [spec.address for spec in specs])
        names = {pool.name for pool in self._config.pools}
        for gone in set(self._scraped) - names:
            self._scraper.drop(gone)
        self._scraped = names

    # -- what the scraper says

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        self._look_at(pool, address)
        self._picker.apply_signals(
            pool, address, signals, began_s=started_s, now_s=self._picker.now()
        )

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        self._picker.apply_models(pool, address, list(models))

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        self._look_at(pool, address)
        self._picker.mark_failed(pool, address, now_s=self._picker.now(), reason=reason)

    def _look_at(self, pool: str, address: str) -> None:
        if self._servers is None:
            self._looked_at.add((pool, address))

    # -- what the supervisor hears

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._picker.traffic.tick()
            await self._health.refresh()
            if self._scraper is not None:
                self._telemetry.sample(self._scraper.stats)
            self._telemetry.sample_lost(
                access_log=self._servers.failed_entries if self._servers is not None else 0,
                peer_unreadable=self._peers.unreadable,
                peer_dropped=self._peers.dropped_batches,
            )
            if (tenancy := self._tenancy.current) is not None:
                self._telemetry.tenants.sample_expressions(tenancy.expression_failures)
                self._telemetry.tenants.sample_registry(tenancy.registry_failures)
                if tenancy.outage is not None:
                    self._telemetry.tenants.sample_outage(tenancy.outage)

    def _report(self) -> control_pb2.Report:
        report = control_pb2.Report(
            worker=self._name,
            pid=os.getpid(),
            picker_id=self._picker.id,
            applied_version=self._applied_version,
            ready=self._applied_version > 0 and not self._picker.draining,
        )
        now_s = self._picker.now()
        for name, runtime in self._picker.pools.items():
            view = runtime.state.view
            for address, slot in runtime.state.slot_of.items():
                problem = runtime.state.why_not(address, now_s)
                report.endpoints.append(
                    control_pb2.EndpointStatus(
                        pool=name,
                        address=address,
                        healthy=problem is None,
                        problem=problem or "",
                        in_flight_requests=self._picker.traffic.under_way(name, address),
                        waiting_requests=float(view.waiting_requests[slot]),
                        running_requests=float(view.running_requests[slot]),
                        kv_usage=float(view.kv_usage[slot]),
                        models=runtime.state.models.served_by(slot),
                    )
                )
        report.endpoints.extend(self._leaving())
        return report

    def _leaving(self) -> list[control_pb2.EndpointStatus]:
        """Endpoints of pools that are gone from the configuration and still finish requests."""
        pools = self._latest.pools if self._latest is not None else ()
        return [
            control_pb2.EndpointStatus(
                pool=pool.pool,
                address=endpoint.address,
                problem="its pool is being removed",
                in_flight_requests=self._picker.traffic.under_way(pool.pool, endpoint.address),
            )
            for pool in pools
            if pool.pool not in self._picker.pools
            for endpoint in pool.endpoints
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m gateway.run.worker``: started by the supervisor, never by hand."""
    parser = argparse.ArgumentParser(description="One picker process of Penstock.")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    given = parser.parse_args(arguments)
    use_fixed_process()
    registry.load_plugins()
    worker = Worker(RunDir(given.run_dir, temporary=False), index=given.index)
    uvloop.run(worker.run())


if __name__ == "__main__":
    main()
