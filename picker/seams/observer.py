"""The seam to metrics and logs: how requests ended."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from picker.request.labels import RequestLabels
from picker.request.report import Ending, Report, tpot_s


class Rejected(Struct, frozen=True):
    """A request the picker answered itself with an error."""

    labels: RequestLabels
    status: int
    reason: str
    """Error code of the rejection table, for example ``model_not_found``."""
    decision_s: float
    """Without the time in the queue."""
    queue_s: float = 0.0
    """How long it has waited for its pool; 0: it did not."""


class Answered(Struct, frozen=True):
    """A request the picker answered itself, and well: it needed no replica."""

    labels: RequestLabels
    status: int
    decision_s: float


class Completed(Struct, frozen=True):
    """A dispatched request that has ended, as the data plane reported it."""

    labels: RequestLabels
    endpoint: str
    """Address (``ip:port``) that really served it, "" when none did."""
    status: int
    """HTTP status sent to the client, 0 when the client left before one."""
    reason: Ending
    streaming: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    usage_reported: bool
    """False: the engine reported no usage and the token counts are estimates."""
    matched_tokens: float
    """Prompt tokens the prefix index expected to be cached on the endpoint."""
    ttft_s: float | None
    duration_s: float
    queue_s: float
    """How long it has waited for its pool; 0: it did not have to."""
    decision_s: float
    """Without the time in the queue."""
    predicted_ttft_s: float | None = None
    """None, here and below: the policy predicts none, or it says nothing of what was seen, because
    another replica has served, the answer did not stream, or did not come to its end."""
    predicted_tpot_s: float | None = None
    shadow_ttft_s: float | None = None
    """As predicted by the shadow policy, where it has chosen the same replica."""
    shadow_tpot_s: float | None = None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, seconds; None when it is unknown."""
        return tpot_s(self.ttft_s, self.duration_s, self.output_tokens)


def orphaned(report: Report, labels: RequestLabels) -> Completed:
    """The end of a request whose picker is dead: only what the data plane knows of it."""
    return Completed(
        labels=labels,
        endpoint=report.address,
        status=report.status,
        reason=report.reason,
        streaming=report.streamed_events > 0,
        input_tokens=report.input_tokens or 0,
        output_tokens=report.output_tokens or report.streamed_events,
        cached_tokens=report.cached_tokens or 0,
        usage_reported=report.usage_reported,
        matched_tokens=0.0,
        ttft_s=report.ttft_s,
        duration_s=report.duration_s,
        queue_s=0.0,
        decision_s=0.0,
    )


class Observer(Protocol):
    """Receives every end of a request exactly once."""

    def rejected(self, event: Rejected) -> None: ...

    def answered(self, event: Answered) -> None: ...

    def completed(self, event: Completed) -> None: ...


class Unobserved:
    """Nobody reads metrics and logs."""

    def rejected(self, event: Rejected) -> None:
        return

    def answered(self, event: Answered) -> None:
        return

    def completed(self, event: Completed) -> None:
        return
