"""``penstock lab fairness``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtests.lab.commands import options as given
from loadtests.lab.fairness.cases import ORDERS, Case
from loadtests.lab.fairness.cases import cases as all_cases
from loadtests.lab.fairness.page import Values, page
from loadtests.lab.fairness.runs import Run, do, kept, runs
from loadtests.lab.jobs import do_all
from loadtests.lab.source import LabError
from loadtests.lab.sweep import cores


def fairness(
    *,
    keep: Annotated[Path, typer.Option(help="Folder where each run's result is kept.")],
    write: Annotated[
        Path | None, typer.Option(help="A page in Markdown, of which the tables are replaced.")
    ] = None,
    cases: Annotated[str, typer.Option(help="Only cases whose title contains this.")] = "",
    orders: Annotated[str, typer.Option(help="In which requests wait.")] = ",".join(ORDERS),
    seeds: Annotated[int, typer.Option(help="Runs of each, one for each seed.", min=1)] = 5,
    first_seed: Annotated[int, typer.Option(help="The seeds begin here.", min=1)] = 11,
    jobs: given.Jobs = None,
) -> None:
    """Who waits how long, and who gets how much, when a pool is full: orders of the queue compared.

    Each run is kept when it is done, so the command may be stopped and goes on when it is given
    again. Runs of other code do not belong into one folder: take a new one.
    """
    with given.problems():
        keep.mkdir(parents=True, exist_ok=True)
        wanted = orders.split(",")
        if unknown := [order for order in wanted if order not in ORDERS]:
            raise LabError(f"--orders: {unknown[0]!r} is none of {', '.join(ORDERS)}")
        chosen = [case for case in all_cases() if cases in case.title]
        numbers = range(first_seed, first_seed + seeds)
        waiting = [run for run in runs(chosen, numbers, wanted) if kept(keep, run) is None]
        console = Console(stderr=True)
        left = len(waiting)

        def done(run: Run) -> None:
            nonlocal left
            left -= 1
            console.print(f"{left} left: {run.case.title}, {run.order}, seed {run.seed}")

        do_all(waiting, partial(do, folder=keep), cores() if jobs is None else jobs, done)

        def found(case: Case, order: str) -> Sequence[Values]:
            results = (kept(keep, Run(case, order, seed)) for seed in numbers)
            return [each for each in results if each is not None]

        text = page(chosen, found)
        if write is None:
            print(text)
        else:
            write.write_text(_replaced(write.read_text(encoding="utf-8"), text), encoding="utf-8")


_BEGIN, _END = "<!-- tables: penstock lab fairness -->\n", "<!-- end of the tables -->\n"


def _replaced(text: str, tables: str) -> str:
    """A page with other tables. Raises LabError for one that has no place for them."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise LabError(f"--write: the page has no lines {_BEGIN.strip()!r} and {_END.strip()!r}")
    return f"{before}{begin}\n{tables}\n{end}{after}"
