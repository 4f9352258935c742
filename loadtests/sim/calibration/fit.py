"""``penstock lab fit``: from measurements to profiles, and from profiles to predictions.

    python -m loadtests.sim.calibration.fit FILE [--predict OTHER] [--save FOLDER] [--seeds 3]
    python -m loadtests.sim.calibration.fit --probe http://127.0.0.1:8000 [--save PROFILE.yaml]

With --probe, a live server is measured (`probe.py`). From a FILE, profiles are fitted to the
`codegen` experiments, one for each model, accelerator and tensor parallel size. Then every other
experiment of FILE (and all of OTHER) is predicted and compared. A server without a `codegen`
experiment is predicted with the built-in profile of its name, or, with a warning, from data sheets
alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.console import Console

from loadtests.sim.calibration.calibrate import (
    calibration_experiments,
    fit_profile,
    prior_profile,
    profile_name,
)
from loadtests.sim.calibration.hf_config import ModelConfigError, read_architecture
from loadtests.sim.calibration.inference_perf import StageResult, replay
from loadtests.sim.calibration.measured import (
    MeasuredError,
    MeasuredExperiment,
    MeasuredStage,
    read_measured,
)
from loadtests.sim.calibration.predictions import METRICS, Prediction, misjudged, table, verdicts
from loadtests.sim.calibration.probe_command import (
    GENERIC,
    check_table,
    probe_server,
    residual_table,
    save_profile,
)
from loadtests.sim.model.catalogue import (
    ACCELERATORS,
    Accelerator,
    UnknownArchitectureError,
    know,
)
from loadtests.sim.model.profile import Profile, ProfileError, built_in, write_profile

_WIDTH = 100
"""Columns that the table needs; on a narrower terminal its lines are folded."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A server's profile, and how inference-perf counts that model's tokens."""

    profile: Profile
    fitted_to: str | None = None
    counted_share: float | None = None
    """Tokens that the client counts in an answer, for each generated one: it tokenizes the text
    again."""


def calibrate(
    experiments: Sequence[MeasuredExperiment],
    accelerator: Accelerator,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Calibration]:
    """A calibration for each server with a calibration experiment, by profile name."""

    def fitted(experiment: MeasuredExperiment) -> Profile:
        name = profile_name(experiment, accelerator)
        report(f"{name}: fitting to {experiment.experiment}")

        def progress(replays: int, misfit: float) -> None:
            report(f"{name}: {replays} replays, misfit {misfit:.2f}")

        return fit_profile(experiment, accelerator, seed=seed, report=progress).profile

    return _calibrations(experiments, accelerator, fitted)


def recall(
    experiments: Sequence[MeasuredExperiment], accelerator: Accelerator
) -> dict[str, Calibration]:
    """As `calibrate`, but with the built-in profiles that were fitted to these experiments
    earlier."""

    def kept(experiment: MeasuredExperiment) -> Profile | None:
        try:
            profile = built_in(profile_name(experiment, accelerator))
        except ProfileError:
            return None
        return profile if f"fitted to {experiment.experiment} " in profile.source else None

    return _calibrations(experiments, accelerator, kept)


def _calibrations(
    experiments: Sequence[MeasuredExperiment],
    accelerator: Accelerator,
    profile_of: Callable[[MeasuredExperiment], Profile | None],
) -> dict[str, Calibration]:
    found: dict[str, Calibration] = {}
    for experiment in calibration_experiments(experiments):
        name = profile_name(experiment, accelerator)
        profile = None if name in found else profile_of(experiment)
        if profile is not None:
            found[name] = Calibration(profile, experiment.experiment, _counted_share(experiment))
    return found


def profile_for(
    experiment: MeasuredExperiment,
    calibrations: Mapping[str, Calibration],
    accelerator: Accelerator,
    report: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """A calibration that was fitted, is built in, or comes from data sheets. Raises
    UnknownArchitectureError for an unknown model."""
    fitted = calibrations.get(profile_name(experiment, accelerator))
    if fitted is not None:
        return fitted
    prior = prior_profile(experiment, accelerator)
    try:
        return Calibration(built_in(prior.name))
    except ProfileError:
        report(f"{experiment.experiment}: no profile {prior.name}; using data sheets alone")
        return Calibration(prior)


def predict(
    experiments: Iterable[MeasuredExperiment],
    calibrations: Mapping[str, Calibration],
    accelerator: Accelerator,
    *,
    seeds: int = 3,
    report: Callable[[str], None] = lambda line: None,
) -> list[Prediction]:
    """Predictions for every stage of every experiment: means over ``seeds`` replays."""
    predictions: list[Prediction] = []
    for experiment in experiments:
        calibration = profile_for(experiment, calibrations, accelerator, report)
        report(f"{experiment.experiment}: replaying")
        runs = [
            replay(experiment, calibration.profile, seed=100 + number) for number in range(seeds)
        ]
        for index, load in enumerate(experiment.load.stages):
            stage = experiment.stages[index] if index < len(experiment.stages) else MeasuredStage()
            share = calibration.counted_share or 1.0  # never from the stage that is predicted
            ours = [_metrics(run[index], share) for run in runs]
            theirs = _measured(stage) if index < len(experiment.stages) else {}
            predictions.extend(
                Prediction(
                    experiment.experiment,
                    index,
                    load.rate,
                    metric,
                    fmean(each[metric] for each in ours),
                    theirs.get(metric),
                    calibration.profile.name,
                    calibration.fitted_to == experiment.experiment,
                    stage.failures > 0,
                )
                for metric in METRICS
            )
    return predictions


def _metrics(result: StageResult, counted_share: float) -> dict[str, float]:
    return {
        "time_per_output_token": fmean(result.output_token_s or [0.0]),
        "request_latency": fmean(result.latency_s or [0.0]),
        "time_to_first_token": fmean(result.first_token_s or [0.0]),
        "completed": float(result.completed),
        "failures": float(result.failures),
        "output_tokens_per_sec": result.output_tokens_per_s * counted_share,
    }


def _measured(stage: MeasuredStage) -> dict[str, float | None]:
    return {
        "time_per_output_token": stage.time_per_output_token.mean,
        "request_latency": stage.request_latency.mean,
        "time_to_first_token": stage.time_to_first_token.mean,
        "completed": float(stage.count),
        "failures": float(stage.failures),
        "output_tokens_per_sec": stage.throughput.output_tokens_per_sec,
    }


def _stage_share(experiment: MeasuredExperiment, stage: MeasuredStage) -> float | None:
    counted = stage.output_len.mean
    return counted / experiment.prompts.output_len if counted else None


def _counted_share(experiment: MeasuredExperiment) -> float | None:
    shares = [share for stage in experiment.stages if (share := _stage_share(experiment, stage))]
    return fmean(shares) if shares else None


def main(
    file: Annotated[
        Path | None, typer.Argument(help="measurements to fit to, and to compare with")
    ] = None,
    predict_file: Annotated[
        list[Path] | None, typer.Option("--predict", help="further measurements to predict")
    ] = None,
    accelerator: Annotated[
        str,
        typer.Option(help=f"where a file does not say; for a probe also {GENERIC}: measured"),
    ] = "h100",
    seeds: Annotated[int, typer.Option(min=1, help="replays that are averaged")] = 3,
    save: Annotated[
        Path | None, typer.Option(help="folder for the fitted profiles; for a probe also a file")
    ] = None,
    refit: Annotated[bool, typer.Option(help="off: use the built-in profiles")] = True,
    output: Annotated[Path | None, typer.Option("--json", help="predictions as JSON")] = None,
    url: Annotated[
        str | None,
        typer.Option("--probe", help="address of a live, idle server (vLLM) to measure"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="that the probe may take")] = 60.0,
    model: Annotated[
        str,
        typer.Option(help="of the catalogue, for a probe whose server calls it otherwise"),
    ] = "",
    config: Annotated[
        Path | None,
        typer.Option(help="config.json of a model that the catalogue has not; --model names it"),
    ] = None,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="of the probed server")] = 1,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="of the probed server")] = 8192,
) -> None:
    """Fit profiles to measurements and print how well they predict the rest, or probe a server."""
    console, progress = Console(), Console(stderr=True)
    console.width = max(console.width, _WIDTH)

    def report(line: str) -> None:
        progress.print(line, style="dim", highlight=False, soft_wrap=True)

    if (file is None) == (url is None):
        raise typer.BadParameter("give either a FILE of measurements or --probe URL")
    if url is not None:
        try:
            probed = probe_server(
                url,
                seconds=seconds,
                model=model,
                config=config,
                accelerator=accelerator,
                tensor_parallel=tensor_parallel,
                max_num_batched_tokens=max_num_batched_tokens,
                report=report,
            )
            console.print(residual_table(probed.fit))
            console.print(check_table(probed))
            if save is not None:
                report(f"profile: {save_profile(probed.fit, save)}")
        except (ValueError, OSError) as error:
            progress.print(str(error), style="red", highlight=False, soft_wrap=True)
            sys.exit(2)
        return
    assert file is not None
    try:
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
        if output is not None:
            output.open("ab").close()
    except OSError as error:
        raise typer.BadParameter(f"{error.filename}: {error.strerror}") from None
    try:
        chip = ACCELERATORS[accelerator]
    except KeyError:
        known = ", ".join(ACCELERATORS)
        raise typer.BadParameter(f"{accelerator!r} is not known; known are {known}") from None
    try:
        if config is not None:
            know(read_architecture(config, model))
        experiments = read_measured(file)
        others = [each for path in predict_file or [] for each in read_measured(path)]
        calibrations = (
            calibrate(experiments, chip, report=report) if refit else recall(experiments, chip)
        )
        if save is not None:
            for calibration in calibrations.values():
                profile = calibration.profile
                write_profile(profile, save / f"{profile.name}.yaml")
        predictions = predict(
            [*experiments, *others], calibrations, chip, seeds=seeds, report=report
        )
    except (MeasuredError, ProfileError, UnknownArchitectureError, ModelConfigError) as error:
        progress.print(str(error), style="red", highlight=False, soft_wrap=True)
        sys.exit(2)
    console.print(table(predictions))
    for verdict in verdicts(predictions):
        console.print(
            f"{verdict.what}: median error {verdict.error:.1%}, target {verdict.target:.0%}: "
            + ("met" if verdict.met else "NOT met"),
            highlight=False,
        )
    wrong, stages = misjudged(predictions)
    if stages:
        console.print(
            f"failures where the real server had them, and nowhere else: in {stages - len(wrong)}"
            f" of {stages} stages",
            highlight=False,
        )
    if output is not None:
        rows = [asdict(each) | {"error": each.error} for each in predictions]
        output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
