"""What an ended request is charged."""

from __future__ import annotations

import logging

from picker.request.report import ENGINE_FAILED, Ending, Report
from policies.limits.prices import MOST, NOTHING, Usage

log = logging.getLogger(__name__)


def charged(
    report: Report,
    expected: Usage,
    streamed_tokens: int | None = None,
    *,
    possible: Usage = MOST,
    began: bool = True,
) -> Usage | None:
    """Tokens to charge; None: nothing at all, not even the request. ``streamed_tokens``: in the
    report's events; None: one in each. ``began``: the engine works on what it has got, as far as
    its signals say.

    What the engine reported counts, as far as it is ``possible``. Without that: a stream counts for
    what was streamed, a whole answer for what was ``expected``. A request whose client left before
    the first token, or that was evicted, is charged the prompt if the engine ``began``, else no
    tokens. A request
    that the engine refuses (4xx) is charged without tokens, because it was work. What failed before
    the first token is not charged, its prompt neither. A request that is expected to use nothing is
    charged no tokens, whatever the answer says: that may be the usage of another, such as a stored
    answer's.
    """
    reason = judged(report.reason, expected)
    if reason in ENGINE_FAILED and not report.streamed_events and not report.output_tokens:
        return None
    reported = report.input_tokens is not None or report.output_tokens is not None
    if reported or report.streamed_events:
        if not is_metered(expected):
            return NOTHING
        given = report.input_tokens
        if streamed_tokens is None:
            streamed_tokens = report.streamed_events
        return _usage(
            report,
            possible,
            expected.input_tokens if given is None else given,
            streamed_tokens if report.output_tokens is None else report.output_tokens,
        )
    if reason is Ending.OK and report.status == 200:
        return expected
    if reason is Ending.OK:
        return NOTHING
    return _without_an_answer(report, expected, began=began)


def _without_an_answer(report: Report, expected: Usage, *, began: bool) -> Usage | None:
    """Before the first token a client left, an engine refused, or something failed."""
    if not report.address:
        return None  # it was sent to no engine
    if report.reason in {Ending.CLIENT_ABORTED, Ending.EVICTED}:
        return Usage(expected.input_tokens, 0) if began else NOTHING
    refused = report.reason is Ending.HTTP_ERROR and 400 <= report.status < 500
    return NOTHING if refused else None


def judged(reason: Ending, expected: Usage) -> Ending:
    """The end of a request, by what it asked for: where no model runs, an answer may well be empty,
    or tell of the error of another."""
    if reason in {Ending.ENGINE_ERROR, Ending.NO_OUTPUT} and not is_metered(expected):
        return Ending.OK
    return reason


def is_metered(expected: Usage) -> bool:
    """A prompt was read, and a model runs on it."""
    return expected.input_tokens > 0


def _usage(report: Report, possible: Usage, input_tokens: int, output_tokens: int) -> Usage:
    """Parts larger than their whole, as a broken engine may report them, are cut."""
    if input_tokens > possible.input_tokens or output_tokens > possible.output_tokens:
        log.warning(
            "request %s: %s reports %d and %d tokens; at most %d and %d are charged",
            *(report.id, report.address, input_tokens, output_tokens),
            *(possible.input_tokens, possible.output_tokens),
        )
        input_tokens = min(input_tokens, possible.input_tokens)
        output_tokens = min(output_tokens, possible.output_tokens)
    return Usage(
        input_tokens,
        output_tokens,
        min(report.cached_tokens or 0, input_tokens),
        min(report.reasoning_tokens or 0, output_tokens),
    )
