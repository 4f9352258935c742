"""Fits a profile to measurements of one server: a least-squares search with stated priors.

The search starts from data sheets and physics; measurements pull the parameters away from there.
Each parameter has a prior mean and a standard deviation (`PARAMETERS`), each measured number an
error that the model may make (`_observations`), and the sum of squares of both is minimised
(maximum a posteriori, Gauss-Newton with Broyden's updates of the Jacobian). The experiments are
replayed for every guess with the same seeds, so that the search sees what will be predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from loadtests.sim.calibration.inference_perf import StageResult, replay
from loadtests.sim.calibration.measured import MeasuredError, MeasuredExperiment, MeasuredStage
from loadtests.sim.model.catalogue import ACCELERATORS, Accelerator, architecture
from loadtests.sim.model.profile import Profile

Vector = NDArray[np.float64]

_SEEDS = 2
"""Number of replays whose mean is taken for one guess."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field of `Profile`: value = mean x exp(spread x u), with u normal before the data."""

    name: str
    mean: float
    spread: float
    least_shards: int = 1
    """Smaller tensor parallel sizes do not have the effect."""

    def value(self, u: float) -> float:
        """The value in the profile's unit."""
        return self.mean * exp(self.spread * max(min(u, 8.0), -8.0))


PARAMETERS = (
    Parameter("overhead_s", 2.0e-3, 0.7),
    Parameter("sequence_s", 4e-6, 0.8),
    Parameter("mixed_layer_s", 20e-6, 0.4),
    Parameter("two_stage_all_reduce_s", 4e-6, 0.5, least_shards=4),
    Parameter("compute_share", 0.5, 0.25),
    Parameter("input_s", 4e-3, 0.3),
    Parameter("first_use_s", 0.1, 1.2),
)
"""Spreads are wide for overheads, and narrow for what physics bounds."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted profile, and how far it is from the measurements."""

    profile: Profile
    misfit: float
    """Root mean square of the observations' errors, in units of their tolerance."""
    replays: int


def calibration_experiments(experiments: Sequence[MeasuredExperiment]) -> list[MeasuredExperiment]:
    """The experiments to which a profile may be fitted: `codegen`, without failures."""
    return [
        each
        for each in experiments
        if each.experiment.endswith("codegen")
        and each.stages
        and not any(stage.failures for stage in each.stages)
    ]


def profile_name(experiment: MeasuredExperiment, accelerator: Accelerator) -> str:
    """Name of the measured server's profile: model, tensor parallel size and accelerator."""
    return f"{experiment.server_name}-{_chip(experiment, accelerator).name}"


def _chip(experiment: MeasuredExperiment, accelerator: Accelerator) -> Accelerator:
    """The accelerator of the experiment, or else the one given. Raises MeasuredError for an unknown
    one."""
    named = experiment.config.accelerator
    if named is None:
        return accelerator
    if named.lower() not in ACCELERATORS:
        known = ", ".join(ACCELERATORS)
        raise MeasuredError(
            f"{experiment.experiment}: accelerator {named!r} is not known; known are {known}"
        )
    return ACCELERATORS[named.lower()]


def prior_profile(experiment: MeasuredExperiment, accelerator: Accelerator) -> Profile:
    """The profile before any measurement. Raises UnknownArchitectureError, MeasuredError."""
    chip = _chip(experiment, accelerator)
    shards = experiment.config.tensor_parallelism
    values = {p.name: p.mean for p in PARAMETERS if shards >= p.least_shards}
    utilization = experiment.config.gpu_memory_utilization or 0.9
    return Profile(
        name=profile_name(experiment, accelerator),
        model=architecture(experiment.config.model),
        accelerator=chip,
        tensor_parallel=shards,
        gpu_memory_utilization=utilization,
        source="priors of loadtests/sim/calibration/calibrate.py; nothing measured",
        **values,
    )


def fit_profile(
    experiment: MeasuredExperiment,
    accelerator: Accelerator,
    *,
    seed: int = 0,
    rounds: int = 9,
    report: Callable[[int, float], None] = lambda replays, misfit: None,
) -> Fit:
    """The profile with which a replay of ``experiment`` is most like the measurements.

    ``report`` is called with the number of replays so far and the misfit. Raises
    UnknownArchitectureError.
    """
    start = prior_profile(experiment, accelerator)
    parameters = [p for p in PARAMETERS if start.tensor_parallel >= p.least_shards]
    replays = 0

    def profile_at(u: Vector) -> Profile:
        values = {p.name: p.value(float(x)) for p, x in zip(parameters, u, strict=True)}
        return replace(start, **values)  # type: ignore[arg-type]

    late = _late_starters(experiment)
    seeds = range(seed, seed + (2 * _SEEDS if late else _SEEDS))

    def residuals(u: Vector) -> Vector:
        nonlocal replays
        replays += len(seeds)
        profile = profile_at(u)
        runs = [replay(experiment, profile, seed=each) for each in seeds]
        return _residuals(runs, experiment.stages, tail=3.0 if late else 1.0)

    u = np.zeros(len(parameters))
    if late:
        u[[p.name for p in parameters].index("first_use_s")] = 2.0
    u, here = _descend(u, residuals, rounds, lambda each: report(replays, _misfit(each)))
    profile = replace(
        profile_at(u),
        source=(
            f"fitted to {experiment.experiment} (measured by inference-perf); "
            "bandwidth shares, input_token_s, output_s and kv_reserve_bytes assumed"
        ),
    )
    return Fit(_rounded(profile, parameters), _misfit(here), replays)


def _late_starters(experiment: MeasuredExperiment) -> bool:
    """Whether some requests of the first stage waited for much more than prefills.

    First uses cost either next to nothing or seconds, and no slope leads the search from one to the
    other. When they cost seconds, the result depends on which requests arrive then: more seeds.
    """
    ttft = experiment.stages[0].time_to_first_token
    return bool(ttft.p99 and ttft.median and ttft.p99 > 4 * ttft.median)


def _descend(
    u: Vector,
    residuals: Callable[[Vector], Vector],
    rounds: int,
    report: Callable[[Vector], None],
) -> tuple[Vector, Vector]:
    """Gauss-Newton from ``u``; returns where it ends, and the residuals there."""
    here = residuals(u)
    cost = _cost(here, u)
    jacobian = np.empty((here.size, u.size))
    for column in range(u.size):
        aside = u.copy()
        aside[column] += 0.5
        jacobian[:, column] = (residuals(aside) - here) / 0.5
    report(here)
    damping = 0.01
    for _ in range(rounds):
        normal = jacobian.T @ jacobian + np.eye(u.size) * (1 + damping)
        step = -np.linalg.solve(normal, jacobian.T @ here + u)
        step = np.clip(step, -2.5, 2.5)
        there = residuals(u + step)
        # Broyden: the Jacobian that explains the last step, and is otherwise unchanged.
        jacobian += np.outer(there - here - jacobian @ step, step) / float(step @ step)
        next_cost = _cost(there, u + step)
        if next_cost < cost:
            settled = cost - next_cost < 3e-3 * cost
            u, here, cost = u + step, there, next_cost
            damping /= 3
            report(here)
            if settled:
                break
        else:
            damping = damping * 10 + 1.0
    return u, here


def _rounded(profile: Profile, parameters: Sequence[Parameter]) -> Profile:
    values = {p.name: float(f"{getattr(profile, p.name):.4g}") for p in parameters}
    return replace(profile, **values)  # type: ignore[arg-type]


def _residuals(
    runs: Sequence[Sequence[StageResult]], measured: Sequence[MeasuredStage], *, tail: float
) -> Vector:
    """Log errors of the means over the runs, in units of their tolerance.

    ``tail``: factor on the tolerance of 99th percentiles.
    """
    errors: list[float] = []
    for number, theirs in enumerate(measured):
        seen = [_observations(run[number], theirs, tail) for run in runs]
        for same in zip(*seen, strict=True):
            _, want, tolerance = same[0]
            if want is not None and want > 0:
                value = float(np.mean([each[0] for each in same]))
                errors.append(log(max(value, 1e-9) / want) / tolerance)
    return np.array(errors)


def _observations(
    ours: StageResult, theirs: MeasuredStage, tail: float
) -> list[tuple[float, float | None, float]]:
    """For each quantity: replayed, measured, and the relative error that the model may make."""
    tpot, latency, ttft = (
        np.array(values) for values in (ours.output_token_s, ours.latency_s, ours.first_token_s)
    )
    return [
        (float(np.mean(tpot)), theirs.time_per_output_token.mean, 0.006),
        (float(np.median(tpot)), theirs.time_per_output_token.median, 0.006),
        (float(np.mean(latency)), theirs.request_latency.mean, 0.006),
        (float(np.quantile(latency, 0.99)), theirs.request_latency.p99, 0.08),
        (float(np.mean(ttft)), theirs.time_to_first_token.mean, 0.03),
        (float(np.median(ttft)), theirs.time_to_first_token.median, 0.02),
        (float(np.quantile(ttft, 0.9)), theirs.time_to_first_token.p90, 0.04),
        (float(np.quantile(ttft, 0.99)), theirs.time_to_first_token.p99, 0.25 * tail),
        (
            float(np.quantile(latency, 0.9) / np.median(latency)) - 0.97,
            _spread(theirs.request_latency.p90, theirs.request_latency.median),
            0.3,
        ),
    ]


def _spread(p90: float | None, median: float | None) -> float | None:
    return p90 / median - 0.97 if p90 is not None and median else None


def _cost(residuals: Vector, u: Vector) -> float:
    return float(residuals @ residuals + u @ u)


def _misfit(residuals: Vector) -> float:
    return float(np.sqrt(np.mean(residuals**2)))
