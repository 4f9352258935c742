"""A comparison of policies in virtual time, and one run of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import ClassVar, Final

from loadtests.lab.comparison import Cell, CellRun, Comparison
from loadtests.lab.setting import Seeing, Setting, Troubles
from loadtests.lab.simulation import Simulation
from loadtests.lab.summary import whole
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.model.step_time import StepTime, Work
from policies import registry
from policies.routing.spec import PolicySpec

QUEUED: Final = frozenset(("auto", "weighted"))
"""Ours: the others are simulated as they ship."""


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A policy to compare."""

    title: str
    """What reports call it; no other policy of the experiment has the same."""
    spec: PolicySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment(Comparison):
    """Policies compared on simulated replicas."""

    noun: ClassVar[str] = "policy"
    nouns: ClassVar[str] = "policies"
    subject: ClassVar[str] = "routing policies"

    policies: tuple[PolicyChoice, ...]
    profile: Profile
    limits: EngineLimits
    seeing: Seeing = field(default_factory=Seeing)
    queued: frozenset[str] = QUEUED
    """Names of the policies in front of which requests wait in the picker."""
    troubles: Troubles = field(default_factory=Troubles)
    kv_events: bool = False
    """See `Setting.kv_events`."""

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(choice.title for choice in self.policies)

    @property
    def fleet(self) -> str:
        return f"simulated replicas of {self.profile.what('each ')}"

    def contenders_as_data(self) -> Sequence[Mapping[str, object]]:
        return [
            {"label": choice.title, "name": choice.spec.name, "params": choice.spec.params}
            for choice in self.policies
        ]

    def settings(self) -> Mapping[str, object]:
        return {
            "seeing": asdict(self.seeing),
            "troubles": {k: v for k, v in asdict(self.troubles).items() if v != inf},
            "kv_events": self.kv_events,
            "client_timeout_s": self.client_timeout_s,
            "limits": asdict(self.limits),
            "profile": asdict(self.profile),
        }

    def notes(self) -> Sequence[str]:
        note = (
            "Simulated: the live picker and policies in virtual time, over a model of the engine."
            " What the model\nwas fitted to is told under the profile's source."
        )
        return [note]

    def setting(self, cell: Cell) -> Setting:
        """What is simulated in a cell."""
        policy = next(each.spec for each in self.policies if each.title == cell.contender)
        return Setting(
            self.profile,
            self.limits,
            cell.replicas,
            calibrated(policy, self.profile, self.limits),
            self.seeing,
            self.client_timeout_s,
            self.troubles,
            self.kv_events,
            queue=policy.name in self.queued,
        )

    def sized(self, replicas: int) -> Experiment:
        """The same experiment on fleets of one size."""
        return replace(self, replicas=(replicas,))


def calibrated(policy: PolicySpec, profile: Profile, limits: EngineLimits) -> PolicySpec:
    """The policy with the prefill speed of the replicas, where it has such a parameter and none is
    given: what an operator measures with one long prompt on an idle replica, as llm-d asks him to.
    """
    name = "peak_prefill_tokens_per_s"
    if name in policy.params or name not in registry.parameters("policy", policy.name):
        return policy
    tokens = limits.max_num_batched_tokens
    alone = Work(tokens, tokens * tokens / 2, prefill_context_tokens=tokens)
    peak = float(f"{tokens / StepTime(profile).step_s(alone):.4g}")
    return PolicySpec(policy.name, {**policy.params, name: peak})


def run_cell(
    experiment: Experiment, cell: Cell, on_progress: Callable[[float, int], None] | None = None
) -> CellRun:
    """Simulate one cell. The result depends on the arguments alone. Raises ValueError when no
    request was sent."""
    traffic = experiment.source.traffic(cell.level, cell.seed, experiment.extent)
    simulation = Simulation(
        experiment.setting(cell), traffic, seed=cell.seed, on_progress=on_progress
    )
    outcome = simulation.run()
    return experiment.run(cell, outcome, whole(outcome))
