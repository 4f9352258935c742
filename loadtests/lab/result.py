"""The result as data: settings, every run, and the seeds put together. The same experiment gives
the same bytes: keys are sorted, numbers have nine significant digits, and no times or places of the
machine are in it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from loadtests.bench.stats import Estimate
from loadtests.lab.comparison import CellRun, Comparison
from loadtests.lab.points import Point, difference, points
from loadtests.lab.source import Level
from loadtests.lab.verdict import FleetVerdict, sentences, verdicts

FORMAT = 1
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def settings(comparison: Comparison) -> dict[str, object]:
    """Everything on which the result depends."""
    return {
        "workload": comparison.source.name,
        "about": comparison.source.about,
        "ramp": [asdict(stage) for stage in comparison.source.stages],
        "levels": [_level(level) for level in comparison.levels],
        comparison.nouns: comparison.contenders_as_data(),
        "replicas": list(comparison.replicas),
        "seeds": comparison.seeds,
        "first_seed": comparison.first_seed,
        "slo": asdict(comparison.slo),
        "cut": asdict(comparison.cut),
        "extent": asdict(comparison.extent),
        **comparison.settings(),
    }


def document(comparison: Comparison, runs: Sequence[CellRun]) -> dict[str, object]:
    """The whole result."""
    together = points(comparison, runs)
    return {
        "format": FORMAT,
        "settings": settings(comparison),
        "verdicts": [_verdict(each, comparison) for each in verdicts(together)],
        "points": [_point(point, together, comparison.noun) for point in together],
        "runs": [_run(run, comparison.noun) for run in runs],
    }


def dumped(document: Mapping[str, object]) -> bytes:
    """The document as JSON."""
    return orjson.dumps(_plain(document), option=_OPTIONS)


def measured(run: CellRun) -> dict[str, object]:
    """The figures of a run, and its seed."""
    return {
        "seed": run.cell.seed,
        "steady": asdict(run.steady),
        "stages": [asdict(stage) for stage in run.stages],
        "whole": asdict(run.whole),
        "tenants": [asdict(tenant) for tenant in run.tenants],
    }


def _level(level: Level) -> dict[str, object]:
    return {"kind": level.kind.name.lower(), "value": level.value}


def _verdict(verdict: FleetVerdict, comparison: Comparison) -> dict[str, object]:
    return {
        "replicas": verdict.replicas,
        "level": _level(verdict.level),
        "figure": verdict.figure,
        "best": verdict.best.contender,
        "ranks": [
            {
                comparison.noun: rank.point.contender,
                "standing": rank.standing.value,
                "behind": _estimate(rank.behind),
                "carries": None if rank.carries is None else _level(rank.carries),
            }
            for rank in verdict.ranks
        ],
        "words": sentences(verdict, comparison.slo),
    }


def _point(point: Point, together: Sequence[Point], noun: str) -> dict[str, object]:
    """``less_first``: each figure minus that of the first contender in the list, by paired
    seeds."""
    first = next(
        each for each in together if each.replicas == point.replicas and each.level == point.level
    )
    return {
        noun: point.contender,
        "replicas": point.replicas,
        "level": _level(point.level),
        "figures": {name: _estimate(point.estimate(name)) for name in point.figures},
        "less_first": None
        if first is point
        else {name: _estimate(difference(point, first, name)) for name in point.figures},
    }


def _run(run: CellRun, noun: str) -> dict[str, object]:
    return {
        noun: run.cell.contender,
        "replicas": run.cell.replicas,
        "level": _level(run.cell.level),
        **measured(run),
        "timeline": None if run.timeline is None else asdict(run.timeline),
        **({} if run.details is None else run.details.as_data()),
    }


def _estimate(found: Estimate | None) -> dict[str, float | None] | None:
    """``error`` is half the width of the 95 % interval."""
    return None if found is None else {"mean": found.value, "error": found.error}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    return value
