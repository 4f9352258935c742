"""``penstock lab size``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from loadtests.lab import choices
from loadtests.lab.commands import options as given
from loadtests.lab.commands.sim import swept
from loadtests.lab.experiment import Experiment
from loadtests.lab.result import dumped
from loadtests.lab.size import Trial, sizing_document, sizing_sentences, smallest_fleet
from loadtests.lab.source import Extent, Source
from loadtests.lab.summary import Cut, Slo
from loadtests.sim.model.profile import find
from loadtests.workloads.catalogue import LORA_SLOTS
from policies import registry


def size(
    workload: given.Workload,
    policy: Annotated[str, typer.Option(help="One, as in penstock lab sim.")],
    profile: given.ProfileName,
    rate: given.Rate = "",
    concurrency: given.Concurrency = "",
    speed: given.Speed = "",
    duration: given.Duration = None,
    requests: given.Requests = None,
    seeds: given.Seeds = 3,
    slo_ttft: given.SloTtft = 2.0,
    slo_tpot: given.SloTpot = 0.05,
    share: Annotated[
        float, typer.Option(help="Of the requests that must be answered within the SLO.")
    ] = 0.9,
    begin: Annotated[int, typer.Option(help="Replicas to begin the search with.", min=1)] = 4,
    most: Annotated[int, typer.Option(help="Replicas to try at most.", min=1)] = 256,
    warm_up: given.WarmUp = 0.2,
    cool_down: given.CoolDown = 0.1,
    max_num_batched_tokens: given.BatchedTokens = 8192,
    max_num_seqs: given.NumSeqs = 256,
    max_model_len: given.ModelLen = 131_072,
    max_loras: given.Loras = LORA_SLOTS,
    client_timeout: given.Timeout = None,
    jobs: given.Jobs = None,
    out: Annotated[Path | None, typer.Option(help="File for the result, JSON.")] = None,
) -> None:
    """The smallest fleet that answers a workload within an SLO, with every seed.

    The SLO is met when --share of the requests have both their first token and their tokens in
    time.
    """
    with given.problems():
        registry.load_plugins()
        source = Source.parse(workload)
        chip = find(profile)
        experiment = Experiment(
            source=source,
            levels=given.levels(source, rate, concurrency, speed),
            policies=choices.policies(policy),
            replicas=(begin,),
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
            given.writable(out, "--out")
        sizing = smallest_fleet(
            experiment,
            lambda sized: swept(sized, jobs, f"{sized.replicas[0]} replicas"),
            wanted=share,
            most=most,
        )
        if out is not None:
            out.write_bytes(dumped(sizing_document(experiment, sizing)))
    console = given.console()
    console.print(_trials(sizing.trials))
    for index, text in enumerate(sizing_sentences(experiment, sizing)):
        console.print(text, style="bold" if index == 0 else "", highlight=False)
    if sizing.smallest is None:
        raise typer.Exit(1)


def _trials(trials: tuple[Trial, ...]) -> Table:
    table = Table("replicas", "within the SLO, mean", "worst seed", "")
    for trial in trials:
        table.add_row(
            str(trial.replicas),
            f"{trial.share.value:.1%}",
            f"{trial.worst:.1%}",
            "meets it" if trial.met else "",
        )
    return table
