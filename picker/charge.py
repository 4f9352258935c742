"""What an ended request is charged."""

from __future__ import annotations

from picker.completion import Report
from policies.limits.prices import Usage


def charged(report: Report, expected: Usage, streamed_tokens: int | None = None) -> Usage | None:
    """Tokens to charge; None: nothing at all, not even the request. ``streamed_tokens``: in the
    report's events; None: one in each.

    What the engine reported counts. Without that: a stream counts for what was streamed, a whole
    answer for what was ``expected``. A client that left before the first token is charged the
    request without tokens, and what failed before the first token is not charged.
    """
    reported = report.input_tokens is not None or report.output_tokens is not None
    if reported or report.streamed_events:
        given = report.input_tokens
        if streamed_tokens is None:
            streamed_tokens = report.streamed_events
        return _usage(
            expected.input_tokens if given is None else given,
            streamed_tokens if report.output_tokens is None else report.output_tokens,
            report.cached_tokens or 0,
            report.reasoning_tokens or 0,
        )
    if report.reason == "ok" and report.status == 200:
        return expected
    if report.reason == "ok":
        return Usage(0, 0)
    if report.reason == "client_aborted" and report.address:
        return Usage(0, 0)
    return None


def _usage(input_tokens: int, output_tokens: int, cached: int, reasoning: int) -> Usage:
    """Parts larger than their whole, as a broken engine may report them, are cut."""
    return Usage(
        input_tokens, output_tokens, min(cached, input_tokens), min(reasoning, output_tokens)
    )
