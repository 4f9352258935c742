"""Predictions beside measurements: the table, and whether the targets are met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from rich.table import Table

METRICS = (
    "time_per_output_token",
    "request_latency",
    "time_to_first_token",
    "completed",
    "failures",
    "output_tokens_per_sec",
)
TARGETS = {
    "time_per_output_token": 0.07,
    "request_latency": 0.07,
    "time_to_first_token": 0.15,
    "completed": 0.10,
    "output_tokens_per_sec": 0.10,
}
"""Relative errors within which an engine model is believable."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One metric of one stage. Times in seconds (means), rates per second."""

    experiment: str
    stage: int
    rate: float
    metric: str
    predicted: float
    measured: float | None
    server: str
    """Name of the profile."""
    calibrated_on: bool
    """The profile was fitted to this experiment."""
    overloaded: bool
    """The real server failed requests."""

    @property
    def error(self) -> float | None:
        """Relative error; None when nothing (or zero) was measured."""
        if not self.measured:
            return None
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A target and the error: the median over servers of the mean error of their stages."""

    what: str
    error: float
    target: float

    @property
    def met(self) -> bool:
        """Whether the error is within the target."""
        return self.error <= self.target


def verdicts(predictions: Sequence[Prediction]) -> list[Accuracy]:
    """One for each metric, over the stages to which nothing was fitted."""
    found: list[Accuracy] = []
    for overloaded in (False, True):
        metrics = METRICS[3:] if overloaded else METRICS[:3]
        for metric in metrics:
            errors: dict[str, list[float]] = {}
            for each in predictions:
                about = each.metric == metric and each.overloaded is overloaded
                if about and not each.calibrated_on and each.error is not None:
                    errors.setdefault(each.server, []).append(abs(each.error))
            if errors and metric in TARGETS:
                kind = "overload" if overloaded else "held out"
                middle = median(map(fmean, errors.values()))
                found.append(Accuracy(f"{kind}: {metric}", middle, TARGETS[metric]))
    return found


def misjudged(predictions: Sequence[Prediction]) -> tuple[list[Prediction], int]:
    """Stages, of those to which nothing was fitted, in which only the real or only the simulated
    server failed requests; and the number of all such stages."""
    stages = [
        each
        for each in predictions
        if each.metric == "failures" and not each.calibrated_on and each.measured is not None
    ]
    return [each for each in stages if (each.predicted > 0) != bool(each.measured)], len(stages)


def table(predictions: Sequence[Prediction]) -> Table:
    """Predicted and measured values side by side; fitted stages are marked."""
    shown = Table(title="Engine model against real servers")
    for heading in ("experiment", "requests/s", "metric", "measured", "predicted", "error"):
        shown.add_column(
            heading, justify="left" if heading in ("experiment", "metric") else "right"
        )
    previous = ("", -1)
    for each in predictions:
        first = (each.experiment, each.stage) != previous
        if first and previous[0]:
            shown.add_section()
        previous = (each.experiment, each.stage)
        name = each.experiment + (" (fitted)" if each.calibrated_on else "")
        shown.add_row(
            name if first else "",
            f"{each.rate:g}" if first else "",
            each.metric,
            "" if each.measured is None else f"{each.measured:.5g}",
            f"{each.predicted:.5g}",
            "" if each.error is None else f"{each.error:+.1%}",
        )
    return shown
