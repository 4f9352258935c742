"""From the report of a request's end to what each of its tries says about a replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from picker.request.attempt import FAULTS, Attempt, Outcome, outcome_of
from picker.request.report import Ending, LastTry, Report

_WORDS: Final = {
    LastTry.REFUSED: Outcome.REFUSED,
    LastTry.RESET: Outcome.BROKEN_OFF,
    LastTry.TIMEOUT: Outcome.SILENT,
}
_TRIES: Final = frozenset(LastTry)
PATIENCE_S: Final = 10.0
"""A client that leaves later than this without any answer has not left for no reason."""


def attempts(report: Report, choices: Sequence[str], *, names_model: bool) -> list[Attempt]:
    """The tries of a request in their order, each at another one of its ``choices``; those whose
    replica is not sure are left out."""
    used, given_up = report.address, report.last_try is LastTry.NONE
    found = [
        _earlier(address, word, names_model=names_model)
        for address, word in zip(choices, _words(report, choices), strict=False)
    ]
    if used and not given_up:
        found.append(Attempt(used, *_last(report, names_model=names_model)))
    return found


def blames_request(tries: Sequence[Attempt]) -> bool:
    """Several replicas failed on one request, and none served it: it may be the request."""
    return len(tries) > 1 and all(one.outcome in FAULTS for one in tries)


def _words(report: Report, choices: Sequence[str]) -> Sequence[str]:
    """How each try before the last one ended, by the choice that it was."""
    place = choices.index(report.address) if report.address in choices else None
    if report.tries is None:
        # Another gateway only reports who served: those before it did not.
        return [""] * (place or 0)
    if report.last_try is LastTry.NONE or place == len(report.tries):
        return report.tries
    return ()  # a choice was gone before its turn


def _earlier(address: str, word: str, *, names_model: bool) -> Attempt:
    if word.isdecimal():
        return Attempt(
            address, outcome_of(int(word), names_model=names_model), f"status {int(word)}"
        )
    outcome = _WORDS.get(LastTry(word), Outcome.FAILED) if word in _TRIES else Outcome.FAILED
    return Attempt(address, outcome, outcome.value)


def _last(report: Report, *, names_model: bool) -> tuple[Outcome, str]:
    outcome = _WORDS.get(report.last_try)
    if outcome is Outcome.SILENT and report.ttft_s is not None:
        outcome = Outcome.UNKNOWN  # it may have been the client that did not read
    if outcome is None and report.upstream_failed:
        outcome = Outcome.BROKEN_OFF
    if report.reason is Ending.EVICTED:
        outcome = Outcome.UNKNOWN
    if outcome is None and report.reason is Ending.CLIENT_ABORTED:
        patient = report.ttft_s is None and report.duration_s >= PATIENCE_S
        outcome = Outcome.ABANDONED if patient else Outcome.UNKNOWN
    if outcome is None and report.reason is Ending.ENGINE_ERROR:
        if report.last_try is not LastTry.BLAMED:
            return Outcome.FAILED, "an error in place of an answer"
        outcome = Outcome.DOUBTFUL
    if outcome is not None:
        return outcome, outcome.value
    return outcome_of(report.status, names_model=names_model), f"status {report.status}"
