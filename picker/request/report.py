"""How a dispatched request ended, as either transport reports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Report:
    """The end of one request, seen from the data plane."""

    id: str
    owner: str
    """Id of the picker that decided it."""
    address: str
    """Endpoint that was really used last, "" when none was."""
    status: int
    """Sent to the client, 0 when it left before one."""
    reason: str
    """``ok``, ``http_error``, ``client_aborted`` or ``upstream_error``."""
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    streamed_events: int
    """Events of a stream that passed the edge: what an aborted one delivered."""
    ttft_s: float | None
    """From arrival to the first byte of the response's body."""
    duration_s: float
    reasoning_tokens: int | None = None
    """Part of the output."""
    ticket: str = ""
    """What any picker needs to settle the request when its owner is gone, "" when there is nothing
    to settle."""
    upstream_failed: bool = False
    """The endpoint could not be reached or broke off."""
