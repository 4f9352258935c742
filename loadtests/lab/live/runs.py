"""The runs of a live comparison: one after the other, all on equal replicas."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final

import aiohttp

from loadtests.lab.comparison import Cell, Run
from loadtests.lab.live import gateways, peers, replicas
from loadtests.lab.live.child import StartError
from loadtests.lab.live.client import Client
from loadtests.lab.live.experiment import LiveExperiment
from loadtests.lab.live.measured import LiveDetails, Tokens, totals
from loadtests.lab.live.replicas import Fleet
from loadtests.lab.live.strain import Meter
from loadtests.lab.outcome import Outcome, Sample
from loadtests.lab.source import LabError
from loadtests.lab.sweep import Watcher

_SAMPLE_S: Final = 1.0

Tell = Callable[[str], None]


async def run_all(
    experiment: LiveExperiment, watcher: Watcher, tell: Tell
) -> tuple[LiveExperiment, tuple[Run, ...]]:
    """All runs, in the order of its cells, and the experiment without the targets that could not
    be started. Raises LabError, ValueError."""
    experiment = await asyncio.to_thread(_with_peers, experiment, tell)
    cells = {cell: index for index, cell in enumerate(experiment.cells())}
    found: dict[Cell, Run] = {}
    async with _stage(experiment) as stage:
        for place, cell in in_drawn_order(cells):
            if cell.contender in experiment.left_out:
                continue
            index = cells[cell]
            try:
                hears = partial(watcher.served, index)
                found[cell] = await stage.run(experiment, cell, place, hears)
            except StartError as error:
                experiment = _without(experiment, cell.contender, error, tell)
            watcher.finished(index)
    return experiment, tuple(found[cell] for cell in experiment.cells())


def _with_peers(experiment: LiveExperiment, tell: Tell) -> LiveExperiment:
    """Without those that cannot be installed. Raises LabError when none is left."""
    for target in experiment.targets:
        if target.kind in peers.REQUIREMENTS:
            try:
                peers.install(target.kind, tell)
            except peers.PeerError as error:
                experiment = _without(experiment, target.title, error, tell)
    return experiment


def _without(experiment: LiveExperiment, title: str, error: LabError, tell: Tell) -> LiveExperiment:
    tell(f"{title} is left out: {error}")
    kept = experiment.without(title, str(error))
    if not kept.targets:
        raise LabError("no target could be started")
    return kept


def in_drawn_order(cells: Iterable[Cell]) -> Iterator[tuple[int, Cell]]:
    """The targets of one seed side by side, in an order drawn for it: what changes in the machine
    over time then falls on all of them."""
    ordered = sorted(cells, key=lambda cell: (cell.replicas, cell.level, cell.seed))
    for (count, level, seed), group in groupby(
        ordered, key=lambda cell: (cell.replicas, cell.level, cell.seed)
    ):
        alike = list(group)
        random.Random(f"order/{count}/{level.value}/{seed}").shuffle(alike)
        yield from enumerate(alike)


@contextlib.asynccontextmanager
async def _stage(experiment: LiveExperiment) -> AsyncIterator[_Stage]:
    """The replicas, for all runs."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pst-lab-")))
        http = await stack.enter_async_context(Client.session())
        if experiment.simulated is None:
            fleet = Fleet(http, experiment.given)
        else:
            fleet = await stack.enter_async_context(
                replicas.started(experiment.simulated, max(experiment.replicas), folder, http)
            )
        served = await fleet.models()
        model = experiment.model or served[0]
        if model not in served:
            raise LabError(f"--model {model}: the replicas serve {', '.join(served)}")
        yield _Stage(folder, http, fleet, model)


class _Stage:
    """Everything that runs have in common."""

    def __init__(self, folder: Path, http: aiohttp.ClientSession, fleet: Fleet, model: str) -> None:
        self._folder, self._http, self._fleet, self._model = folder, http, fleet, model
        self._runs = 0

    async def run(
        self, experiment: LiveExperiment, cell: Cell, place: int, on_progress: Callable[[int], None]
    ) -> Run:
        """One of them. Raises StartError, ReplicaError, ValueError."""
        folder = self._folder / f"run-{self._runs}"
        folder.mkdir()
        self._runs += 1
        fleet, target = self._fleet.first(cell.replicas), experiment.target(cell.contender)
        traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
        async with gateways.started(target, fleet.addresses, folder, self._http) as gateway:
            await fleet.idle()
            emptied = await fleet.forget()
            client = Client(
                self._http,
                gateway.url,
                traffic,
                model=self._model,
                api=experiment.api,
                time_scale=experiment.time_scale,
                timeout_s=experiment.client_timeout_s,
                on_progress=on_progress,
            )
            before = await fleet.counters()
            meter = Meter(gateway, fleet)
            watching = asyncio.create_task(_samples(fleet, client))
            try:
                sent = await client.run()
            finally:
                watching.cancel()
                [samples] = await asyncio.gather(watching, return_exceptions=True)
            strain = meter.read(sent.lag)
            await fleet.idle()
            after = await fleet.counters()
        if isinstance(samples, BaseException):
            raise samples
        by_replica = tuple(b - a for a, b in zip(before, after, strict=True))
        whole = totals(
            duration_s=sent.duration_s,
            requests=len(sent.served),
            failed=sum(served.failed for served in sent.served),
            by_replica=by_replica,
            strain=strain,
        )
        details = LiveDetails(
            strain=strain,
            errors=dict(sent.errors),
            tokens=Tokens.of(sent.served),
            uncounted=sent.uncounted,
            by_replica=by_replica,
            caches_emptied=emptied,
            place=place,
        )
        outcome = Outcome(
            sent.served, samples, duration_s=sent.duration_s, preemptions=whole.preemptions
        )
        run = experiment.run(cell, outcome, whole, details)
        if run.steady.hit_rate is None:  # engines that do not tell it with the usage
            run = replace(run, steady=replace(run.steady, hit_rate=whole.replicas_hit_rate))
        return run


async def _samples(fleet: Fleet, client: Client) -> list[Sample]:
    """The replicas' gauges from time to time, until cancelled."""
    found: list[Sample] = []
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            at_s, gauges = client.now_s, await fleet.gauges()
            found += [
                Sample(at_s, index, each.running, each.waiting, each.kv_usage)
                for index, each in enumerate(gauges)
            ]
            await asyncio.sleep(_SAMPLE_S)
    return found
