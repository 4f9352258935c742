"""The runs of the standing comparison, each kept when it is done.

A comparison that was stopped goes on where it was: what is kept is not run again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from loadtests.lab import choices
from loadtests.lab.bound import goodput_bound
from loadtests.lab.commands.options import RunOptions
from loadtests.lab.experiment import Experiment
from loadtests.lab.jobs import keep
from loadtests.lab.result import measured
from loadtests.lab.simulation import Simulation
from loadtests.lab.suite.rows import LORA_SLOTS, PROFILE, REPLICAS, Row
from loadtests.lab.summary import whole
from loadtests.sim.model.profile import find

Figures = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Run:
    """One run to be done."""

    row: Row
    policy: str
    seed: int

    @property
    def file_name(self) -> str:
        """Where its result is kept, in the folder."""
        words = f"{self.row.title} {self.row.level.value:g} {self.policy} {self.seed}"
        return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-") + ".json"

    def experiment(self) -> Experiment:
        """As an experiment of one cell."""
        row, profile = self.row, find(PROFILE)
        adapters = bool(row.source.adapters())
        options = RunOptions(max_loras=LORA_SLOTS if adapters else 0)
        return Experiment(
            source=row.source,
            levels=(row.level,),
            policies=choices.policies(self.policy),
            replicas=(REPLICAS,),
            profile=profile,
            limits=options.limits(profile),
            seeds=1,
            first_seed=self.seed,
            slo=row.slo,
            cut=options.cut,
            extent=row.extent,
            seeing=row.seeing,
            troubles=row.troubles,
        )


def runs(rows: Sequence[Row], seeds: Sequence[int]) -> Iterator[Run]:
    """All runs, seed by seed: a comparison that is stopped has all of its rows."""
    for seed in seeds:
        for row in rows:
            for policy in row.policies:
                yield Run(row, policy, seed)


def kept(folder: Path, run: Run) -> Figures | None:
    """The figures of a run that is done; None when it is not."""
    try:
        text = (folder / run.file_name).read_bytes()
    except FileNotFoundError:
        return None
    document = orjson.loads(text)
    found: dict[str, float | None] = document["steady"]
    return {**found, "bound_per_s": document["bound_per_s"]}


def do(run: Run, folder: Path) -> None:
    """Do the run and keep its result."""
    experiment = run.experiment()
    (cell,) = experiment.cells()
    traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
    outcome = Simulation(experiment.setting(cell), traffic, seed=cell.seed).run()
    data = measured(experiment.run(cell, outcome, whole(outcome)))
    window = experiment.cut.window(outcome)
    bound = goodput_bound(outcome, window, experiment.slo, experiment.setting(cell))
    document = {"policy": run.policy, "row": run.row.title, "bound_per_s": bound, **data}
    keep(folder / run.file_name, document)
