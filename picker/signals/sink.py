"""Who takes what was read of replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel


class ScrapeSink(Protocol):
    """Takes what was read. ``started_s``: when the read began (CLOCK_MONOTONIC), so that what was
    decided later is known not to be in it."""

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        """What a replica's /metrics said."""

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        """What a replica's /v1/models listed."""

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        """What could not be read of a replica, and why; ``reason`` "": it is not expected to be
        there."""

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        """Nobody listens there, or the replica is broken: it counts as failed."""
