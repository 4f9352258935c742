"""Who sent a request."""

from __future__ import annotations

from typing import Protocol

from picker.request.caller import ANYBODY, Caller
from picker.request.head import RequestHead


class Gate(Protocol):
    """Tells who sent a request, by its headers alone."""

    def identify(self, head: RequestHead) -> Caller:
        """Raises Rejection (401, 403)."""
        ...


class OpenGate:
    """Everybody is the anonymous tenant, without limits."""

    def identify(self, head: RequestHead) -> Caller:
        """See `Gate`."""
        return ANYBODY
