"""A comparison of targets over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

from loadtests.lab.comparison import CellRun, Comparison
from loadtests.lab.live import strain
from loadtests.lab.live.measured import LiveDetails
from loadtests.lab.live.replicas import Simulated
from loadtests.lab.live.target import Target
from loadtests.sim.model.profile import Profile
from loadtests.workloads.bodies import Api


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveExperiment(Comparison):
    """Targets compared on the same replicas."""

    noun: ClassVar[str] = "target"
    nouns: ClassVar[str] = "targets"
    subject: ClassVar[str] = "gateways"

    targets: tuple[Target, ...]
    simulated: Simulated | None = None
    """None: the replicas are already running."""
    profile: Profile | None = None
    """Profile of the simulated replicas."""
    given: tuple[str, ...] = ()
    """Addresses of replicas that are already running."""
    model: str = ""
    """Model to ask for; "" = the first that the replicas list."""
    api: Api = "chat"
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Targets that could not be started, and why."""

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(target.title for target in self.targets)

    @property
    def time_scale(self) -> float:
        """Wall time for a second of the model."""
        return 1.0 if self.simulated is None else self.simulated.time_scale

    @property
    def fleet(self) -> str:
        profile = self.profile
        if profile is None:
            return f"running replicas ({', '.join(self.given)}), over HTTP"
        return (
            f"simulated replicas of {profile.model.name}, each {profile.tensor_parallel} x"
            f" {profile.accelerator.name}, over HTTP at {self.time_scale:g} times real time"
        )

    def contenders_as_data(self) -> Sequence[Mapping[str, object]]:
        return [target.as_data() for target in self.targets]

    def settings(self) -> Mapping[str, object]:
        return {
            "client_timeout_s": self.client_timeout_s,
            "api": self.api,
            "time_scale": self.time_scale,
            "given_replicas": list(self.given),
            "limits": None if self.simulated is None else asdict(self.simulated.limits),
            "profile": None if self.profile is None else asdict(self.profile),
            "left_out": dict(self.left_out),
        }

    def notes(self) -> Sequence[str]:
        text = f"""
Live: real gateways, started afresh for each run in an order drawn for each seed, over the same
replicas, whose prefix caches were emptied before. Times are the client's own, wall time divided by
the time scale of {self.time_scale:g}: what a gateway itself takes is divided as well.

Hit rates are what the engines report. Tokens computed: prompt tokens that were not cached and
generated ones, the replica with most over the mean, by the replicas' counters over the whole run.

Gateway CPU is of all its processes, over the requests: what it does at rest (scrapes, health
checks) is in it.

A run is flagged when the machine was more than {strain.BUSY:.0%} busy, the client more than
{strain.LATE_S * 1000:g} ms late (99th percentile), or a simulated replica used more than
{strain.REPLICA_BUSY:.0%} of a core.
"""
        return text.strip().split("\n\n")

    def remarks(self, runs: Sequence[CellRun]) -> Sequence[str]:
        found = [f"Left out: {title}: {reason}" for title, reason in self.left_out.items()]
        live = [run.details for run in runs if isinstance(run.details, LiveDetails)]
        found += strain.remarks(details.strain for details in live)
        if not all(details.caches_emptied for details in live):
            found.append(
                "Not on equal terms: the replicas have no /reset_prefix_cache (vLLM has it with"
                " VLLM_SERVER_DEV_MODE=1), so later runs found the prompts of earlier ones cached"
            )
        if uncounted := sum(details.uncounted for details in live):
            found.append(
                f"{uncounted} answers came without their usage: their tokens are counted by the"
                " pieces they came in"
            )
        return [*found, *_failures(runs)]

    def target(self, title: str) -> Target:
        """The target with that title."""
        return next(target for target in self.targets if target.title == title)

    def without(self, title: str, reason: str) -> LiveExperiment:
        """The same experiment without one target."""
        kept = tuple(target for target in self.targets if target.title != title)
        return replace(self, targets=kept, left_out={**self.left_out, title: reason})


def _failures(runs: Sequence[CellRun]) -> list[str]:
    """One line for each target with failed requests."""
    kinds: dict[str, Counter[str]] = {}
    requests: Counter[str] = Counter()
    said: dict[tuple[str, str], str] = {}
    for run in runs:
        if isinstance(run.details, LiveDetails):
            kinds.setdefault(run.cell.contender, Counter()).update(run.details.errors)
            requests[run.cell.contender] += run.whole.requests
            for kind, text in run.details.said.items():
                said.setdefault((run.cell.contender, kind), text)
    found: list[str] = []
    for title, errors in kinds.items():
        if errors:
            told = ", ".join(
                f"{kind} ({count})" + (f', "{said[title, kind]}"' if (title, kind) in said else "")
                for kind, count in errors.most_common()
            )
            found.append(f"{title}: {errors.total()} of {requests[title]} requests failed: {told}")
    return found
