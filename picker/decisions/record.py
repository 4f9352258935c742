"""What is kept of one request: how it was decided or refused, and how it ended."""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from picker.request.choice import Choice, LeftOut
from picker.request.labels import RequestLabels
from picker.request.report import Ending, Report
from policies.limits.prices import Usage

MAX_CHARS: Final = 256
"""Of a text that a client has chosen: more is not kept."""


class Predictions(NamedTuple):
    """Of a request that went as it was predicted; None: there are none."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    shadow_ttft_s: float | None = None
    """Of the shadow policy, where it has chosen the same replica."""
    shadow_tpot_s: float | None = None


NO_PREDICTIONS: Final = Predictions()


class Record(Struct, gc=False):
    """A request that was sent to a replica."""

    id: str
    """Of the decision: the picker's id and a number."""
    labels: RequestLabels
    at_s: float
    """When it was decided, picker's clock."""
    decision_s: float
    """What deciding took."""
    served_model: str
    adapter: str
    names_model: bool
    streaming: bool
    prompt_tokens: float
    """As estimated."""
    output_tokens: float
    """Expected, 0 = unknown."""
    limited: bool
    """Limits hold something for it."""
    choices: tuple[Choice, ...]
    """One for each role; the last one answers the client."""
    dropped: bool = False
    """Deciding failed half-way: it was never sent."""
    report: Report | None = None
    """How it ended; None: it is under way."""
    usage: Usage | None = None
    """What it was charged; None: nothing."""

    @property
    def state(self) -> str:
        """A word for how it stands."""
        if self.report is not None:
            return self.report.reason.value
        return "dropped" if self.dropped else "under_way"

    @property
    def was_predicted(self) -> bool:
        """Its times can be held against what was predicted: they are those of the first choice, of
        an answer that came as it was made."""
        report = self.report
        return (
            report is not None
            and self.streaming
            and report.status == 200
            and report.reason is Ending.OK
            and report.address == self.choices[-1].tried[0]
            and not report.tries
        )

    def predictions(self) -> Predictions:
        """What can be held against what was seen."""
        if not self.was_predicted:
            return NO_PREDICTIONS
        first, answering = self.choices[0], self.choices[-1]
        shadow = answering.shadow
        if shadow is None or shadow.endpoint != answering.tried[0]:
            return Predictions(first.predicted_ttft_s, answering.predicted_tpot_s)
        return Predictions(
            first.predicted_ttft_s,
            answering.predicted_tpot_s,
            shadow.predicted_ttft_s,
            shadow.predicted_tpot_s,
        )

    def end(self, report: Report, usage: Usage | None) -> None:
        """It has ended, or what it is charged has become known later."""
        if self.report is None or report.reason is not Ending.UNREPORTED:
            # A ticket is of no use to anybody who reads this.
            self.report = replace(report, ticket="") if report.ticket else report
        self.usage = usage


class Refusal(Struct, frozen=True, gc=False):
    """A request that was answered with an error instead."""

    id: str
    """As of a record; "" when no picker has seen it."""
    labels: RequestLabels
    at_s: float
    decision_s: float
    status: int
    code: str
    message: str
    left_out: LeftOut | None = None
    """Where no replica could serve it: why each could not."""

    @property
    def state(self) -> str:
        """As of a record."""
        return "refused"


def bounded(labels: RequestLabels) -> RequestLabels:
    """The labels without the rest of texts that are too long to keep."""
    if (
        len(labels.request_id) <= MAX_CHARS
        and len(labels.path) <= MAX_CHARS
        and len(labels.model) <= MAX_CHARS
        and len(labels.objective) <= MAX_CHARS
        and len(labels.fairness_id) <= MAX_CHARS
    ):
        return labels
    return replace(
        labels,
        request_id=labels.request_id[:MAX_CHARS],
        path=labels.path[:MAX_CHARS],
        model=labels.model[:MAX_CHARS],
        objective=labels.objective[:MAX_CHARS],
        fairness_id=labels.fairness_id[:MAX_CHARS],
    )
