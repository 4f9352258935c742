"""The HTML page of a comparison: one file that loads nothing, with the answer first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from loadtests.lab.comparison import Comparison
from loadtests.lab.plots import Plot
from loadtests.lab.points import Point
from loadtests.lab.verdict import CARRIED, FleetVerdict, sentences, shown


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: its figure, its heading, and the factor for its values."""

    figure: str
    head: str
    scale: float = 1.0


COLUMNS = (
    Column("arrived_per_s", "arrived /s"),
    Column("goodput_per_s", "goodput /s"),
    Column("good_share", "within SLO %", 100.0),
    Column("ttft_p50_s", "TTFT p50 s"),
    Column("ttft_p90_s", "TTFT p90 s"),
    Column("ttft_p99_s", "TTFT p99 s"),
    Column("tpot_p50_s", "TPOT p50 ms", 1000.0),
    Column("tpot_p90_s", "TPOT p90 ms", 1000.0),
    Column("tpot_p99_s", "TPOT p99 ms", 1000.0),
    Column("input_tokens_per_s", "input tok/s"),
    Column("output_tokens_per_s", "output tok/s"),
    Column("hit_rate", "hit %", 100.0),
    Column("captured_reuse", "captured %", 100.0),
    Column("largest_ttft_p99_s", "largest TTFT p99 s"),
    Column("ttft_error", "TTFT error %", 100.0),
    Column("tpot_error", "TPOT error %", 100.0),
    Column("busy_max_over_mean", "busy max / mean"),
    Column("tokens_max_over_mean", "computed max / mean"),
    Column("preemptions", "preempted"),
    Column("failed", "failed"),
    Column("gateway_cpu_ms", "gateway CPU ms/request"),
)

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f5f7fa; color: #1f2933;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 40px 0 10px; }
h3 { font-size: 15px; margin: 0 0 2px; }
p { margin: 6px 0; } .quiet { color: #616e7c; }
.answer { background: #fff; border-left: 5px solid #0072b2; border-radius: 4px;
  padding: 14px 20px; margin: 16px 0; box-shadow: 0 1px 3px #0001; }
.remarks { border-left: 5px solid #e69f00; padding: 2px 20px; margin: 16px 0; }
.answer p:first-child { font-size: 18px; font-weight: 600; }
figure, .table { background: #fff; border-radius: 6px; margin: 14px 0; padding: 14px 18px;
  box-shadow: 0 1px 3px #0001; overflow-x: auto; }
figcaption { color: #616e7c; font-size: 13px; margin-bottom: 6px; }
figure svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 6px; vertical-align: top; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e4e7eb; }
th { white-space: normal; }
td small { display: block; color: #7b8794; font-weight: 400; }
th { color: #616e7c; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr.best td { font-weight: 600; background: #eef6fb; }
details { margin: 10px 0; } summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; }
dt { color: #616e7c; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(
    comparison: Comparison,
    verdicts: Sequence[FleetVerdict],
    pictures: Mapping[int, Sequence[Plot]],
    settings: Mapping[str, object],
    remarks: Sequence[str] = (),
) -> str:
    """The whole page. ``pictures``: the plots by size of fleet."""
    sections = [_section(comparison, each, pictures[each.replicas]) for each in verdicts]
    titles = comparison.titles
    title = f"{comparison.source.name}: {len(titles)} {comparison.subject} compared"
    if len(titles) == 1:
        title = f"{comparison.source.name} under {titles[0]}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{_compared(comparison)}{_remarks(remarks)}"
        f"{''.join(sections)}"
        f"{_settings(settings)}{_notes(comparison)}</main></body></html>\n"
    )


def compared(comparison: Comparison) -> str:
    """One sentence: on which fleets, under what load, how often."""
    levels = comparison.levels
    fleet = ", ".join(map(str, comparison.replicas))
    load = levels[0].label if len(levels) == 1 else f"{levels[0].value:g} to {levels[-1].label}"
    seeds = f"{comparison.seeds} seed{'' if comparison.seeds == 1 else 's'}"
    return (
        f"{comparison.source.name} ({comparison.source.about}) on {fleet}"
        f" {comparison.fleet}; {load}; {seeds}."
    )


def _compared(comparison: Comparison) -> str:
    names = ", ".join(f"<b>{escape(title)}</b>" for title in comparison.titles)
    nouns = comparison.nouns.capitalize()
    return f'<p class="quiet">{escape(compared(comparison))}</p><p>{nouns}: {names}.</p>'


def _remarks(remarks: Sequence[str]) -> str:
    if not remarks:
        return ""
    return f'<div class="remarks">{"".join(f"<p>{escape(text)}</p>" for text in remarks)}</div>'


def _section(comparison: Comparison, verdict: FleetVerdict, pictures: Sequence[Plot]) -> str:
    mine = verdict.points
    heading = f"<h2>On {verdict.replicas} replicas</h2>" if len(comparison.replicas) > 1 else ""
    words = "".join(f"<p>{escape(text)}</p>" for text in sentences(verdict, comparison.slo))
    drawn = "".join(
        f"<figure><h3>{escape(plot.title)}</h3><figcaption>{escape(plot.caption)}</figcaption>"
        f"{plot.svg}</figure>"
        for plot in pictures
    )
    levels = sorted({point.level for point in mine})
    noun = comparison.noun
    others = "".join(
        f"<h3>{escape(level.label)}</h3>{_table(noun, [p for p in mine if p.level == level])}"
        for level in levels
    )
    return (
        f'{heading}<div class="answer">{words}</div>'
        f"<h2>At {escape(verdict.level.label)}</h2>{_ranked(noun, verdict)}"
        f"<h2>Against load</h2>{drawn}"
        f"<details><summary>Every load in figures</summary>{others}</details>"
    )


def _ranked(noun: str, verdict: FleetVerdict) -> str:
    carries = {
        rank.point.contender: "-" if rank.carries is None else rank.carries.label
        for rank in verdict.ranks
    }
    return _table(noun, [rank.point for rank in verdict.ranks], carries)


def _table(noun: str, points: Sequence[Point], carries: Mapping[str, str] | None = None) -> str:
    columns = [column for column in COLUMNS if any(p.values(column.figure) for p in points)]
    head = "".join(f"<th>{escape(column.head)}</th>" for column in columns)
    if carries is not None:
        head += "<th>carries up to</th>"
    rows: list[str] = []
    for index, point in enumerate(points):
        cells = "".join(f"<td>{_cell(value(point, column))}</td>" for column in columns)
        if carries is not None:
            cells += f"<td>{escape(carries[point.contender])}</td>"
        best = ' class="best"' if carries is not None and index == 0 else ""
        rows.append(f"<tr{best}><td>{escape(point.contender)}</td>{cells}</tr>")
    return (
        f'<div class="table"><table><thead><tr><th>{escape(noun)}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """The interval stands below its mean, so that the table is not wider than a screen."""
    mean, plus_minus, error = text.partition(" ± ")
    return f"{mean}<small>± {error}</small>" if plus_minus else mean


def value(point: Point, column: Column) -> str:
    """The text of a cell, with its interval."""
    found = point.estimate(column.figure)
    if found is None:
        return "-"
    error = None if found.error is None else found.error * column.scale
    return shown(type(found)(found.value * column.scale, error))


def _settings(settings: Mapping[str, object]) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_shown(value))}</dd>"
        for name, value in settings.items()
    )
    return f"<h2>Settings</h2><details><summary>All of them</summary><dl>{rows}</dl></details>"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str).replace('"', "")


def _notes(comparison: Comparison) -> str:
    cut, noun = comparison.cut, comparison.noun
    text = f"""
The window closes when {1 - cut.cool_down:.0%} of the requests have arrived and opens after
{cut.warm_up:.0%} of the time until then; a ramp's stages are whole.

Latencies, shares and hit rates are of the requests that arrived in the window; throughput is of the
window itself, with a prompt's tokens counted when its answer begins and an answer's spread evenly
over its time.

± is half the 95 % confidence interval of the mean over seeds (Student's t). Differences are taken
seed by seed: every {noun} had the same sessions. Further turns of a session come when those before
are answered, so under overload fewer requests arrive than the load asks for: see "arrived".

TTFT, TPOT and latencies are of answered requests; failed ones count against goodput. A 99th
percentile of fewer than some hundred requests is little more than the slowest of them.

A load is carried when {CARRIED:.0%} of the requests are answered within the SLO, there and at every
lower load tried.
"""
    notes = [*text.strip().split("\n\n"), *comparison.notes()]
    if comparison.source.trace is not None:
        notes.append(
            f"A trace is the same for every seed: intervals tell of the {comparison.nouns}' chance."
        )
    paragraphs = "".join(f'<p class="quiet">{escape(note)}</p>' for note in notes)
    return f"<h2>How to read the figures</h2>{paragraphs}"
