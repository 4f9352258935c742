"""From probe points to a profile; priors decide where the points show nothing, as in `calibrate`.

On an accelerator of the catalogue, the fit finds the shares of its data sheet that are reached. On
unknown hardware, it finds the bandwidth and the arithmetic rate themselves, as far as the points
show them: a very small model shows nothing but overhead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from loadtests.sim.calibration.calibrate import Parameter, Vector
from loadtests.sim.calibration.probe import Facts, PointKind, ProbeError, ProbePoint
from loadtests.sim.model.catalogue import Accelerator, Architecture
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.step_time import StepTime, Work

_Residuals = Callable[[Vector], Vector]
_ROUNDS = 60
_MEASURED = "measured"
"""Name of an accelerator that is not in the catalogue."""
_LEAST_TOLERANCE = 0.02
_FAR = 2.0
"""In units of the tolerance."""

_KNOWN = (
    Parameter("overhead_s", 2.0e-3, 1.0),
    Parameter("sequence_s", 5e-6, 1.0),
    Parameter("mixed_layer_s", 20e-6, 0.7),
    Parameter("kv_bandwidth_share", 0.9, 0.1),
    Parameter("compute_share", 0.55, 0.35),
    Parameter("attention_share", 0.5, 0.35),
    Parameter("input_s", 4e-3, 1.0),
    Parameter("input_token_s", 2e-6, 0.5),
)


@dataclass(frozen=True, slots=True)
class Residual:
    """A point, and the fitted profile's value for it."""

    point: ProbePoint
    fitted_s: float

    @property
    def error(self) -> float:
        """Relative error."""
        return self.fitted_s / self.point.value_s - 1.0


@dataclass(frozen=True, slots=True)
class ProbeFit:
    """A profile, and how far it is from the points."""

    profile: Profile
    residuals: tuple[Residual, ...]

    @property
    def median_error(self) -> float:
        """Median relative error of the points."""
        return median(abs(each.error) for each in self.residuals)

    @property
    def worst_error(self) -> float:
        """Largest relative error of the points."""
        return max(abs(each.error) for each in self.residuals)


def fit_points(
    points: Sequence[ProbePoint],
    facts: Facts,
    model: Architecture,
    accelerator: Accelerator | None,
    *,
    tensor_parallel: int = 1,
    max_num_batched_tokens: int = 8192,
    name: str = "",
) -> ProbeFit:
    """The profile that is most like the points. ``accelerator`` None: unknown hardware.

    Raises ProbeError when there are too few points.
    """
    for kind in (PointKind.PREFILL, PointKind.DECODE):
        if sum(point.kind is kind for point in points) < 2:
            raise ProbeError(f"fewer than two {kind.value} points: give the probe more seconds")
    chip = accelerator or _guess(points, model, tensor_parallel)
    parameters = _KNOWN if accelerator else _unknown(points, model)
    start = Profile("", model, chip, tensor_parallel)

    def profile_at(u: Vector) -> Profile:
        values = {p.name: p.value(float(x)) for p, x in zip(parameters, u, strict=True)}
        return replace(start, **values)  # type: ignore[arg-type]

    tolerances = np.array([max(2 * point.error, _LEAST_TOLERANCE) for point in points])
    measured = np.array([point.value_s for point in points])

    def residuals(u: Vector) -> Vector:
        predicted = predict_points(points, profile_at(u), max_num_batched_tokens)
        off = np.log(np.array(predicted) / measured) / tolerances
        return np.concatenate((_limited(off), u))

    profile = profile_at(_least_squares(residuals, len(parameters)))
    rounded = {p.name: float(f"{getattr(profile, p.name):.4g}") for p in parameters}
    profile = replace(profile, **rounded)  # type: ignore[arg-type]
    profile = _sized(profile if accelerator else _absolute(profile), facts, accelerator is not None)
    fitted_s = predict_points(points, profile, max_num_batched_tokens)
    pairs = zip(points, fitted_s, strict=True)
    fit = ProbeFit(profile, tuple(Residual(point, each_s) for point, each_s in pairs))
    tail = model.name.rsplit("/", 1)[-1].lower()
    source = (
        f"fitted to a probe of a live server of {model.name}: {len(points)} points, median error "
        f"{fit.median_error:.1%}, worst {fit.worst_error:.0%}; "
        + (
            "output_s and weight_bandwidth_share assumed"
            if accelerator
            else "rates that hide behind the overhead are guesses"
        )
    )
    called = name or f"{tail}-tp{tensor_parallel}-{chip.name}"
    return replace(fit, profile=replace(profile, name=called, source=source))


def predict_points(
    points: Sequence[ProbePoint], profile: Profile, max_num_batched_tokens: int = 8192
) -> list[float]:
    """The value of each point on a server with the profile, in seconds."""
    time = StepTime(profile)
    return [_predicted(point, profile, time, max_num_batched_tokens) for point in points]


def _predicted(point: ProbePoint, profile: Profile, time: StepTime, budget: int) -> float:
    tokens = point.prompt_tokens
    if point.kind is PointKind.DECODE:
        # The context that a step reads includes the token that it adds.
        context = point.sequences * (point.context_tokens + 1)
        return time.decode_s(point.sequences, round(context))
    if point.kind is PointKind.MIXED:
        beside = round(point.context_tokens) + 1
        first = min(tokens, budget - 1)
        return time.step_s(Work(first, first * first / 2, 1, beside, first))
    total_s = profile.input_s + profile.input_token_s * tokens + profile.output_s
    before = 0
    while before < tokens:
        chunk = min(budget, tokens - before)
        pairs = chunk * (before + chunk / 2)
        total_s += time.step_s(Work(chunk, pairs, 0, 0, before + chunk))
        before += chunk
    return total_s


def _limited(off: Vector) -> Vector:
    """Points that are far off count less: they may have been disturbed (Cauchy's loss)."""
    return np.sign(off) * _FAR * np.sqrt(np.log1p((off / _FAR) ** 2))


def _guess(points: Sequence[ProbePoint], model: Architecture, shards: int) -> Accelerator:
    """An accelerator with rates of the right order: those of the points, as if nothing else took
    time."""
    step_s = min(point.value_s for point in points if point.kind is PointKind.DECODE)
    prefills = [point for point in points if point.kind is PointKind.PREFILL]
    shortest = min(prefills, key=lambda point: point.prompt_tokens)
    longest = max(prefills, key=lambda point: point.prompt_tokens)
    slope_s = (longest.value_s - shortest.value_s) / max(
        longest.prompt_tokens - shortest.prompt_tokens, 1
    )
    slope_s = max(slope_s, 1e-3 * longest.value_s / longest.prompt_tokens)
    pair_flops = 4.0 * model.layers * model.attention_heads * model.head_dim
    flops = (2.0 * model.active_parameters + pair_flops * longest.prompt_tokens / 2) / slope_s
    return Accelerator(
        _MEASURED, 0.0, 2.0 * model.weight_bytes / step_s / shards, flops / shards, 1e12
    )


def _unknown(points: Sequence[ProbePoint], model: Architecture) -> tuple[Parameter, ...]:
    step_s = min(point.value_s for point in points if point.kind is PointKind.DECODE)
    first_s = min(point.value_s for point in points if point.kind is PointKind.PREFILL)
    return (
        Parameter("overhead_s", 0.5 * step_s, 1.0),
        Parameter("sequence_s", 0.03 * step_s, 1.5),
        Parameter("mixed_layer_s", 0.1 * step_s / model.layers, 1.5),
        Parameter("weight_bandwidth_share", 1.0, 1.0),
        Parameter("kv_bandwidth_share", 1.0, 2.0),
        Parameter("compute_share", 1.0, 1.5),
        Parameter("attention_share", 1.0, 1.5),
        Parameter("input_s", 0.3 * first_s, 1.0),
        Parameter("input_token_s", 1e-6, 2.0),
        Parameter("output_s", 0.1 * first_s, 0.5),
    )


def _absolute(profile: Profile) -> Profile:
    """Turn the shares of a guess into the rates themselves."""
    chip = profile.accelerator
    bandwidth = float(f"{chip.memory_bandwidth_bytes_per_s * profile.weight_bandwidth_share:.4g}")
    flops = float(f"{chip.peak_flops * profile.compute_share:.4g}")
    kv_share = chip.memory_bandwidth_bytes_per_s * profile.kv_bandwidth_share / bandwidth
    attention_share = chip.peak_flops * profile.attention_share / flops
    return replace(
        profile,
        accelerator=replace(chip, memory_bandwidth_bytes_per_s=bandwidth, peak_flops=flops),
        weight_bandwidth_share=1.0,
        kv_bandwidth_share=float(f"{kv_share:.4g}"),
        compute_share=1.0,
        attention_share=float(f"{attention_share:.4g}"),
        link_bandwidth_share=1.0,
    )


def _sized(profile: Profile, facts: Facts, known: bool) -> Profile:
    """The profile with as many KV blocks as the server has."""
    shards = profile.tensor_parallel
    block_bytes = (
        profile.model.kv_bytes_per_token / min(shards, profile.model.kv_heads)
    ) * facts.block_size_tokens
    # Half a block more, so that rounding does not lose one.
    held_bytes = (facts.num_blocks + 0.5) * block_bytes
    weight_bytes = profile.model.weight_bytes / shards
    if not known:
        memory_bytes = float(np.ceil(held_bytes + weight_bytes))
        chip = replace(profile.accelerator, memory_bytes=memory_bytes)
        return replace(profile, accelerator=chip, kv_reserve_bytes=0.0, gpu_memory_utilization=1.0)
    share = facts.gpu_memory_utilization or profile.gpu_memory_utilization
    usable_bytes = profile.accelerator.memory_bytes * share
    reserve_bytes = float(np.floor(usable_bytes - weight_bytes - held_bytes))
    return replace(profile, gpu_memory_utilization=share, kv_reserve_bytes=reserve_bytes)


def _least_squares(residuals: _Residuals, parameters: int) -> Vector:
    """Levenberg-Marquardt from 0 with numeric slopes."""
    u = np.zeros(parameters)
    here = residuals(u)
    damping = 1e-2
    for _ in range(_ROUNDS):
        slopes = np.empty((here.size, parameters))
        for column in range(parameters):
            aside = u.copy()
            aside[column] += 1e-3
            slopes[:, column] = (residuals(aside) - here) / 1e-3
        normal = slopes.T @ slopes
        step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slopes.T @ here)
        there = residuals(u + np.clip(step, -2.0, 2.0))
        if float(there @ there) < float(here @ here):
            settled = float(here @ here - there @ there) < 1e-9 * float(here @ here)
            u, here = u + np.clip(step, -2.0, 2.0), there
            damping = max(damping / 5, 1e-9)
            if settled:
                break
        else:
            damping *= 5
            if damping > 1e9:
                break
    return u
