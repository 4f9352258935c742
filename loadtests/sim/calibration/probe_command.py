"""``penstock lab fit --probe URL``: from a live server to a profile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.table import Table

from loadtests.sim.calibration.hf_config import read_architecture
from loadtests.sim.calibration.probe import Facts, ProbeError, ProbePoint, probe
from loadtests.sim.calibration.probe_check import Checked, check
from loadtests.sim.calibration.probe_fit import ProbeFit, fit_points
from loadtests.sim.calibration.probe_http import HttpTarget
from loadtests.sim.model.catalogue import (
    ACCELERATORS,
    Accelerator,
    Architecture,
    UnknownArchitectureError,
    architecture,
)
from loadtests.sim.model.profile import write_profile
from loadtests.sim.model.scheduler import EngineLimits

GENERIC = "generic"
"""The name for an accelerator whose facts are measured, not looked up."""
_NOISY = 0.1


@dataclass(frozen=True, slots=True)
class Probed:
    """A profile, and how well it predicts a load to which it was not fitted."""

    fit: ProbeFit
    checked: tuple[Checked, ...]


def probe_server(
    url: str,
    *,
    seconds: float,
    model: str,
    config: Path | None,
    accelerator: str,
    tensor_parallel: int,
    max_num_batched_tokens: int,
    report: Callable[[str], None],
) -> Probed:
    """Probe, fit and check. Raises ProbeError, ModelConfigError, UnknownArchitectureError."""

    async def run() -> Probed:
        async with HttpTarget(url, model=model) as target:
            facts = await target.facts()
            shape = _shape(facts, model, config)
            report(
                f"{url}: {facts.model} ({shape.name}), {facts.num_blocks:,} KV blocks of "
                f"{facts.block_size_tokens} tokens, context up to {facts.max_model_len:,}"
            )

            def heard(point: ProbePoint) -> None:
                report(f"{point.label}: {point.value_s * 1e3:.2f} ms +- {point.error:.1%}")

            points = await probe(target, facts, seconds=0.8 * seconds, report=heard)
            fit = fit_points(
                points,
                facts,
                shape,
                chip,
                tensor_parallel=tensor_parallel,
                max_num_batched_tokens=max_num_batched_tokens,
            )
            if (noise := _noise(points)) > _NOISY:
                report(
                    f"measurements differ by {noise:.0%} (median) when repeated: the server or "
                    "this machine is busy with other things, and the profile is worth as little"
                )
            report("checking with a load of another kind")
            limits = EngineLimits(
                facts.num_blocks,
                facts.block_size_tokens,
                max_num_batched_tokens=max_num_batched_tokens,
                max_model_len=min(facts.max_model_len, facts.kv_tokens),
            )
            checked = await check(target, fit.profile, facts, limits, seconds=0.2 * seconds)
            return Probed(fit, tuple(checked))

    chip = chosen_accelerator(accelerator)
    return asyncio.run(run())


def chosen_accelerator(name: str) -> Accelerator | None:
    """An accelerator of the catalogue; None for `GENERIC`. Raises ProbeError."""
    if name == GENERIC:
        return None
    if name not in ACCELERATORS:
        known = ", ".join(ACCELERATORS)
        raise ProbeError(f"--accelerator {name}: not known; known are {known}, or {GENERIC}")
    return ACCELERATORS[name]


def residual_table(fit: ProbeFit) -> Table:
    """Every point: the measurement, and the fitted profile's value."""
    table = Table(title=f"Probe of {fit.profile.name}")
    table.add_column("point")
    for heading in ("measured ms", "repeats", "fitted ms", "error"):
        table.add_column(heading, justify="right")
    for each in fit.residuals:
        table.add_row(
            each.point.label,
            f"{each.point.value_s * 1e3:.3f}",
            f"+-{each.point.error:.1%}",
            f"{each.fitted_s * 1e3:.3f}",
            f"{each.error:+.1%}",
        )
    return table


def check_table(probed: Probed) -> Table:
    """The load to which nothing was fitted: measured and predicted."""
    table = Table(title="A load of another kind: random lengths and times, several at once")
    table.add_column("figure")
    for heading in ("measured ms", "predicted ms", "error"):
        table.add_column(heading, justify="right")
    for each in probed.checked:
        table.add_row(
            each.what,
            f"{each.measured * 1e3:.2f}",
            f"{each.predicted * 1e3:.2f}",
            f"{each.error:+.1%}",
        )
    return table


def save_profile(fit: ProbeFit, path: Path) -> Path:
    """Write the profile to the file, or to a file of its name in the folder. Returns the file."""
    if path.suffix not in (".yaml", ".yml"):
        path.mkdir(parents=True, exist_ok=True)
        path = path / f"{fit.profile.name}.yaml"
    write_profile(fit.profile, path)
    return path


def _noise(points: Sequence[ProbePoint]) -> float:
    return median(point.error for point in points)


def _shape(facts: Facts, model: str, config: Path | None) -> Architecture:
    if config is not None:
        return read_architecture(config, model or facts.model)
    for name in (model, facts.root, facts.model):
        try:
            return architecture(name)
        except UnknownArchitectureError as error:
            unknown = error
    raise unknown
