"""The runs of a live comparison: one after the other, all on the same replicas."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final, Never

import aiohttp

from loadtests.bench import peers
from loadtests.lab.comparison import Cell, CellRun
from loadtests.lab.live import gateways, replicas
from loadtests.lab.live.child import LabStartError
from loadtests.lab.live.client import LoadClient, Sent
from loadtests.lab.live.experiment import LiveExperiment
from loadtests.lab.live.measured import AnswerTokens, LiveDetails, totals
from loadtests.lab.live.replicas import ReplicaFleet
from loadtests.lab.live.strain import StrainMeter
from loadtests.lab.live.target import ROUTERS
from loadtests.lab.outcome import Outcome, Sample
from loadtests.lab.source import LabError
from loadtests.lab.sweep import Watcher

_SAMPLE_S: Final = 1.0
_LONGEST_PATH: Final = 36
_SHORT_PATH: Final = "/tmp"  # noqa: S108 - a folder of our own is made in it
"""Folder for files where the usual one has a longer path: the length of a unix socket's path is
limited."""

Tell = Callable[[str], None]


async def run_all(
    experiment: LiveExperiment, watcher: Watcher, tell: Tell
) -> tuple[LiveExperiment, tuple[CellRun, ...]]:
    """All runs, in the order of the experiment's cells; and the experiment without the targets that
    could not be started or did not last. Raises LabError, ValueError."""
    cells = {cell: index for index, cell in enumerate(experiment.cells())}
    found: dict[Cell, CellRun] = {}
    async with _stage(experiment) as stage:
        for place, cell in in_drawn_order(cells):
            index = cells[cell]
            if cell.contender not in experiment.left_out:
                try:
                    hears = partial(watcher.served, index)
                    found[cell] = await stage.run(experiment, cell, place, hears)
                except LabStartError as error:
                    experiment = _without(experiment, cell.contender, error, tell)
            watcher.finished(index)
    return experiment, tuple(found[cell] for cell in experiment.cells())


def with_peers(experiment: LiveExperiment, tell: Tell) -> LiveExperiment:
    """Install other projects' routers; returns the experiment without those that cannot be
    installed. Raises LabError when no target is left."""
    for target in experiment.targets:
        if target.kind in ROUTERS:
            try:
                peers.install(ROUTERS[target.kind], tell)
            except peers.PeerError as error:
                experiment = _without(experiment, target.title, error, tell)
    return experiment


def _without(
    experiment: LiveExperiment, title: str, error: Exception, tell: Tell
) -> LiveExperiment:
    tell(f"{title} is left out: {error}")
    kept = experiment.without(title, str(error))
    if not kept.targets:
        raise LabError("no target is left to compare")
    return kept


def in_drawn_order(cells: Iterable[Cell]) -> Iterator[tuple[int, Cell]]:
    """Cells in the order in which they run: the targets of one seed side by side, in an order drawn
    for it. Changes of the machine over time then affect all targets equally."""
    ordered = sorted(cells, key=lambda cell: (cell.replicas, cell.level, cell.seed))
    for (count, level, seed), group in groupby(
        ordered, key=lambda cell: (cell.replicas, cell.level, cell.seed)
    ):
        alike = list(group)
        random.Random(f"order/{count}/{level.value}/{seed}").shuffle(alike)
        yield from enumerate(alike)


@contextlib.asynccontextmanager
async def _stage(experiment: LiveExperiment) -> AsyncIterator[_Stage]:
    """The replicas, kept for all runs."""
    async with contextlib.AsyncExitStack() as stack:
        room = None if len(tempfile.gettempdir()) <= _LONGEST_PATH else _SHORT_PATH
        files = tempfile.TemporaryDirectory(prefix="pst-lab-", dir=room)
        folder = Path(stack.enter_context(files))
        http = await stack.enter_async_context(LoadClient.session())
        if experiment.simulated is None:
            fleet = ReplicaFleet(http, experiment.given)
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
    """What all runs share."""

    def __init__(
        self, folder: Path, http: aiohttp.ClientSession, fleet: ReplicaFleet, model: str
    ) -> None:
        self._folder, self._http, self._fleet, self._model = folder, http, fleet, model
        self._runs = 0

    async def run(
        self, experiment: LiveExperiment, cell: Cell, place: int, on_progress: Callable[[int], None]
    ) -> CellRun:
        """Run one cell. Raises LabStartError, ReplicaError, ValueError."""
        folder = self._folder / f"run-{self._runs}"
        folder.mkdir()
        self._runs += 1
        fleet, target = self._fleet.first(cell.replicas), experiment.target(cell.contender)
        traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
        async with gateways.started(target, fleet.addresses, folder, self._http) as gateway:
            before = await fleet.settled()
            emptied = await fleet.forget()
            client = LoadClient(
                self._http,
                gateway.url,
                traffic,
                model=self._model,
                api=experiment.api,
                time_scale=experiment.time_scale,
                timeout_s=experiment.client_timeout_s,
                on_progress=on_progress,
            )
            meter = StrainMeter(gateway, fleet)
            samples: list[Sample] = []
            sent = await _while(client.run(), gateway.ended(), _sample(fleet, client, samples))
            strain = meter.read(sent.lag)
            after = await fleet.settled()
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
            said=sent.said,
            tokens=AnswerTokens.of(sent.served),
            uncounted=sent.uncounted,
            by_replica=by_replica,
            caches_emptied=emptied,
            place=place,
        )
        outcome = Outcome(
            sent.served, samples, duration_s=sent.duration_s, preemptions=whole.preemptions
        )
        run = experiment.run(cell, outcome, whole, details)
        if run.steady.hit_rate is None:  # the engines do not report it with the usage
            run = replace(run, steady=replace(run.steady, hit_rate=whole.replicas_hit_rate))
        return run


async def _while(sending: Coroutine[None, None, Sent], *all_is_well: Awaitable[Never]) -> Sent:
    """The client's result, unless one of the others raises first: then going on has no purpose."""
    client = asyncio.ensure_future(sending)
    watching = [asyncio.ensure_future(each) for each in all_is_well]
    try:
        done, _ = await asyncio.wait({client, *watching}, return_when=asyncio.FIRST_COMPLETED)
        if client not in done:
            for each in done:
                each.result()
        return await client
    finally:
        for task in (client, *watching):
            task.cancel()
        await asyncio.gather(client, *watching, return_exceptions=True)


async def _sample(fleet: ReplicaFleet, client: LoadClient, into: list[Sample]) -> Never:
    """Read the replicas' gauges from time to time."""
    while True:
        at_s, gauges = client.now_s, await fleet.gauges()
        into += [
            Sample(at_s, index, each.running, each.waiting, each.kv_usage)
            for index, each in enumerate(gauges)
        ]
        await asyncio.sleep(_SAMPLE_S)
