"""Where the endpoints of all pools come from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from picker.state.spec import EndpointChanges


class EndpointSource(Protocol):
    """Knows the endpoints of all pools as they come, change and go."""

    def changes(self) -> AsyncIterator[EndpointChanges]:
        """The endpoints there are, as upserts, then every change of them, for ever."""
        ...
