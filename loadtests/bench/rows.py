"""A measured figure, its aim, and how both are shown."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan

from rich.box import HEAVY_HEAD, MARKDOWN, Box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report. ``aim`` is in words, ``met`` says whether it holds."""

    figure: str
    value: float
    unit: str
    how: str
    error: float | None = None
    """Half width of the 95 % confidence interval, or None."""
    aim: str = ""
    met: bool | None = None
    subject: str = ""
    """What was measured, where several are compared: they stand side by side."""


def below(value: float, limit: float, unit: str) -> tuple[str, bool]:
    """An aim and whether it is met."""
    return f"< {limit:g} {unit}", value < limit


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def comparison(rows: Iterable[Row], *, box: Box = HEAVY_HEAD) -> Table | None:
    """The rows with a subject, a column for each; None when there are none."""
    compared = [row for row in rows if row.subject]
    if not compared:
        return None
    subjects = list(dict.fromkeys(row.subject for row in compared))
    figures = list(dict.fromkeys((row.figure, row.unit) for row in compared))
    cells = {(row.subject, row.figure): _cell(row) for row in compared}
    shown = Table(box=box, pad_edge=box is MARKDOWN)
    shown.add_column("figure", ratio=1 if box is not MARKDOWN else None)
    for subject in subjects:
        shown.add_column(escape(subject), justify="right", overflow="fold")
    for figure, unit in figures:
        name = f"{figure}, {unit}" if unit else figure
        shown.add_row(escape(name), *(cells.get((each, figure), "-") for each in subjects))
    return shown


def notes(rows: Iterable[Row]) -> list[str]:
    """What is to be said of rows with a subject."""
    return [f"{row.subject}: {row.figure}: {row.how}" for row in rows if row.subject and row.how]


def markdown(rows: Sequence[Row]) -> str:
    """The comparison as a page's table, with its notes."""
    found = comparison(rows, box=MARKDOWN)
    text = io.StringIO()
    if found is not None:
        Console(file=text, width=1_000).print(found)
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(rows))]) + "\n"


def _cell(row: Row) -> str:
    if isnan(row.value):
        return "-"
    return f"{row.value:,.0f}" if not row.unit else number(row.value)


def table(rows: Iterable[Row], title: str) -> Table:
    """The report, without rows that have a subject."""
    shown = Table(title=title, title_justify="left", show_lines=False, pad_edge=False)
    shown.add_column("figure", ratio=5)
    shown.add_column("measured", justify="right", no_wrap=True)
    shown.add_column("unit", no_wrap=True)
    shown.add_column("aim", no_wrap=True)
    shown.add_column("how", ratio=6, style="dim")
    for row in rows:
        if row.subject:
            continue
        value = number(row.value)
        if row.error is not None:
            value += f" ± {number(row.error)}"
        mark = {True: "[green]✓[/] ", False: "[red]✗[/] ", None: ""}[row.met]
        shown.add_row(escape(row.figure), value, row.unit, mark + escape(row.aim), escape(row.how))
    return shown
