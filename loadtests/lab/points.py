"""Runs that differ only in their seed, put together: means with their uncertainty, and paired
differences between contenders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from loadtests.bench.stats import Estimate, estimate
from loadtests.lab.comparison import CellRun, Comparison
from loadtests.lab.source import Level, LevelKind
from loadtests.lab.summary import Figures

FigureValue = float | int | None


@dataclass(frozen=True, slots=True)
class Point:
    """A contender on a fleet under one load, over all seeds."""

    contender: str
    replicas: int
    level: Level
    """Each stage of a ramp counts as a level of its own rate."""
    by_seed: tuple[dict[str, FigureValue], ...]
    """Figures of each seed, with those of the whole run (but not for a stage of a ramp)."""

    @property
    def load(self) -> float:
        """Place on the axis of loads."""
        return self.level.value

    def values(self, figure: str) -> list[float]:
        """The values of a figure, of those seeds that have it."""
        found = (seed.get(figure) for seed in self.by_seed)
        return [float(value) for value in found if value is not None]

    def estimate(self, figure: str) -> Estimate | None:
        """Mean over seeds with its 95 % confidence interval (Student's t); None without values."""
        values = self.values(figure)
        return estimate(values) if values else None

    def mean(self, figure: str) -> float | None:
        """Mean over seeds."""
        found = self.estimate(figure)
        return None if found is None else found.value

    @property
    def figures(self) -> list[str]:
        """Names of the figures."""
        return sorted(self.by_seed[0])


def difference(one: Point, other: Point, figure: str) -> Estimate | None:
    """``one`` minus ``other``, seed by seed. Both had the same requests, so what a seed does to
    both cancels out. None when no seed has both."""
    pairs = [
        (a, b)
        for a, b in zip(
            (seed.get(figure) for seed in one.by_seed),
            (seed.get(figure) for seed in other.by_seed),
            strict=True,
        )
        if a is not None and b is not None
    ]
    return estimate([a - b for a, b in pairs]) if pairs else None


def points(comparison: Comparison, runs: Sequence[CellRun]) -> list[Point]:
    """One point for each contender, fleet and level, in order. For a ramp, one for each stage from
    the lowest rate upwards; the stages before that one only fill the caches."""
    groups: dict[tuple[int, Level, str], list[CellRun]] = {}
    for run in runs:
        cell = run.cell
        groups.setdefault((cell.replicas, cell.level, cell.contender), []).append(run)
    found: list[Point] = []
    for (replicas, level, contender), alike in groups.items():
        if level.kind is LevelKind.RAMP:
            found += _stages(comparison, contender, replicas, alike)
        else:
            by_seed = tuple({**asdict(run.steady), **asdict(run.whole)} for run in alike)
            found.append(Point(contender, replicas, level, by_seed))
    return found


def _stages(
    comparison: Comparison, contender: str, replicas: int, runs: Sequence[CellRun]
) -> list[Point]:
    stages = comparison.source.stages
    lowest = min(range(len(stages)), key=lambda index: stages[index].per_s)
    return [
        Point(
            contender,
            replicas,
            Level(stages[index].per_s, LevelKind.RATE),
            tuple(_of(run.stages[index]) for run in runs),
        )
        for index in range(lowest, len(stages))
    ]


def _of(figures: Figures) -> dict[str, FigureValue]:
    return asdict(figures)
