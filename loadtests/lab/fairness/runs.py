"""The runs of the experiments, each kept when it is done."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from loadtests.lab.commands.options import RunOptions
from loadtests.lab.fairness.cases import CHAT, NO_QUEUE, POLICY, PROFILE, URGENT, Case
from loadtests.lab.fairness.figures import measure
from loadtests.lab.jobs import keep
from loadtests.lab.outcome import Outcome
from loadtests.lab.setting import Setting
from loadtests.lab.simulation import Simulation
from loadtests.sim.model.profile import find
from loadtests.workloads.streams import Streams
from picker.settings import FlowSettings, Objective
from policies.flow.orders import FAIR
from policies.routing.spec import PolicySpec


@dataclass(frozen=True, slots=True)
class Run:
    """One run to be done."""

    case: Case
    order: str
    seed: int

    @property
    def file_name(self) -> str:
        """Where its result is kept, in the folder."""
        words = f"{self.case.title} {self.order} {self.seed}"
        return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-") + ".json"

    def outcome(self) -> Outcome:
        """Simulate it."""
        case, profile = self.case, find(PROFILE)
        queued = self.order != NO_QUEUE
        setting = Setting(
            profile,
            RunOptions(max_loras=0).limits(profile),
            case.replicas,
            PolicySpec(POLICY),
            queue=queued,
            flow=FlowSettings(
                order=self.order if queued else FAIR,
                objectives=(Objective(URGENT, ttft_s=CHAT.ttft_s),),
            ),
            tenants=case.terms,
        )
        streams = Streams(
            [sender.stream(self.seed) for sender in case.senders],
            seed=self.seed,
            duration_s=case.duration_s,
        )
        return Simulation(setting, streams.traffic(), seed=self.seed).run()


def runs(cases: Iterable[Case], seeds: Sequence[int], orders: Sequence[str]) -> Iterator[Run]:
    """All runs, seed by seed: experiments that are stopped have all of their rows."""
    every = list(cases)
    for seed in seeds:
        for case in every:
            for order in case.orders:
                if order in orders:
                    yield Run(case, order, seed)


def do(run: Run, folder: Path) -> None:
    """Do the run and keep its result."""
    document = {"case": run.case.title, "order": run.order, "seed": run.seed}
    keep(folder / run.file_name, {**document, **measure(run.case, run.outcome())})


def kept(folder: Path, run: Run) -> dict[str, object] | None:
    """The result of a run that is done; None when it is not."""
    try:
        text = (folder / run.file_name).read_bytes()
    except FileNotFoundError:
        return None
    document: dict[str, object] = orjson.loads(text)
    return document
