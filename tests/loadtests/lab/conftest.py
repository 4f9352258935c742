"""A comparison small enough for a test."""

from collections.abc import Callable
from typing import Any

import pytest

from loadtests.lab.choices import policies
from loadtests.lab.commands.options import RunOptions
from loadtests.lab.experiment import Experiment
from loadtests.lab.source import Extent, Source
from loadtests.sim.model.catalogue import ACCELERATORS, architecture
from loadtests.sim.model.profile import Profile

PROFILE = Profile("test", architecture("Qwen/Qwen3-8B"), ACCELERATORS["h100"])

Make = Callable[..., Experiment]


@pytest.fixture
def make() -> Make:
    """An experiment: `make("workload", "policies", rates=..., requests=...)`."""

    def made(
        workload: str = "fixed-corpus-saas",
        names: str = "round-robin,llm-d-token-aware",
        *,
        requests: int | None = 60,
        duration_s: float | None = None,
        replicas: tuple[int, ...] = (3,),
        seeds: int = 2,
        **levels: Any,
    ) -> Experiment:
        source = Source.parse(workload)
        return Experiment(
            source=source,
            levels=source.levels(**levels),
            policies=policies(names),
            replicas=replicas,
            profile=PROFILE,
            limits=RunOptions(max_num_seqs=64).limits(PROFILE),
            seeds=seeds,
            extent=Extent(duration_s, requests),
        )

    return made
