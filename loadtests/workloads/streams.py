"""Tenants whose requests do not depend on each other: what one sends stays the same, whoever sends
beside it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

from loadtests.workloads.arrivals import Stage, arrival_times
from loadtests.workloads.sessions import Session, Workload
from loadtests.workloads.traffic import OpenLoop


@dataclass(frozen=True, slots=True)
class Stream:
    """What one tenant sends."""

    tenant: str
    workload: Workload
    per_s: float
    """Sessions that begin, a second; as a Poisson process."""
    from_s: float = 0.0
    """When the first may begin."""

    def times(self, seed: int, until_s: float) -> Iterator[float]:
        """When sessions begin, from 0 on."""
        pause = [Stage(0.0, self.from_s)] if self.from_s else []
        stages = [*pause, Stage(self.per_s, until_s - self.from_s)]
        return arrival_times(stages, seed=crc32(f"{self.tenant}/{seed}".encode()))


class Streams:
    """The sessions of several streams, in the order in which they begin."""

    name = "streams"

    def __init__(self, streams: Sequence[Stream], *, seed: int, duration_s: float) -> None:
        self._streams = streams
        begun = (
            [(at_s, which, nth) for nth, at_s in enumerate(stream.times(seed, duration_s))]
            for which, stream in enumerate(streams)
        )
        self._begun = list(heapq.merge(*begun))

    def session(self, index: int) -> Session:
        """See `Workload`."""
        _, which, nth = self._begun[index]
        stream = self._streams[which]
        return replace(stream.workload.session(nth), tenant=stream.tenant)

    def traffic(self) -> OpenLoop:
        """All of it."""
        return OpenLoop(self, [at_s for at_s, _, _ in self._begun])
