"""What a comparison consists of, and one run of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from loadtests.lab.setting import PolicyChoice, Seeing, Setting
from loadtests.lab.simulation import Simulation
from loadtests.lab.source import Extent, Level, LevelKind, Source
from loadtests.lab.summary import (
    Cut,
    Figures,
    Slo,
    Timeline,
    Whole,
    figures,
    stage_windows,
    timeline,
    whole,
)
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.scheduler import Limits


@dataclass(frozen=True, slots=True)
class Experiment:
    """Every policy on every size of fleet under every level with every seed."""

    source: Source
    levels: tuple[Level, ...]
    policies: tuple[PolicyChoice, ...]
    replicas: tuple[int, ...]
    profile: Profile
    limits: Limits
    seeds: int = 3
    """Seeds 1 to this."""
    slo: Slo = field(default_factory=Slo)
    cut: Cut = field(default_factory=Cut)
    extent: Extent = field(default_factory=Extent)
    seeing: Seeing = field(default_factory=Seeing)
    client_timeout_s: float | None = None

    def cells(self) -> Iterator[Cell]:
        """All runs, in the order of the result."""
        for replicas in self.replicas:
            for level in self.levels:
                for policy in self.policies:
                    for seed in range(1, self.seeds + 1):
                        yield Cell(policy, replicas, level, seed)

    def sized(self, replicas: int) -> Experiment:
        """The same on fleets of one size."""
        return replace(self, replicas=(replicas,))


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of an experiment."""

    policy: PolicyChoice
    replicas: int
    level: Level
    seed: int


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a cell."""

    cell: Cell
    steady: Figures
    """Without warm-up and cool-down."""
    stages: tuple[Figures, ...]
    """Of a ramp; () otherwise."""
    whole: Whole
    timeline: Timeline | None
    """Of the first seed only."""


def run_cell(
    experiment: Experiment, cell: Cell, on_progress: Callable[[float, int], None] | None = None
) -> Run:
    """Simulate it. Everything follows from the arguments. Raises ValueError when no request was
    sent."""
    setting = Setting(
        experiment.profile,
        experiment.limits,
        cell.replicas,
        cell.policy,
        experiment.seeing,
        experiment.client_timeout_s,
    )
    traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
    simulation = Simulation(setting, traffic, seed=cell.seed, on_progress=on_progress)
    outcome = simulation.run()
    if not outcome.served:
        raise ValueError(f"{cell.level.label}: no request was sent; let it last longer")
    stages: tuple[Figures, ...] = ()
    if cell.level.kind is LevelKind.RAMP:
        windows = stage_windows(experiment.source.stages)
        stages = tuple(figures(outcome, window, experiment.slo) for window in windows)
    return Run(
        cell,
        figures(outcome, experiment.cut.window(outcome), experiment.slo),
        stages,
        whole(outcome),
        timeline(outcome) if cell.seed == 1 else None,
    )
