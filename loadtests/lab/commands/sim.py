"""``penstock lab sim``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console

from loadtests.lab import choices, report
from loadtests.lab.commands import options as given
from loadtests.lab.comparison import CellRun
from loadtests.lab.experiment import Experiment
from loadtests.lab.source import Source
from loadtests.lab.sweep import Bar, bars, cores, sweep
from loadtests.sim.model.profile import find
from policies import registry


@given.bundled
def sim(
    *,
    workload: given.WorkloadName,
    policies: Annotated[
        str,
        typer.Option(
            help="Names (penstock lab policies), with parameters as name:{json}.",
            show_default=False,
        ),
    ],
    profile: given.ProfileName,
    replicas: Annotated[str, typer.Option(help="Sizes of the fleet: 8 or 4,8,16.")] = "8",
    load: given.LoadOptions,
    goal: given.GoalOptions,
    run: given.RunOptions,
    trouble: given.TroubleOptions,
    kv_events: Annotated[
        bool,
        typer.Option("--kv-events", help="The gateway knows the engines' caches by their events."),
    ] = False,
    client_timeout: given.Timeout = None,
    jobs: given.Jobs = None,
    out: given.Folder = None,
) -> None:
    """Compare routing policies under a workload, in virtual time.

    Without --rate, --concurrency or --speed the load is the one that the catalogue gives the
    workload. The same seeds give the same result, whatever --jobs is.
    """
    with given.problems():
        registry.load_plugins()
        sizes = choices.sizes(replicas, "--replicas")
        experiment = planned(workload, policies, profile, sizes, load, goal, run, client_timeout)
        experiment = replace(
            experiment, seeing=trouble.seeing, troubles=trouble.troubles, kv_events=kv_events
        )
        if out is not None:
            report.prepare(out)
        runs = swept(experiment, jobs, experiment.source.name)
        report.deliver(given.console(), experiment, runs, out)


def planned(
    workload: str,
    policies: str,
    profile: str,
    sizes: tuple[int, ...],
    load: given.LoadOptions,
    goal: given.GoalOptions,
    run: given.RunOptions,
    client_timeout_s: float | None,
) -> Experiment:
    """The experiment that the options describe. Raises ValueError when there is no such
    experiment."""
    source = Source.parse(workload)
    chip = find(profile)
    experiment = Experiment(
        source=source,
        levels=load.levels(source),
        policies=choices.policies(policies),
        replicas=sizes,
        profile=chip,
        limits=run.limits(chip),
        seeds=goal.seeds,
        first_seed=goal.first_seed,
        slo=goal.slo,
        cut=run.cut,
        extent=load.extent,
        client_timeout_s=client_timeout_s,
    )
    given.fits(experiment)
    return experiment


def swept(experiment: Experiment, jobs: int | None, what: str) -> tuple[CellRun, ...]:
    """All runs of the experiment, with a progress bar."""
    with bars(Console(stderr=True)) as progress:
        watcher = Bar(progress, len(tuple(experiment.cells())), what)
        return sweep(experiment, jobs=cores() if jobs is None else jobs, watcher=watcher)
