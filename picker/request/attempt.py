"""How the tries of one request ended, each at one replica."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """What a try says about its replica. The values are words for people."""

    SERVED = "served"
    UNKNOWN = "unknown"
    """Nothing: the client left, or the request was wrong."""
    REFUSED = "the connection was refused"
    BROKEN_OFF = "it broke the connection off"
    SILENT = "no answer came in time"
    ABANDONED = "the client left without an answer"
    FAILED = "it failed"
    """A status of 500 or more, or an error in place of an answer."""
    DOUBTFUL = "an error for which it blames the request"
    """In place of an answer. Not all engines tell their own errors from those of requests."""
    OVERLOADED = "status 429"
    NO_MODEL = "status 404"
    """It does not know the model that it has listed."""


FAULTS: Final = frozenset(Outcome) - {Outcome.SERVED, Outcome.UNKNOWN}
"""The replica's."""
UNREACHED: Final = frozenset({Outcome.REFUSED, Outcome.BROKEN_OFF})
"""The replica may be gone."""
_NOT_ITS_FAULT: Final = frozenset({501, 505})
"""Of the statuses of 500 and more: the request asks for what is not there."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try."""

    address: str
    outcome: Outcome
    said: str
    """What happened, for people."""


def outcome_of(status: int, *, names_model: bool) -> Outcome:
    """What an answer with this status says. ``names_model``: the request was for a model that the
    replica lists, at a path that looks up nothing else."""
    if status == 429:
        return Outcome.OVERLOADED
    if status == 404 and names_model:
        return Outcome.NO_MODEL
    if status == 504:
        return Outcome.SILENT
    if status >= 500 and status not in _NOT_ITS_FAULT:
        return Outcome.FAILED
    return Outcome.SERVED if 0 < status < 400 else Outcome.UNKNOWN
