"""The result as data: settings, every run, and the seeds put together. The same experiment gives
the same bytes: sorted keys, nine significant digits, no times or places of the machine."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from loadtests.bench.stats import Estimate
from loadtests.lab.experiment import Experiment, Run
from loadtests.lab.points import Point, difference, points
from loadtests.lab.source import Level
from loadtests.lab.verdict import Verdict, sentences, verdicts

FORMAT = 1
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def settings(experiment: Experiment) -> dict[str, object]:
    """Everything that the result follows from."""
    return {
        "workload": experiment.source.name,
        "about": experiment.source.about,
        "ramp": [asdict(stage) for stage in experiment.source.stages],
        "levels": [_level(level) for level in experiment.levels],
        "policies": [
            {"label": choice.title, "name": choice.name, "params": choice.params}
            for choice in experiment.policies
        ],
        "replicas": list(experiment.replicas),
        "seeds": experiment.seeds,
        "slo": asdict(experiment.slo),
        "cut": asdict(experiment.cut),
        "extent": asdict(experiment.extent),
        "seeing": asdict(experiment.seeing),
        "client_timeout_s": experiment.client_timeout_s,
        "limits": asdict(experiment.limits),
        "profile": asdict(experiment.profile),
    }


def document(experiment: Experiment, runs: Sequence[Run]) -> dict[str, object]:
    """The whole result."""
    together = points(experiment, runs)
    return {
        "format": FORMAT,
        "settings": settings(experiment),
        "verdicts": [_verdict(each, experiment) for each in verdicts(together)],
        "points": [_point(point, together) for point in together],
        "runs": [_run(run) for run in runs],
    }


def dumped(document: Mapping[str, object]) -> bytes:
    """As JSON."""
    return orjson.dumps(_plain(document), option=_OPTIONS)


def _level(level: Level) -> dict[str, object]:
    return {"kind": level.kind.name.lower(), "value": level.value}


def _verdict(verdict: Verdict, experiment: Experiment) -> dict[str, object]:
    return {
        "replicas": verdict.replicas,
        "level": _level(verdict.level),
        "figure": verdict.figure,
        "best": verdict.best.policy,
        "ranks": [
            {
                "policy": rank.point.policy,
                "standing": rank.standing.value,
                "behind": _estimate(rank.behind),
                "carries": None if rank.carries is None else _level(rank.carries),
            }
            for rank in verdict.ranks
        ],
        "words": sentences(verdict, experiment.slo),
    }


def _point(point: Point, together: Sequence[Point]) -> dict[str, object]:
    """``less_first``: what it has more or less than the first policy of the list, by paired
    seeds."""
    first = next(
        each for each in together if each.replicas == point.replicas and each.level == point.level
    )
    return {
        "policy": point.policy,
        "replicas": point.replicas,
        "level": _level(point.level),
        "figures": {name: _estimate(point.estimate(name)) for name in point.figures},
        "less_first": None
        if first is point
        else {name: _estimate(difference(point, first, name)) for name in point.figures},
    }


def _run(run: Run) -> dict[str, object]:
    return {
        "policy": run.cell.policy.title,
        "replicas": run.cell.replicas,
        "level": _level(run.cell.level),
        "seed": run.cell.seed,
        "steady": asdict(run.steady),
        "stages": [asdict(stage) for stage in run.stages],
        "whole": asdict(run.whole),
        "timeline": None if run.timeline is None else asdict(run.timeline),
    }


def _estimate(found: Estimate | None) -> dict[str, float | None] | None:
    """``error``: half the width of the 95 % interval."""
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
