"""The plots of a comparison, as SVG. Needs matplotlib (the extra ``lab``)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from loadtests.lab.comparison import CellRun
from loadtests.lab.points import Point
from loadtests.lab.summary import Slo, Timeline

# Okabe and Ito's colours, which colour-blind readers can distinguish; then the same with other
# dashes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_DASHES = ("-", "--", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_WIDE_SPREAD = 20.0
"""Latencies that differ by more are drawn on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture, and what to see in it."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    figure: str
    unit: str
    scale: float = 1.0
    limit: float | None = None
    """Value of a line across the panel, in the figure's own unit."""
    also: str = ""
    """A second figure in the same panel, thin and dotted."""
    share: bool = False
    latency: bool = False


def plots(points: Sequence[Point], runs: Sequence[CellRun], slo: Slo) -> list[Plot]:
    """All plots of one size of fleet. ``runs``: those whose timelines are shown."""
    with mpl.rc_context():
        _set_style()
        found = [_grid(points, *picture) for picture in _pictures(slo)]
        timelines = [(run.cell.contender, run.timeline) for run in runs if run.timeline]
        if timelines:
            found.append(_timelines(timelines))
    return found


def _set_style() -> None:
    mpl.rc("svg", fonttype="none", hashsalt="penstock")
    mpl.rc("font", family="sans-serif", size=9)
    mpl.rc("axes", grid=True, axisbelow=True, edgecolor="#9aa5b1")
    mpl.rc("axes", titlesize=10, titleweight="bold", titlelocation="left")
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("grid", color="#e4e7eb", linewidth=0.7)


def _pictures(slo: Slo) -> list[tuple[str, str, str, tuple[_Panel, ...]]]:
    band = "Shaded: 95 % interval over seeds."
    percentiles = ("p50", "p90", "p99")
    return [
        (
            "ttft",
            "Time to first token",
            f"From sending to the first token at the client. Dashed: the SLO. {band}",
            tuple(
                _Panel(f"TTFT {p}", f"ttft_{p}_s", "s", limit=slo.ttft_s, latency=True)
                for p in percentiles
            ),
        ),
        (
            "tpot",
            "Time per output token",
            f"Mean of a request's tokens after the first. Dashed: the SLO. {band}",
            tuple(
                _Panel(f"TPOT {p}", f"tpot_{p}_s", "ms", 1000.0, slo.tpot_s, latency=True)
                for p in percentiles
            ),
        ),
        (
            "goodput",
            "Goodput",
            f"Requests answered within the SLO: a second, and of those that came. {band}",
            (
                _Panel("Within the SLO", "goodput_per_s", "requests/s"),
                _Panel("Share within the SLO", "good_share", "%", 100.0, share=True),
            ),
        ),
        (
            "tokens",
            "Tokens",
            f"Input counts cached tokens as well: it is what users get through. {band}",
            (
                _Panel("Input", "input_tokens_per_s", "tokens/s"),
                _Panel("Output", "output_tokens_per_s", "tokens/s"),
            ),
        ),
        (
            "cache-and-balance",
            "Cache and balance",
            (
                "Dotted: the hit rate that the picker's index expected. Busy time: 1 is even; over"
                " the whole run. Spread: deviation over mean across replicas at an instant."
            ),
            (
                _Panel("Prefix hit rate", "hit_rate", "%", 100.0, None, "expected_hit_rate", True),
                _Panel("Busy time, most over mean", "busy_max_over_mean", "times"),
                _Panel("Tokens computed, most over mean", "tokens_max_over_mean", "times"),
                _Panel("Spread of requests in flight", "in_flight_cv", "deviation / mean"),
            ),
        ),
    ]


def _grid(
    points: Sequence[Point], name: str, title: str, caption: str, panels: Sequence[_Panel]
) -> Plot:
    panels = [panel for panel in panels if any(point.values(panel.figure) for point in points)]
    contenders = list(dict.fromkeys(point.contender for point in points))
    loads = sorted({point.load for point in points})
    canvas = Canvas(figsize=(10.5, 2.9 if len(loads) > 1 else 1.3 + 0.3 * len(contenders)))
    draw = _lines if len(loads) > 1 else _bars
    for index, panel in enumerate(panels):
        axes = canvas.add_subplot(1, len(panels), index + 1)
        axes.set_title(panel.title)
        draw(axes, panel, points, contenders)
        if draw is _bars and index:
            axes.set_yticklabels([])
    if draw is _lines and panels:
        _legend(canvas, len(contenders))
    return Plot(name, title, caption, _svg(canvas, title, legend=draw is _lines))


def _lines(axes: Axes, panel: _Panel, points: Sequence[Point], contenders: Sequence[str]) -> None:
    drawn: list[float] = []
    for index, contender in enumerate(contenders):
        mine = sorted((p for p in points if p.contender == contender), key=lambda point: point.load)
        colour = _COLOURS[index % len(_COLOURS)]
        x, y, error = _series(mine, panel.figure, panel.scale)
        if not x:
            continue
        drawn += y
        axes.plot(
            x,
            y,
            color=colour,
            linestyle=_DASHES[index // len(_COLOURS) % len(_DASHES)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=3.5,
            linewidth=1.6,
            label=contender,
        )
        low = [max(value - by, 0.0) for value, by in zip(y, error, strict=True)]
        high = [value + by for value, by in zip(y, error, strict=True)]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if panel.also:
            also_x, also_y, _ = _series(mine, panel.also, panel.scale)
            axes.plot(also_x, also_y, color=colour, linestyle=":", linewidth=1.2)
    logarithmic = panel.latency and drawn and max(drawn) > _WIDE_SPREAD * max(min(drawn), 1e-9)
    if panel.limit is not None:
        axes.axhline(panel.limit * panel.scale, color="#52606d", linestyle="--", linewidth=0.9)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain)
        axes.set_ylim(min(drawn) * 0.7, max(drawn) * 1.5)
    else:
        axes.set_ylim(0, 103 if panel.share else None)
    axes.set_xlabel(points[0].level.kind.value)
    axes.set_ylabel(panel.unit)


def _bars(axes: Axes, panel: _Panel, points: Sequence[Point], contenders: Sequence[str]) -> None:
    places = [len(contenders) - 1 - index for index in range(len(contenders))]
    for index, (contender, place) in enumerate(zip(contenders, places, strict=True)):
        mine = [point for point in points if point.contender == contender]
        _, values, errors = _series(mine, panel.figure, panel.scale)
        if not values:
            continue
        colour = _COLOURS[index % len(_COLOURS)]
        axes.barh(place, values[0], height=0.62, color=colour, xerr=errors[0] or None)
        if panel.also:
            _, expected, _ = _series(mine, panel.also, panel.scale)
            if expected:
                axes.plot([expected[0]], [place], marker="|", color="#1f2933", markersize=11)
    if panel.limit is not None:
        axes.axvline(panel.limit * panel.scale, color="#52606d", linestyle="--", linewidth=0.9)
    axes.set_yticks(places, list(contenders))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(panel.unit)


def _series(
    points: Sequence[Point], figure: str, scale: float
) -> tuple[list[float], list[float], list[float]]:
    """Loads, means, and half widths of the intervals (0 where none is known)."""
    known = [(point.load, found) for point in points if (found := point.estimate(figure))]
    return (
        [load for load, _ in known],
        [found.value * scale for _, found in known],
        [(found.error or 0.0) * scale for _, found in known],
    )


def _plain(value: float, _place: float) -> str:
    return f"{value:g}"


def _legend(canvas: Canvas, contenders: int) -> None:
    handles, labels = canvas.axes[0].get_legend_handles_labels()
    canvas.legend(
        handles, labels, loc="lower center", ncols=min(contenders, 4), frameon=False,
        bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip


def _timelines(timelines: Sequence[tuple[str, Timeline]]) -> Plot:
    """One row of colours for each replica, one map for each contender, all on one scale."""
    rows = math.ceil(len(timelines) / 2)
    replicas = len(timelines[0][1].in_flight)
    high = min(2.6, 0.9 + 0.11 * replicas)
    canvas = Canvas(figsize=(10.5, rows * high + 0.2))
    most = max((max(row) for _, line in timelines for row in line.in_flight if row), default=1.0)
    for index, (contender, line) in enumerate(timelines):
        axes = canvas.add_subplot(rows, 2, index + 1)
        cells = np.array(line.in_flight)
        end_s = line.column_s * cells.shape[1]
        # As a bitmap: thousands of cells drawn as paths would make the page slow.
        mesh = axes.pcolormesh(
            np.linspace(0.0, max(end_s, 1e-9), cells.shape[1] + 1),
            np.arange(replicas + 1) - 0.5,
            cells,
            cmap="magma_r",
            vmin=0,
            vmax=most,
            rasterized=True,
        )
        axes.set_title(contender)
        axes.grid(visible=False)
        axes.set_ylabel("replica")
        axes.set_xlabel("s")
        axes.invert_yaxis()
        canvas.colorbar(mesh, ax=axes, label="in flight")
    caption = "Requests running and waiting on each replica over the run, first seed."
    return Plot("timelines", "Replicas over time", caption, _svg(canvas, "Replicas over time"))


def _svg(canvas: Canvas, title: str, *, legend: bool = False) -> str:
    canvas.tight_layout(rect=(0, 0, 1, 1))
    file = io.StringIO()
    canvas.savefig(
        file,
        format="svg",
        bbox_inches="tight" if legend else None,
        transparent=True,
        metadata={"Date": None, "Creator": None, "Title": title},
    )
    text = file.getvalue()
    return text[text.index("<svg") :]
