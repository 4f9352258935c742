"""What a comparison consists of, wherever it runs, and the result of each of its runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from loadtests.lab.outcome import Outcome
from loadtests.lab.source import Extent, Level, LevelKind, Source
from loadtests.lab.summary import (
    Cut,
    Figures,
    Slo,
    TenantFigures,
    Timeline,
    Totals,
    by_tenant,
    figures,
    stage_windows,
    timeline,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a comparison."""

    contender: str
    """Title of the contender."""
    replicas: int
    level: Level
    seed: int


class Details(Protocol):
    """What a run leaves besides figures."""

    def as_data(self) -> Mapping[str, object]:
        """The details for result.json."""
        ...


@dataclass(frozen=True, slots=True)
class CellRun:
    """The result of one cell."""

    cell: Cell
    steady: Figures
    """Figures without warm-up and cool-down."""
    stages: tuple[Figures, ...]
    """Figures of the stages of a ramp; () for other loads."""
    whole: Totals
    timeline: Timeline | None
    """None, except for the first seed."""
    tenants: tuple[TenantFigures, ...] = ()
    """Without warm-up and cool-down; () when there are not two tenants."""
    details: Details | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(ABC):
    """Every contender on every size of fleet, under every level of load, with every seed."""

    noun: ClassVar[str]
    """The word for a contender: policy or target."""
    nouns: ClassVar[str]
    subject: ClassVar[str]
    """The word for all contenders, in a title."""

    source: Source
    levels: tuple[Level, ...]
    replicas: tuple[int, ...]
    """Sizes of the fleet."""
    seeds: int = 3
    """How many seeds there are."""
    first_seed: int = 1
    slo: Slo = field(default_factory=Slo)
    cut: Cut = field(default_factory=Cut)
    extent: Extent = field(default_factory=Extent)
    client_timeout_s: float | None = None
    """Clients give up after this time; None: never."""

    @property
    @abstractmethod
    def titles(self) -> tuple[str, ...]:
        """The contenders' titles, each once."""

    @property
    @abstractmethod
    def fleet(self) -> str:
        """What the replicas are: words that follow their number."""

    @abstractmethod
    def contenders_as_data(self) -> Sequence[Mapping[str, object]]:
        """The contenders, for result.json."""

    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """What the result depends on, besides what all comparisons have."""

    @abstractmethod
    def notes(self) -> Sequence[str]:
        """How to read the figures, besides what holds for all comparisons."""

    def remarks(self, runs: Sequence[CellRun]) -> Sequence[str]:
        """What a reader must know before trusting the figures."""
        return ()

    def cells(self) -> Iterator[Cell]:
        """All runs, in the order of the result."""
        for replicas in self.replicas:
            for level in self.levels:
                for title in self.titles:
                    for seed in range(self.first_seed, self.first_seed + self.seeds):
                        yield Cell(title, replicas, level, seed)

    def run(
        self,
        cell: Cell,
        outcome: Outcome,
        whole: Totals,
        details: Details | None = None,
    ) -> CellRun:
        """The figures of one run. Raises ValueError when no request was sent."""
        if not outcome.served:
            raise ValueError(f"{cell.level.label}: no request was sent; let it last longer")
        stages: tuple[Figures, ...] = ()
        if cell.level.kind is LevelKind.RAMP:
            windows = stage_windows(self.source.stages)
            stages = tuple(figures(outcome, window, self.slo) for window in windows)
        window = self.cut.window(outcome)
        return CellRun(
            cell,
            figures(outcome, window, self.slo),
            stages,
            whole,
            timeline(outcome) if cell.seed == self.first_seed else None,
            by_tenant(outcome, window, self.slo),
            details,
        )
