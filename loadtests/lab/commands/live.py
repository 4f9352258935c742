"""``penstock lab live``."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from loadtests.lab import choices, report
from loadtests.lab.commands import options as given
from loadtests.lab.comparison import CellRun
from loadtests.lab.live import replicas as live_replicas
from loadtests.lab.live import target
from loadtests.lab.live.experiment import LiveExperiment
from loadtests.lab.live.replicas import Simulated
from loadtests.lab.live.runs import run_all, with_peers
from loadtests.lab.source import Extent, LabError, LevelKind, Source
from loadtests.lab.sweep import Bar, bars
from loadtests.sim.model.profile import find
from loadtests.workloads.bodies import Api
from policies import registry

_DURATION_S = 120.0


@dataclass(frozen=True, slots=True)
class LiveLoadOptions(given.LoadOptions):
    """As `LoadOptions`, but times are those of the model, not virtual."""

    duration: Annotated[
        float | None,
        typer.Option(help="Seconds of sending, of the model. Rates: 120 when left out.", min=0.001),
    ] = None


@given.bundled
def live(
    *,
    workload: given.WorkloadName,
    targets: Annotated[
        str,
        typer.Option(
            help="penstock, penstock:POLICY, envoy-round-robin, envoy-least-request, vllm-router,"
            " sglang-router (both with :POLICY), NAME=http://host:port.",
            show_default=False,
        ),
    ],
    profile: Annotated[
        str, typer.Option(help="Of simulated replicas: built-in, or a file.")
    ] = "qwen3-8b-tp1-h100",
    replicas: Annotated[
        str, typer.Option(help="Simulated replicas to start: 4, or 2,4 one after the other.")
    ] = "4",
    replica: Annotated[
        str, typer.Option(help="Instead: those that run, http://host:port,... (vLLM, say).")
    ] = "",
    load: LiveLoadOptions,
    time_scale: Annotated[
        float, typer.Option(help="Wall time over the model's: 2 runs at half the speed.", min=0.01)
    ] = 1.0,
    goal: given.GoalOptions,
    run: given.RunOptions,
    client_timeout: Annotated[
        float, typer.Option(help="Seconds (of the model) after which clients give up.", min=0.001)
    ] = 600.0,
    api: Annotated[Api, typer.Option(help="Of the requests.")] = "chat",
    model: Annotated[
        str, typer.Option(help="To ask for; what the replicas serve when left out.")
    ] = "",
    out: given.Folder = None,
) -> None:
    """Compare gateways over HTTP, on the same replicas, in one run.

    Each target is started for each run and stopped again, and so are the simulated replicas.
    Routers that are not installed are installed into an environment of their own (penstock lab
    peers); one that cannot be had is left out, and the report says why.
    """
    with given.problems(), _ended_by_signals():
        registry.load_plugins()
        source = Source.parse(workload)
        levels, extent = load.levels(source), load.extent
        if extent == Extent() and levels[0].kind is LevelKind.RATE:
            extent = Extent(_DURATION_S)
        if replica and time_scale != 1.0:
            raise LabError("--time-scale is of simulated replicas, not of those that run already")
        running = live_replicas.addresses(replica) if replica else ()
        chip = None if running else find(profile)
        simulated = None
        if chip is not None:
            simulated = Simulated(profile, run.limits(chip), source.adapters(), time_scale)
        experiment = LiveExperiment(
            source=source,
            levels=levels,
            targets=target.parse(targets),
            simulated=simulated,
            profile=chip,
            given=running,
            replicas=(len(running),) if running else choices.sizes(replicas, "--replicas"),
            seeds=goal.seeds,
            slo=goal.slo,
            cut=run.cut,
            extent=extent,
            client_timeout_s=client_timeout,
            model=model,
            api=api,
        )
        given.fits(experiment)
        if out is not None:
            report.prepare(out)
        experiment, runs = _run(experiment)
        # On the terminal first: writing into the folder may fail.
        report.show(given.console(), experiment, runs)
        if out is not None:
            _write(experiment, runs, out)


def _run(experiment: LiveExperiment) -> tuple[LiveExperiment, tuple[CellRun, ...]]:
    console = Console(stderr=True)
    # Messages contain other programs' words: brackets that are no markup, and paths to copy.
    tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    # Before the event loop starts: its threads would delay Ctrl-C.
    experiment = with_peers(experiment, tell)
    with bars(console) as progress, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        watcher = Bar(progress, len(tuple(experiment.cells())), experiment.source.name)
        return runner.run(run_all(experiment, watcher, tell))


def _write(experiment: LiveExperiment, runs: tuple[CellRun, ...], out: Path) -> None:
    try:
        report.write(experiment, runs, out)
    except OSError as error:
        raise LabError(f"--out {out}: {error}") from error
    print(f"\nReport: {out / report.PAGE}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a terminal that is closed end the comparison in order, as Ctrl-C does."""

    def interrupt(_: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)
        else:  # a shell that started us in the background has Ctrl-C ignored
            raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
