"""``penstock lab size``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from loadtests.lab.commands import options as given
from loadtests.lab.commands.sim import planned, swept
from loadtests.lab.result import dumped
from loadtests.lab.size import Trial, sizing_document, sizing_sentences, smallest_fleet
from policies import registry


@given.bundled
def size(
    *,
    workload: given.WorkloadName,
    policy: Annotated[str, typer.Option(help="One, as in penstock lab sim.")],
    profile: given.ProfileName,
    load: given.LoadOptions,
    goal: given.GoalOptions,
    share: Annotated[
        float, typer.Option(help="Of the requests that must be answered within the SLO.")
    ] = 0.9,
    begin: Annotated[int, typer.Option(help="Replicas to begin the search with.", min=1)] = 4,
    most: Annotated[int, typer.Option(help="Replicas to try at most.", min=1)] = 256,
    run: given.RunOptions,
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
        experiment = planned(workload, policy, profile, (begin,), load, goal, run, client_timeout)
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
