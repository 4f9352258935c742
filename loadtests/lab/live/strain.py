"""Whether a run shows the gateways' speed, or only that of the machine on which all of it ran."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from loadtests.bench import processes
from loadtests.lab.live.client import Lag
from loadtests.lab.live.gateways import Gateway
from loadtests.lab.live.replicas import ReplicaFleet

LATE_S: Final = 0.05
"""A client that is later than this (99th percentile, wall time) does not measure reliably."""
BUSY: Final = 0.95
"""Share of the machine's cores."""
REPLICA_BUSY: Final = 0.9
"""Share of one core. A simulated replica is one thread: beyond this its steps are late."""


@dataclass(frozen=True, slots=True)
class Strain:
    """The load on the machine during one run. Times are wall seconds, shares from 0 to 1."""

    machine_busy_share: float
    """Share of all cores, whoever used them."""
    client_busy_share: float
    """Share of one core."""
    gateway_cpu_s: float | None
    replica_busy_share: float | None
    """Share of one core, of the busiest replica. None: the replicas are not ours."""
    sent_late_p99_s: float
    sent_late_max_s: float
    loop_late_p99_s: float
    loop_late_max_s: float

    def flags(self) -> list[str]:
        """Why the run should not be trusted; empty: it may be."""
        found: list[str] = []
        if self.machine_busy_share > BUSY:
            found.append("machine")
        if max(self.sent_late_p99_s, self.loop_late_p99_s) > LATE_S:
            found.append("client")
        if (self.replica_busy_share or 0.0) > REPLICA_BUSY:
            found.append("replicas")
        return found

    def as_data(self) -> dict[str, object]:
        """The strain for result.json."""
        return {**asdict(self), "flags": self.flags()}


class StrainMeter:
    """Reads the clocks of all processes at the beginning and the end of a run."""

    def __init__(self, gateway: Gateway, fleet: ReplicaFleet) -> None:
        self._gateway, self._fleet = gateway, fleet
        self._before = self._read()

    def read(self, lag: Lag) -> Strain:
        """The strain since this meter was made."""
        after, before = self._read(), self._before
        wall_s = after.wall_s - before.wall_s
        cores = os.cpu_count() or 1
        replicas = [b - a for a, b in zip(before.replicas_s, after.replicas_s, strict=True)]
        gateway_s = None
        if after.gateway_s is not None and before.gateway_s is not None:
            gateway_s = after.gateway_s - before.gateway_s
        return Strain(
            machine_busy_share=(after.machine_s - before.machine_s) / wall_s / cores,
            client_busy_share=(after.client_s - before.client_s) / wall_s,
            gateway_cpu_s=gateway_s,
            replica_busy_share=max(replicas) / wall_s if replicas else None,
            sent_late_p99_s=_p99(lag.sent_late_s),
            sent_late_max_s=max(lag.sent_late_s, default=0.0),
            loop_late_p99_s=_p99(lag.loop_s),
            loop_late_max_s=max(lag.loop_s, default=0.0),
        )

    def _read(self) -> _Reading:
        return _Reading(
            time.monotonic(),
            processes.machine_busy_s(),
            time.process_time(),
            self._gateway.cpu_s(),
            self._fleet.cpu_s(),
        )


@dataclass(frozen=True, slots=True)
class _Reading:
    wall_s: float
    machine_s: float
    client_s: float
    gateway_s: float | None
    replicas_s: Sequence[float]


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99)) if values else 0.0


def remarks(strains: Iterable[Strain]) -> list[str]:
    """One line for each reason, over all runs."""
    all_of_them = list(strains)

    def flagged(kind: str) -> list[Strain]:
        return [strain for strain in all_of_them if kind in strain.flags()]

    def of(some: Sequence[Strain]) -> str:
        return f"Not to be trusted, {len(some)} of {len(all_of_them)} runs: "

    found: list[str] = []
    if some := flagged("machine"):
        most = max(strain.machine_busy_share for strain in some)
        found.append(
            f"{of(some)}the machine was at its limit (up to {most:.0%} busy), latencies may be its"
            " own; try fewer replicas, a lower load, or a larger --time-scale"
        )
    if some := flagged("client"):
        most = max(max(strain.sent_late_p99_s, strain.loop_late_p99_s) for strain in some)
        found.append(
            f"{of(some)}the client was late, by up to {most * 1000:.0f} ms of wall time at the"
            " 99th percentile"
        )
    if some := flagged("replicas"):
        most = max(strain.replica_busy_share or 0.0 for strain in some)
        found.append(
            f"{of(some)}a simulated replica used {most:.0%} of a core, and may have been late with"
            " its steps; try a larger --time-scale"
        )
    return found
