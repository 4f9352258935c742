"""How replicas are read: settings of the scraper and of each pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from picker.signals.engines import Engine
from picker.signals.fetch import Upstream

PATIENCE: Final = 2.5
"""Intervals of an endpoint without news of it, after which a worker that is not its reader reads
it too: the reader is dead, stuck, or does not know the endpoint."""


@dataclass(frozen=True, slots=True)
class ScrapeSettings:
    """How often and how patiently replicas are read."""

    interval_s: float = 0.25
    """Between two reads of a replica that has requests."""
    idle_interval_s: float = 1.0
    """Between two reads of an idle or failed replica."""
    timeout_s: float = 1.0
    models_interval_s: float = 10.0
    """Between two reads of /v1/models."""
    busy_for_s: float = 2.0
    """A replica counts as having requests this long after one was sent to it."""
    max_body_bytes: int = 8 << 20
    max_concurrent: int = 128
    max_concurrent_suspect: int = 32
    """Of the replicas whose last read failed, which may hang, so many are read at a time."""

    @property
    def news_until_s(self) -> float:
        """Age up to which what another worker has read is news: older than this a worker would
        have read the replica itself, so its own news lie in a queue."""
        return PATIENCE * self.idle_interval_s + self.timeout_s


@dataclass(frozen=True, slots=True)
class ScrapedPool:
    """What the scraper needs to know about a pool."""

    name: str
    engine: Engine | None = None
    """None: detected from the metrics."""
    upstream: Upstream = field(default_factory=Upstream)
