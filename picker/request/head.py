"""A request as it arrives, without its body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Final

from msgspec import Struct, field

_SENDING: Final = frozenset({"POST", "PUT", "PATCH"})
"""SGLang takes PUT where others take POST."""


class RequestHead(Struct, frozen=True):
    """A request without its body."""

    method: str
    path: str
    """As the replica's server reads it: unescaped, without the query string; see
    `picker.request.target`."""
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
    respelled: str | None = None
    """What the replica must get as ``:path`` to read ``path``; None: what came."""
    header_lines: int = 0
    """Headers as they came: repeated ones count each time."""

    @property
    def sends(self) -> bool:
        """Its method gives the replica something to work on."""
        return self.method in _SENDING

    def first_of(self, headers: Iterable[str]) -> str:
        """Value of the first of these headers that is there and not empty, "" for none."""
        for name in headers:
            value = self.headers.get(name)
            if value:
                return value
        return ""

    def time_s(self, headers_ms: Iterable[str]) -> float:
        """What the first of these headers that is there gives in milliseconds, in seconds; inf
        when there is none, or it is no time over 0."""
        value = self.first_of(headers_ms)
        if not value:
            return inf
        try:
            time_ms = float(value)
        except ValueError:
            return inf
        return time_ms / 1e3 if time_ms > 0 else inf
