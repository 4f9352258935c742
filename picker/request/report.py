"""How a request that was sent to a replica ended, as either transport reports it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

from picker.request.labels import RequestLabels


class Ending(StrEnum):
    """Why a request ended. The values are those of metrics and the request log."""

    OK = "ok"
    HTTP_ERROR = "http_error"
    """The replica answered with a status of 400 or more."""
    CLIENT_ABORTED = "client_aborted"
    EVICTED = "evicted"
    """It was ended for others, before its answer began."""
    UPSTREAM_ERROR = "upstream_error"
    """The replica could not be reached, or broke off."""
    ENGINE_ERROR = "engine_error"
    """The answer was or ended in an error, whatever its status said."""
    NO_OUTPUT = "no_output"
    """The answer ended without any output, and without an error."""
    UNREPORTED = "unreported"
    """The data plane never reported an end."""


ENGINE_FAILED: Final = frozenset({Ending.UPSTREAM_ERROR, Ending.ENGINE_ERROR, Ending.NO_OUTPUT})
"""Endings of an answer that began, or should have, and that its engine did not finish."""


class LastTry(StrEnum):
    """How the last try at a replica ended; the values are those that the data plane notes."""

    ANSWERED = "answered"
    """With the request's status, or with what ``reason`` says."""
    REFUSED = "refused"
    """Nothing was sent: there was no connection."""
    RESET = "reset"
    """The replica broke off after the request was sent."""
    TIMEOUT = "timeout"
    """The data plane waited for too long."""
    BLAMED = "blamed"
    """Answered, with an error of which the answer says that the request is to blame for it."""
    NONE = "none"
    """There was none: after its earlier tries the request was given up."""


class Report(Struct, frozen=True):
    """The end of one request, seen from the data plane. None: the engine did not report it."""

    id: str
    owner: str
    """Id of the picker that decided it."""
    address: str
    """Endpoint that was really used last, "" when none was."""
    status: int
    """Sent to the client, 0 when it left before one."""
    reason: Ending
    duration_s: float
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    """Part of the input."""
    reasoning_tokens: int | None = None
    """Part of the output."""
    streamed_events: int = 0
    """Events of a stream that passed the edge: what an aborted one delivered."""
    ttft_s: float | None = None
    """From arrival to the first byte of the response's body."""
    ticket: str = ""
    """What any picker needs to settle the request when its owner is gone, "" when there is nothing
    to settle."""
    upstream_failed: bool = False
    """The endpoint could not be reached or broke off."""
    input_counted: bool = False
    """The engine did not report the input: its tokenizer has counted it afterwards."""
    tries: tuple[str, ...] | None = None
    """Of each try before the last one how it ended: a status, or the words of `LastTry`. None: how
    many there were is not known."""
    last_try: LastTry = LastTry.ANSWERED
    code: str = ""
    """Why the data plane has ended a request that was not decided, "" for one that was."""
    labels: RequestLabels | None = None
    """As far as the data plane knows them: of a request that another picker has decided, which may
    be dead."""

    @property
    def tpot_s(self) -> float | None:
        """See `tpot_s`."""
        return tpot_s(self.ttft_s, self.duration_s, self.output_tokens or 0)

    @property
    def usage_reported(self) -> bool:
        """The engine reported some of its usage."""
        given = self.input_tokens is not None and not self.input_counted
        return given or self.output_tokens is not None


def tpot_s(ttft_s: float | None, duration_s: float, output_tokens: int) -> float | None:
    """Time per token after the first, mean of a request, seconds; None when it is unknown."""
    if ttft_s is None or output_tokens < 2:
        return None
    return (duration_s - ttft_s) / (output_tokens - 1)
