"""A picker worker process: does as the supervisor assigns until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import gc
import logging
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import uvloop
from msgspec import structs

from gateway.config.config import Config
from gateway.config.reading.wire import from_json
from gateway.control.assignment import Assignment
from gateway.control.client import ControlClient
from gateway.control.decisions import DecisionsServer
from gateway.control.queues import from_sight
from gateway.control.reporter import EndpointReporter
from gateway.run import derive
from gateway.run.certificates import ext_proc_certificate
from gateway.run.compose import WorkerParts, worker_parts
from gateway.run.learned import LearnedFile
from gateway.run.pool_models import pool_models
from gateway.run.response_key import response_key
from gateway.run.rundir import RunDir
from gateway.telemetry.multiprocess import use_fixed_process
from picker.explain.selection import DecisionsOfPicker
from picker.server.listen import Address, Listeners, Servers
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.state.spec import EndpointKey
from picker.wire import control_pb2
from policies import registry

log = logging.getLogger(__name__)

_TICK_S: Final = 0.25
_SAVE_S: Final = 10.0
_FIRST_LOOK_S: Final = 1.0
_DRAIN_GRACE_S: Final = 5.0


class Worker:
    """One picker process."""

    def __init__(self, run: RunDir, parts: WorkerParts, *, index: int) -> None:
        self._run = run
        self._index = index
        self._parts = parts
        self._picker = parts.picker
        self._servers: Servers | None = None
        self._config: Config | None = None
        self._control = ControlClient(run.control_socket, report=self._report)
        self._reporter = EndpointReporter(
            parts.picker.pools.states,
            parts.picker.flights.under_way,
            parts.picker.pools.tripped,
            self._caches,
        )
        picker = parts.picker
        self._decisions = DecisionsServer(
            DecisionsOfPicker(picker.id, picker.decisions, picker.now)
        )
        self._learned = LearnedFile(run.learned(index))
        self._applied = Assignment()
        self._scraped: set[str] = set()
        self._looked_at: set[EndpointKey] = set()
        """Replicas that were read or could not be, before it serves."""
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM, then finish what runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGUSR1, self._picker.leave)
        loop.add_signal_handler(signal.SIGUSR2, self._picker.close_queues)
        loop.add_signal_handler(signal.SIGHUP, self._parts.telemetry.reopen_log)
        self._parts.peers.start(self._picker.flights, self._picker.admission)
        self._parts.scraper.start(self)
        self._parts.tokenize_path.open()
        self._parts.kv_events.open()
        await self._decisions.start(self._run.decisions_socket(self._index))
        running = {
            asyncio.create_task(part)
            for part in (self._control.run(), self._follow(), self._tick(), self._save())
        }
        stopped = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait({stopped, *running}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()  # raises what ended it
        finally:
            await self._drain()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _on_signal(self) -> None:
        """Finish what runs and end; at the second signal, do not wait for it."""
        if self._stop.is_set() and self._servers is not None:
            self._servers.hurry()
        self._stop.set()

    async def _drain(self) -> None:
        parts = self._parts
        self._picker.drain()
        await parts.health.refresh()
        if self._servers is not None and self._config is not None:
            own_s = self._config.listen.drain_timeout_s
            await self._servers.stop(_DRAIN_GRACE_S, standard_grace_s=own_s)
        await self._decisions.stop()
        await parts.scraper.close()
        await self._picker.flights.counted()
        self._picker.flights.undecided.close()
        await parts.tokenize_path.close()
        parts.own_tokens.close()
        parts.kv_events.close()
        parts.peers.stop()  # no end may be reported to accounts that are closed
        await parts.tenancy.close()
        parts.bodies.close()
        self._learned.save(self._picker.pools.snapshot())
        parts.telemetry.close()

    # -- what the supervisor assigns

    async def _follow(self) -> None:
        flights = self._picker.flights
        async for assignment in self._control.changes():
            before = self._applied
            if assignment.configuration is not None:
                # In a thread: the first one with CEL imports its compiler, a tenth of a second.
                config = await asyncio.to_thread(from_json, assignment.configuration)
                await self._configure(config)
                self._sync_endpoints()
                if before.version == 0:  # only now slots have their addresses
                    self._picker.pools.restore(self._learned.load())
            else:
                changes = [one for one in assignment.endpoints if one.pool in self._picker.pools]
                for change in changes:
                    self._picker.apply_endpoints(change)
                self._scrape({change.pool for change in changes})
            if assignment.registry_generation != before.registry_generation:
                await self._parts.tenancy.refresh()
            if assignment.crash_generation != before.crash_generation:
                flights.picker_died()
            flights.pickers_live(assignment.live_pickers)
            if self._servers is None:
                await self._first_look()
                await self._serve()
                # What is here by now stays. Looking through it for garbage took a full collection
                # 20 ms and more, in which nothing is decided.
                gc.freeze()
            if assignment.proxy_generation != before.proxy_generation:
                flights.proxy_restarted()
            self._applied = assignment
            self._control.report_now()

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
        listeners = self._listeners(self._config)
        self._servers = Servers(self._picker, self._parts.health, listeners)
        await self._servers.start()

    async def _configure(self, config: Config) -> None:
        parts, before = self._parts, self._config
        self._picker.configure(derive.picker_settings(config))
        self._picker.response_ids.use(response_key(config))
        if before is None or before.limits.tokenizers != config.limits.tokenizers:
            parts.counting.configure(derive.tokenizers(config))
        parts.telemetry.configure(config.telemetry)
        workers = range(config.picker.workers)
        parts.peers.follow(self._run.peer_socket(i) for i in workers if i != self._index)
        self._config = config
        await parts.tenancy.configure(config)
        parts.scraper.configure(derive.scrape_settings(config))
        parts.engine_counts.use(derive.counting_upstreams(config))
        parts.own_tokens.configure(derive.tokenizer_files(config), pool_models(config))
        parts.engine_tokens.use(derive.tokenizing_upstreams(config))

    def _listeners(self, config: Config) -> Listeners:
        settings, health = config.picker.ext_proc, config.picker.health
        ext_proc = None
        if settings.port is not None:
            certificate = ext_proc_certificate(settings, self._run.certificate)
            ext_proc = Address(settings.address, settings.port, certificate)
        own = self._run.worker_sockets(self._index) if config.envoy.enabled else None
        return Listeners(
            socket=own.decisions if own is not None else None,
            access_logs=own.access_logs if own is not None else None,
            ext_proc=ext_proc,
            health=Address(health.address, health.port) if health.port is not None else None,
        )

    def _sync_endpoints(self) -> None:
        """After a change of the configuration, which may have brought and taken pools."""
        names = self._picker.pools.keys()
        for name in names:
            specs = self._control.endpoints.get(name, {})
            self._picker.pools.sync_endpoints(name, specs.values())
        for gone in self._scraped - names:
            self._parts.scraper.drop(gone)
            self._parts.kv_events.drop(gone)
        self._scrape(names)
        self._scraped = set(names)

    def _scrape(self, names: Iterable[str]) -> None:
        """Read the endpoints that these pools have now."""
        assert self._config is not None
        for pool in self._config.pools:
            if pool.name in names:
                runtime = self._picker.pools[pool.name]
                specs = runtime.state.specs
                self._parts.scraper.sync(derive.scraped_pool(pool), specs)
                self._parts.kv_events.sync(runtime, derive.kv_settings(pool), specs)

    # -- what the scraper reads

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        """See `ScrapeSink`."""
        self._look_at(pool, address)
        self._picker.apply_signals(pool, address, signals, started_s)

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        """See `ScrapeSink`."""
        self._picker.apply_models(pool, address, models, started_s)

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        """See `ScrapeSink`."""
        if lack is not Lack.MODELS:
            self._look_at(pool, address)
        self._picker.apply_lack(pool, address, lack, reason, started_s)

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        """See `ScrapeSink`."""
        self._look_at(pool, address)
        self._picker.mark_failed(pool, address, reason, started_s)

    def _look_at(self, pool: str, address: str) -> None:
        if self._servers is None:
            self._looked_at.add((pool, address))

    # -- from time to time

    async def _tick(self) -> None:
        parts = self._parts
        while True:
            await asyncio.sleep(_TICK_S)
            self._picker.flights.tick()
            self._picker.pools.tick()
            await parts.health.refresh()
            parts.telemetry.sample(parts.scraper.stats)
            parts.telemetry.sample_breakers(self._picker.pools.take_opened())
            for pool, shadow in self._picker.pools.shadows():
                parts.telemetry.sample_shadow(pool, shadow)
            parts.telemetry.sample_lost(
                access_log=self._servers.failed_entries if self._servers is not None else 0,
                peer_unreadable=parts.peers.unreadable,
                peer_dropped=parts.peers.dropped_batches,
            )
            parts.telemetry.sample_kv_events(parts.kv_events.stats, self._picker.tokenize.counts)
            tenancy, metrics = parts.tenancy.current, parts.telemetry.tenants
            if tenancy is not None:
                metrics.sample_expressions(tenancy.expression_failures)
                metrics.sample_registry(tenancy.registry_failures)
                if tenancy.outage is not None:
                    metrics.sample_outage(tenancy.outage)

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_S)
            await asyncio.to_thread(self._learned.save, self._picker.pools.snapshot())

    def _caches(self, pool: str) -> dict[int, str]:
        """How prefix caches are known, by slot: see `EndpointReport`."""
        caches = self._picker.pools.caches(pool)
        if self._parts.own_tokens.doubted(pool):
            return {slot: "asked" if one == "events" else one for slot, one in caches.items()}
        return caches

    def _report(self, whole: bool) -> control_pb2.Report:
        if whole:
            self._reporter.forget()
        report = control_pb2.Report(
            worker=self._parts.name,
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
        for pool, model, ttft, tpot in self._parts.telemetry.predictions.news(everything=whole):
            report.predictions.add(pool=pool, model=model, ttft_counts=ttft, tpot_counts=tpot)
        for pool, shadow in self._picker.pools.shadows():
            counts = structs.asdict(shadow.counts)
            report.shadows.add(pool=pool, policy=shadow.spec.name, **counts)
        self._reporter.fill(report, now_s=self._picker.now(), removed=removed)
        report.queues.extend(map(from_sight, self._picker.admission.sight()))
        return report


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m gateway.run.worker``: started by the supervisor, never by hand."""
    parser = argparse.ArgumentParser(description="One picker process of Penstock.")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    given = parser.parse_args(arguments)
    atexit.register(gc.freeze)  # looking for garbage in all modules makes the end 0.1 s longer
    use_fixed_process()
    registry.load_plugins()
    run = RunDir(given.run_dir, temporary=False)
    worker = Worker(run, worker_parts(run, given.index), index=given.index)
    uvloop.run(worker.run())


if __name__ == "__main__":
    main()
