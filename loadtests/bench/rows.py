"""A measured figure, its aim, and how both are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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


def table(rows: Iterable[Row], title: str) -> Table:
    """The report."""
    shown = Table(title=title, title_justify="left", show_lines=False, pad_edge=False)
    shown.add_column("figure", ratio=5)
    shown.add_column("measured", justify="right", no_wrap=True)
    shown.add_column("unit", no_wrap=True)
    shown.add_column("aim", no_wrap=True)
    shown.add_column("how", ratio=6, style="dim")
    for row in rows:
        value = number(row.value)
        if row.error is not None:
            value += f" ± {number(row.error)}"
        mark = {True: "[green]✓[/] ", False: "[red]✗[/] ", None: ""}[row.met]
        shown.add_row(escape(row.figure), value, row.unit, mark + escape(row.aim), escape(row.how))
    return shown
