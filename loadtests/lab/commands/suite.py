"""``penstock lab suite``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtests.lab.commands import options as given
from loadtests.lab.jobs import do_all
from loadtests.lab.suite import rows as rows_of
from loadtests.lab.suite.rows import Row
from loadtests.lab.suite.runs import Run, do, kept, runs
from loadtests.lab.suite.table import Values, page
from loadtests.lab.sweep import cores
from policies import registry


def suite(
    *,
    keep: Annotated[Path, typer.Option(help="Folder where each run's result is kept.")],
    traces: Annotated[Path, typer.Option(help="Folder with the Mooncake and Azure traces.")] = Path(
        "../shared/data/traces"
    ),
    write: Annotated[Path | None, typer.Option(help="The page to write, in Markdown.")] = None,
    rows: Annotated[str, typer.Option(help="Only rows whose title contains this.")] = "",
    policies: Annotated[str, typer.Option(help="Baselines beside auto, by name.")] = ",".join(
        rows_of.BASELINES
    ),
    seeds: Annotated[int, typer.Option(help="Runs of each, one for each seed.", min=1)] = 5,
    first_seed: Annotated[int, typer.Option(help="The seeds begin here.", min=1)] = 11,
    most: Annotated[int | None, typer.Option(help="End after so many runs.", min=1)] = None,
    jobs: given.Jobs = None,
) -> None:
    """The standing comparison of routing policies: nine workloads under three loads, and pools in
    trouble.

    Each run is kept when it is done, so the command may be stopped and goes on when it is given
    again. Runs of other code do not belong into one folder: take a new one.
    """
    with given.problems():
        registry.load_plugins()
        keep.mkdir(parents=True, exist_ok=True)
        names = (rows_of.AUTO, *filter(None, policies.split(",")))
        loads = [row for row in rows_of.load_rows(traces, names) if rows in row.title]
        troubled = [row for row in rows_of.troubled_rows(traces) if rows in row.title]
        numbers = range(first_seed, first_seed + seeds)
        planned = list(runs([*loads, *troubled], numbers))
        waiting = [run for run in planned if kept(keep, run) is None][:most]
        console = Console(stderr=True)
        left = len(waiting)

        def done(run: Run) -> None:
            nonlocal left
            left -= 1
            console.print(f"{left} left: {run.row.title}, {run.policy}, seed {run.seed}")

        do_all(waiting, partial(do, folder=keep), cores() if jobs is None else jobs, done)

        def found(row: Row, policy: str) -> Sequence[Values]:
            figures = (kept(keep, Run(row, policy, seed)) for seed in numbers)
            return [each for each in figures if each is not None]

        text = page(_command(), loads, troubled, numbers, found)
        if write is None:
            print(text)
        else:
            write.write_text(text, encoding="utf-8")


def _command() -> str:
    return shlex.join(["penstock", *sys.argv[1:]])
