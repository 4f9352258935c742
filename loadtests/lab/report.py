"""One report a run: a table on the terminal; result.json, plots and a page in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests.lab.comparison import Comparison, Run
from loadtests.lab.points import points
from loadtests.lab.result import document, dumped, settings
from loadtests.lab.source import LabError, LevelKind
from loadtests.lab.summary import Slo
from loadtests.lab.verdict import Verdict, sentences, verdicts

RESULT = "result.json"
PAGE = "index.html"
PLOTS = "plots"


def prepare(folder: Path) -> None:
    """Make the folder, and see that plots can be drawn: before hours of runs, not after. Raises
    LabError."""
    if find_spec("matplotlib") is None:
        raise LabError("plots need matplotlib: pip install 'penstock[lab]'")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"--out {folder}: {error.strerror}") from error


def write(comparison: Comparison, runs: Sequence[Run], folder: Path) -> None:
    """result.json, index.html and plots/*.svg into a folder that `prepare` made."""
    # Here, not above: importing matplotlib takes longer than many a run.
    from loadtests.lab.page import page
    from loadtests.lab.plots import plots

    (folder / RESULT).write_bytes(dumped(document(comparison, runs)))
    together = points(comparison, runs)
    found = verdicts(together)
    (folder / PLOTS).mkdir(exist_ok=True)
    pictures = {
        verdict.replicas: plots(
            [point for point in together if point.replicas == verdict.replicas],
            _at(runs, verdict),
            comparison.slo,
        )
        for verdict in found
    }
    for replicas, drawn in pictures.items():
        suffix = f"-{replicas}" if len(pictures) > 1 else ""
        for plot in drawn:
            (folder / PLOTS / f"{plot.name}{suffix}.svg").write_text(plot.svg, encoding="utf-8")
    text = page(
        comparison, together, found, pictures, settings(comparison), comparison.remarks(runs)
    )
    (folder / PAGE).write_text(text, encoding="utf-8")


def _at(runs: Sequence[Run], verdict: Verdict) -> list[Run]:
    """The runs that the verdict was taken on, or the ramp it is a stage of."""
    return [
        run
        for run in runs
        if run.cell.replicas == verdict.replicas
        and (run.cell.level == verdict.level or run.cell.level.kind is LevelKind.RAMP)
    ]


def show(console: Console, comparison: Comparison, runs: Sequence[Run]) -> None:
    """The answer and the table, on a terminal."""
    from loadtests.lab.page import COLUMNS, compared, value

    together = points(comparison, runs)
    console.print(compared(comparison), style="dim", highlight=False)
    for verdict in verdicts(together):
        mine = [point for point in together if point.replicas == verdict.replicas]
        columns = [each for each in COLUMNS if any(point.values(each.figure) for point in mine)]
        table = Table(title=f"{verdict.replicas} replicas", title_justify="left")
        table.add_column("load", no_wrap=True)
        table.add_column(comparison.noun, overflow="fold")
        for column in columns:
            table.add_column(column.head, justify="right")
        for level in sorted({point.level for point in mine}):
            there = [point for point in mine if point.level == level]
            for index, point in enumerate(there):
                table.add_row(
                    level.label if index == 0 else "",
                    point.contender,
                    *(value(point, column).replace(" ± ", "\n± ") for column in columns),
                    end_section=index == len(there) - 1,
                )
        console.print(table)
        answer(console, verdict, comparison.slo)
    for text in comparison.remarks(runs):
        console.print(text, style="yellow", highlight=False)


def answer(console: Console, verdict: Verdict, slo: Slo) -> None:
    """The verdict in words."""
    first, *rest = sentences(verdict, slo)
    console.print(first, style="bold", highlight=False)
    for text in rest:
        console.print(text, highlight=False)
