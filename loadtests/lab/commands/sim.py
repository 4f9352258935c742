"""``penstock lab sim``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtests.lab import choices, report
from loadtests.lab.commands import options as given
from loadtests.lab.comparison import CellRun
from loadtests.lab.experiment import Experiment
from loadtests.lab.source import Extent, Source
from loadtests.lab.summary import Cut, Slo
from loadtests.lab.sweep import Bar, bars, cores, sweep
from loadtests.sim.model.profile import find
from loadtests.workloads.catalogue import LORA_SLOTS
from policies import registry


def sim(
    workload: given.Workload,
    policies: Annotated[
        str,
        typer.Option(
            help="Names (penstock lab policies), with parameters as name:{json}.",
            show_default=False,
        ),
    ],
    profile: given.ProfileName,
    replicas: Annotated[str, typer.Option(help="Sizes of the fleet: 8 or 4,8,16.")] = "8",
    rate: given.Rate = "",
    concurrency: given.Concurrency = "",
    speed: given.Speed = "",
    duration: given.Duration = None,
    requests: given.Requests = None,
    seeds: given.Seeds = 3,
    slo_ttft: given.SloTtft = 2.0,
    slo_tpot: given.SloTpot = 0.05,
    warm_up: given.WarmUp = 0.2,
    cool_down: given.CoolDown = 0.1,
    max_num_batched_tokens: given.BatchedTokens = 8192,
    max_num_seqs: given.NumSeqs = 256,
    max_model_len: given.ModelLen = 131_072,
    max_loras: given.Loras = LORA_SLOTS,
    client_timeout: given.Timeout = None,
    jobs: given.Jobs = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for index.html, result.json and plots.")
    ] = None,
) -> None:
    """Compare routing policies under a workload, in virtual time.

    Without --rate, --concurrency or --speed the load is the one that the catalogue gives the
    workload. The same seeds give the same result, whatever --jobs is.
    """
    with given.problems():
        registry.load_plugins()
        source = Source.parse(workload)
        chip = find(profile)
        experiment = Experiment(
            source=source,
            levels=given.levels(source, rate, concurrency, speed),
            policies=choices.policies(policies),
            replicas=choices.sizes(replicas, "--replicas"),
            profile=chip,
            limits=choices.limits(
                chip,
                max_num_batched_tokens=max_num_batched_tokens,
                max_num_seqs=max_num_seqs,
                max_model_len=max_model_len,
                max_loras=max_loras,
            ),
            seeds=seeds,
            slo=Slo(slo_ttft, slo_tpot),
            cut=Cut(warm_up, cool_down),
            extent=Extent(duration, requests),
            client_timeout_s=client_timeout,
        )
        given.fits(experiment)
        if out is not None:
            report.prepare(out)
        runs = swept(experiment, jobs, source.name)
        if out is not None:
            report.write(experiment, runs, out)
    report.show(given.console(), experiment, runs)
    if out is not None:
        print(f"\nReport: {out / report.PAGE}")


def swept(experiment: Experiment, jobs: int | None, what: str) -> tuple[CellRun, ...]:
    """All its runs, with a progress bar."""
    with bars(Console(stderr=True)) as progress:
        watcher = Bar(progress, len(tuple(experiment.cells())), what)
        return sweep(experiment, jobs=cores() if jobs is None else jobs, watcher=watcher)
