"""The report of a comparison: a table on the terminal; result.json, plots and a page in a
folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console
from rich.table import Table

from loadtests.lab.comparison import CellRun, Comparison
from loadtests.lab.points import Point, points
from loadtests.lab.result import document, dumped, settings
from loadtests.lab.source import LabError, LevelKind
from loadtests.lab.summary import Slo
from loadtests.lab.verdict import FleetVerdict, sentences, verdicts

RESULT = "result.json"
PAGE = "index.html"
PLOTS = "plots"
_EDGES = 3
"""Columns of the terminal that a cell needs besides its text."""
_LEAST_NAME = 20


def prepare(folder: Path) -> None:
    """Make the folder, and check that plots can be drawn: before hours of runs, not after. Raises
    LabError."""
    if find_spec("matplotlib") is None:
        raise LabError("plots need matplotlib: pip install 'penstock[lab]'")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise LabError(f"--out {folder}: {error.strerror}") from error


def write(comparison: Comparison, runs: Sequence[CellRun], folder: Path) -> None:
    """Write result.json, index.html and plots/*.svg into a folder that `prepare` made."""
    # Imported late, because importing matplotlib takes longer than many runs.
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


def _at(runs: Sequence[CellRun], verdict: FleetVerdict) -> list[CellRun]:
    """The runs behind the verdict, or the ramp of which its level is a stage."""
    return [
        run
        for run in runs
        if run.cell.replicas == verdict.replicas
        and (run.cell.level == verdict.level or run.cell.level.kind is LevelKind.RAMP)
    ]


def show(console: Console, comparison: Comparison, runs: Sequence[CellRun]) -> None:
    """Print the answer and the table."""
    from loadtests.lab.page import compared

    together = points(comparison, runs)
    console.print(compared(comparison), style="dim", highlight=False)
    for verdict in verdicts(together):
        mine = [point for point in together if point.replicas == verdict.replicas]
        for table in _tables(mine, verdict.replicas, comparison.noun, console.width):
            console.print(table)
        answer(console, verdict, comparison.slo)
    for text in comparison.remarks(runs):
        # They contain other programs' words, with brackets that are no markup.
        console.print(text, style="yellow", highlight=False, markup=False)


def _tables(points: Sequence[Point], replicas: int, noun: str, width: int) -> list[Table]:
    """All columns, in several tables below each other when one of ``width`` cannot hold them."""
    from loadtests.lab.page import COLUMNS, value

    points = sorted(
        points, key=lambda point: point.level
    )  # a stable sort: contenders keep their order
    loads = [point.level.label for point in points]
    names = [point.contender for point in points]
    name_width = min(max(map(len, (noun, *names))), max(_LEAST_NAME, width // 4))
    room = width - max(map(len, loads)) - name_width - 2 * _EDGES - 1
    groups: list[list[list[str]]] = []
    left = 0
    for column in COLUMNS:
        if not any(point.values(column.figure) for point in points):
            continue
        texts = [value(point, column).replace(" ± ", "\n± ") for point in points]
        texts.insert(0, column.head.replace(" ", "\n", 1))
        needed = _EDGES + max(len(line) for text in texts for line in text.split("\n"))
        if not groups or needed > left:
            groups.append([])
            left = room
        groups[-1].append(texts)
        left -= needed
    tables: list[Table] = []
    for group in groups:
        table = Table("load", title_justify="left")
        table.add_column(noun, overflow="fold", max_width=name_width)
        for texts in group:
            table.add_column(texts[0], justify="right", no_wrap=True)
        for row, (load, name) in enumerate(zip(loads, names, strict=True)):
            first = row == 0 or loads[row - 1] != load
            last = row + 1 == len(loads) or loads[row + 1] != load
            cells = (texts[row + 1] for texts in group)
            table.add_row(load if first else "", name, *cells, end_section=last)
        tables.append(table)
    tables[0].title = f"{replicas} replica{'' if replicas == 1 else 's'}"
    return tables


def answer(console: Console, verdict: FleetVerdict, slo: Slo) -> None:
    """Print the verdict in words."""
    first, *rest = sentences(verdict, slo)
    console.print(first, style="bold", highlight=False)
    for text in rest:
        console.print(text, highlight=False)
