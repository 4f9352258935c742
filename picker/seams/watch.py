"""The seam to whoever reads the endpoints' signals."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Whoever reads the endpoints' signals."""

    def touch(self, pool: str, address: str) -> None:
        """A request was sent there: read it more often."""

    def poke(self, pool: str, address: str) -> None:
        """Something is wrong there: read it now."""

    def doubt_models(self, pool: str, address: str) -> None:
        """It does not know a model that it has listed: read its list now."""


class Unwatched:
    """Nobody reads signals."""

    def touch(self, pool: str, address: str) -> None:
        return

    def poke(self, pool: str, address: str) -> None:
        return

    def doubt_models(self, pool: str, address: str) -> None:
        return
