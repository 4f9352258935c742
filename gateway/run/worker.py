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
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Final

import uvloop

import policies.routing  # noqa: F401 - registers the built-in policies
from gateway.config.config import Config
from gateway.config.reading.wire import from_json
from gateway.control.assignment import Assignment
from gateway.control.client import ControlClient
from gateway.control.reporter import EndpointReporter
from gateway.run import compose, derive
from gateway.run.certificates import ext_proc_certificate
from gateway.run.rundir import RunDir
from gateway.telemetry.multiprocess import use_fixed_process
from gateway.telemetry.worker import WorkerTelemetry
from picker.core import Parts, Picker
from picker.prompt.counting import Counting
from picker.replication.local import LocalPeers
from picker.seams.watch import Unwatched, Watch
from picker.server.health import Health
from picker.server.listen import Address, Listeners, Servers
from picker.signals.scraper import Scraper
from picker.state.endpoints import EndpointChanges, Signals
from picker.state.models import ServedModel
from picker.wire import control_pb2
from policies import registry

log = logging.getLogger(__name__)

_TICK_S: Final = 0.25
_FIRST_LOOK_S: Final = 1.0
_DRAIN_GRACE_S: Final = 5.0


class _Watching:
    """The watch in force."""

    def __init__(self) -> None:
        self.watch: Watch = Unwatched()

    def touch(self, pool: str, address: str) -> None:
        self.watch.touch(pool, address)

    def poke(self, pool: str, address: str) -> None:
        self.watch.poke(pool, address)


class Worker:
    """One picker process."""

    def __init__(self, run: RunDir, *, index: int) -> None:
        self._run = run
        self._index = index
        self._name = f"picker-{index}"
        self._telemetry = WorkerTelemetry(
            self._name, lambda name: self._picker.catalog.is_known(name)
        )
        picker_id = f"{index}.{secrets.token_hex(4)}"
        self._peers = LocalPeers(picker_id, own=run.peer_socket(index))
        self._counting = Counting()
        self._watching = _Watching()
        self._tenancy = compose.worker_tenancy(self._telemetry.tenants, run.accounts_socket(index))
        self._picker = Picker(
            picker_id,
            Parts(
                observer=self._telemetry.observer,
                gate=self._tenancy,
                limiter=self._tenancy,
                peers=self._peers,
                watch=self._watching,
                counting=self._counting,
            ),
            now=time.monotonic,
            rng=random.Random(),  # noqa: S311 - ties and weights, nothing secret
        )
        self._health = Health(self._picker)
        self._scraper: Scraper | None = None
        self._servers: Servers | None = None
        self._config: Config | None = None
        self._control = ControlClient(run.control_socket, report=self._report)
        self._reporter = EndpointReporter(self._picker.pools.states, self._picker.flights.under_way)
        self._applied = Assignment()
        self._scraped: set[str] = set()
        self._looked_at: set[tuple[str, str]] = set()
        """Pool and address of the replicas that were read or could not be, before it serves."""
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM, then finish what runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._telemetry.reopen_log)
        attached = asyncio.create_task(self._control.run())
        ticking = asyncio.create_task(self._tick())
        applying = asyncio.create_task(self._applier())
        self._peers.start(self._picker.flights)
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
        self._picker.drain()
        await self._health.refresh()
        if self._servers is not None:
            await self._servers.stop(_DRAIN_GRACE_S)
        if self._scraper is not None:
            await self._scraper.close()
        self._peers.stop()  # no end may be told to accounts that are closed
        await self._tenancy.close()
        self._telemetry.close()

    # -- what the supervisor says

    async def _applier(self) -> None:
        async for assignment in self._control.changes():
            before = self._applied
            if assignment.configuration is not None:
                await self._configure(from_json(assignment.configuration))
                self._sync_endpoints()
            else:
                self._apply_endpoints(assignment.endpoints)
            written = assignment.registry_generation != before.registry_generation
            if written:
                await self._tenancy.refresh()
            if assignment.crash_generation != before.crash_generation:
                self._picker.flights.picker_died()
            self._picker.flights.pickers_live(assignment.live_pickers)
            if self._servers is None:
                await self._first_look()
                await self._serve()
            if assignment.proxy_generation != before.proxy_generation:
                self._picker.flights.proxy_restarted()
            self._applied = assignment

    async def _first_look(self) -> None:
        """A worker that was started again takes no request before it has seen the replicas."""
        wanted = {(pool, a) for pool, specs in self._control.endpoints.items() for a in specs}
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
            self._counting.configure(derive.tokenizers(config))
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
            self._watching.watch = self._scraper

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

    def _apply_endpoints(self, changes: Iterable[EndpointChanges]) -> None:
        known = [change for change in changes if change.pool in self._picker.pools]
        for change in known:
            self._picker.apply_endpoints(change)
        self._scrape({change.pool for change in known})

    def _sync_endpoints(self) -> None:
        """After a change of the configuration, which may have brought and taken pools."""
        assert self._config is not None
        assert self._scraper is not None
        for pool in self._config.pools:
            specs = self._control.endpoints.get(pool.name, {})
            self._picker.pools.sync_endpoints(pool.name, specs.values())
        self._scrape(self._picker.pools.keys())
        names = {pool.name for pool in self._config.pools}
        for gone in set(self._scraped) - names:
            self._scraper.drop(gone)
        self._scraped = names

    def _scrape(self, pools: Container[str]) -> None:
        assert self._config is not None
        assert self._scraper is not None
        for pool in self._config.pools:
            if pool.name in pools:
                state = self._picker.pools.states[pool.name]
                self._scraper.sync(derive.scraped_pool(pool), state.slot_of)

    # -- what the scraper says

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        self._look_at(pool, address)
        self._picker.apply_signals(pool, address, signals, started_s)

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        self._picker.apply_models(pool, address, models, started_s)

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        self._look_at(pool, address)
        self._picker.mark_failed(pool, address, reason, started_s)

    def _look_at(self, pool: str, address: str) -> None:
        if self._servers is None:
            self._looked_at.add((pool, address))

    # -- what the supervisor hears

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._picker.flights.tick()
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

    def _report(self, whole: bool) -> control_pb2.Report:
        if whole:
            self._reporter.forget()
        report = control_pb2.Report(
            worker=self._name,
            pid=os.getpid(),
            picker_id=self._picker.id,
            applied_version=self._applied.version,
            ready=self._applied.version > 0 and not self._picker.draining,
        )
        removed = [
            (pool, address)
            for pool, specs in self._control.endpoints.items()
            if pool not in self._picker.pools
            for address in specs
        ]
        self._reporter.fill(report, now_s=self._picker.now(), removed=removed)
        return report


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
