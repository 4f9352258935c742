"""The smallest fleet that meets an SLO: by doubling, then bisection, over the number of replicas.

This assumes that n + 1 replicas carry whatever n replicas carry, and tests that for the answer:
near the goal, chance decides which sizes meet it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil

from loadtests.bench.stats import Estimate, estimate
from loadtests.lab.comparison import CellRun
from loadtests.lab.experiment import Experiment
from loadtests.lab.result import FORMAT, settings
from loadtests.lab.source import LabError, LevelKind
from loadtests.lab.summary import Figures


@dataclass(frozen=True, slots=True)
class Trial:
    """A size of fleet that was tried with every seed."""

    replicas: int
    wanted: float
    """Share of the requests that must be answered within the SLO."""
    runs: tuple[CellRun, ...]

    @property
    def shares(self) -> list[float]:
        """For each seed, the share answered within the SLO; in a ramp, that of its worst stage."""
        return [min(figures.good_share or 0.0 for figures in _judged(run)) for run in self.runs]

    @property
    def met(self) -> bool:
        """Whether every seed reaches the wanted share."""
        return self.worst >= self.wanted

    @property
    def worst(self) -> float:
        """The smallest share of all seeds."""
        return min(self.shares)

    @property
    def share(self) -> Estimate:
        """Mean of the seeds' shares with its 95 % interval."""
        return estimate(self.shares)


def _judged(run: CellRun) -> Sequence[Figures]:
    """The stages in which requests arrived, or the one window."""
    return [stage for stage in run.stages if stage.requests] or [run.steady]


@dataclass(frozen=True, slots=True)
class Sizing:
    """The result of the search."""

    policy: str
    smallest: Trial | None
    """None: even the largest fleet tried misses the SLO."""
    trials: tuple[Trial, ...]
    """Ordered by size."""

    @property
    def one_fewer(self) -> Trial | None:
        """The size below the smallest, which misses the SLO; None when the smallest is 1."""
        if self.smallest is None:
            return None
        return self._tried(self.smallest.replicas - 1)

    @property
    def one_more(self) -> Trial | None:
        """The size above the smallest; None when it was not tried."""
        return None if self.smallest is None else self._tried(self.smallest.replicas + 1)

    def _tried(self, replicas: int) -> Trial | None:
        return next((trial for trial in self.trials if trial.replicas == replicas), None)


Sweep = Callable[[Experiment], tuple[CellRun, ...]]


def smallest_fleet(
    experiment: Experiment, run: Sweep, *, wanted: float = 0.9, most: int = 256
) -> Sizing:
    """Search for the experiment's one policy and level, beginning with its number of replicas.

    ``wanted``: share of the requests, 0 to 1, that must be answered within the SLO with every seed.
    Raises LabError.
    """
    if len(experiment.policies) != 1 or len(experiment.levels) != 1:
        raise LabError("a fleet is sized for one policy and one load")
    if not 0 < wanted <= 1:
        raise LabError(f"the share that must meet the SLO is over 0 up to 1, got {wanted:g}")
    first = experiment.replicas[0]
    if not 1 <= first <= most:
        raise LabError(f"the search begins at 1 to {most} replicas, got {first}")
    trials: dict[int, Trial] = {}

    def meets(replicas: int) -> bool:
        trials[replicas] = Trial(replicas, wanted, run(experiment.sized(replicas)))
        return trials[replicas].met

    fails, meeting = _bracket(first, most, meets)
    while meeting is not None and meeting - fails > 1:
        middle = (fails + meeting) // 2
        if meets(middle):
            meeting = middle
        else:
            fails = middle
    if meeting is not None and meeting < most and meeting + 1 not in trials:
        meets(meeting + 1)
    return Sizing(
        experiment.policies[0].title,
        None if meeting is None else trials[meeting],
        tuple(trials[size] for size in sorted(trials)),
    )


def _bracket(first: int, most: int, meets: Callable[[int], bool]) -> tuple[int, int | None]:
    """A size that fails (0 fails by definition) and one that meets the SLO, or None."""
    if meets(first):
        meeting = first
        while meeting > 1:
            smaller = meeting // 2
            if not meets(smaller):
                return smaller, meeting
            meeting = smaller
        return 0, 1
    fails = first
    while fails < most:
        larger = min(most, fails * 2)
        if meets(larger):
            return fails, larger
        fails = larger
    return fails, None


def sizing_document(experiment: Experiment, sizing: Sizing) -> dict[str, object]:
    """The result as data; see `result.dumped`."""
    smallest = sizing.smallest
    return {
        "format": FORMAT,
        "settings": settings(experiment),
        "policy": sizing.policy,
        "wanted": sizing.trials[0].wanted,
        "replicas": None if smallest is None else smallest.replicas,
        "words": sizing_sentences(experiment, sizing),
        "trials": [
            {
                "replicas": trial.replicas,
                "met": trial.met,
                "shares": trial.shares,
                "runs": [
                    {
                        "seed": each.cell.seed,
                        "steady": asdict(each.steady),
                        "stages": [asdict(stage) for stage in each.stages],
                        "whole": asdict(each.whole),
                    }
                    for each in trial.runs
                ],
            }
            for trial in sizing.trials
        ],
    }


def sizing_sentences(experiment: Experiment, sizing: Sizing) -> list[str]:
    """The answer, how clearly it holds, and what one replica fewer would do."""
    slo, level = experiment.slo, experiment.levels[0]
    wanted = sizing.trials[0].wanted
    goal = (
        f"{wanted:.0%} of {experiment.source.name} at {level.label} within TTFT {slo.ttft_s:g} s"
        f" and TPOT {slo.tpot_s * 1000:g} ms"
    )
    if sizing.smallest is None:
        most = sizing.trials[-1]
        return [
            f"Not even {most.replicas} replicas with {sizing.policy} answer {goal}.",
            f"They answer {_shares(most)}. The SLO may be out of the profile's reach on any fleet.",
        ]
    smallest, fewer = sizing.smallest, sizing.one_fewer
    many = "replica answers" if smallest.replicas == 1 else "replicas answer"
    found = [f"{smallest.replicas} {many} {goal}, with {sizing.policy}."]
    if level.kind is LevelKind.RAMP:
        found.append(f"They answer {_shares(smallest)}, in the worst stage of the ramp.")
    else:
        found.append(f"They answer {_shares(smallest)}; {_margins(experiment, smallest)}.")
    if fewer is not None:
        found.append(f"One fewer would answer {_shares(fewer)}.")
    if (more := sizing.one_more) is not None and not more.met:
        found.append(
            f"One more would answer {_shares(more)}, which misses it: chance decides here; take"
            " more seeds or a longer --duration."
        )
    return found


def _shares(trial: Trial) -> str:
    share = trial.share
    error = "" if share.error is None else f" ± {share.error * 100:.1f}"
    worst = "" if share.error is None else f" (the worst seed {trial.worst:.1%})"
    return f"{share.value * 100:.1f}{error} %{worst}"


def _margins(experiment: Experiment, trial: Trial) -> str:
    """How far the mean p90 over seeds is from the SLO's limits."""
    slo = experiment.slo
    parts: list[str] = []
    for name, values, limit_s in (
        ("TTFT", [run.steady.ttft_p90_s for run in trial.runs], slo.ttft_s),
        ("TPOT", [run.steady.tpot_p90_s for run in trial.runs], slo.tpot_s),
    ):
        known = [value for value in values if value is not None]
        if known:
            p90_s = sum(known) / len(known)
            side = "below" if p90_s <= limit_s else "above"
            away = abs(1 - p90_s / limit_s)
            parts.append(f"{name} p90 {_time(p90_s)}, {ceil(away * 100 - 0.5)} % {side} its limit")
    return "; ".join(parts)


def _time(value_s: float) -> str:
    return f"{value_s:.2f} s" if value_s >= 1 else f"{value_s * 1000:.0f} ms"
