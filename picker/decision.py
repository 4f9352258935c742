"""A request as it arrives, and what can come of it: a decision, or the picker's own answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_SENDING: Final = frozenset({"POST", "PUT", "PATCH"})
"""SGLang takes PUT where others take POST."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its body."""

    method: str
    path: str
    """As the replica's server reads it: unescaped, without the query string."""
    headers: Mapping[str, str]
    """By lower-case name."""
    subset: frozenset[str] | None
    """Endpoints the gateway allows (``ip:port`` or ``ip``); None: no restriction."""
    received_s: float
    """Picker's clock, seconds."""
    claims: Mapping[str, object] = field(default_factory=dict)
    """Of a token that Envoy has verified; empty: there was none."""
    claims_error: str = ""
    """Why Envoy refused the token that was there, "" when it did not."""

    @property
    def sends(self) -> bool:
        """Its method gives the replica something to work on."""
        return self.method in _SENDING


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes, and how it is changed on the way."""

    id: str
    """Of the in-flight entry, unique over all pickers."""
    pool: str
    addresses: tuple[str, ...]
    """``ip:port``, best first; at least one."""
    set_headers: tuple[tuple[str, str], ...]
    remove_headers: tuple[str, ...]
    body: bytes | None
    """The changed body; None: as it came."""
    rename: tuple[str, str] | None
    """(model name the replica answers with, name the client asked for), when they differ."""
    strip_usage: bool
    """The usage chunk of the stream was asked for by us and is not for the client."""
    wants_session_token: bool
    """The client keeps to one endpoint by a token that the response tells it."""
    metadata: Mapping[str, object]
    """For our own Lua filter and access log."""
    scores: Mapping[str, float] | None
    response_headers: tuple[tuple[str, str], ...] = ()
    """To set on the response: what is left of limits."""

    @property
    def destination(self) -> str:
        """Value of the destination header."""
        return ",".join(self.addresses)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the picker tells the client itself."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
