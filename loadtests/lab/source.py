"""What is sent and how fast: a workload of the catalogue or a trace, under one level of load."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from loadtests.workloads.arrivals import Stage
from loadtests.workloads.catalogue import CATALOGUE, CatalogueEntry, Load
from loadtests.workloads.corpora import LoraMix
from loadtests.workloads.traces import Trace, read_trace
from loadtests.workloads.traffic import ClosedLoop, OpenLoop, Traffic

DEFAULT_DURATION_S = 600.0
_TRACE_PREFIX = "trace:"


class LabError(ValueError):
    """The lab cannot do what was asked; the message says what, and what would be right."""


class LevelKind(enum.Enum):
    """The unit of a level of load."""

    RATE = "requests/s"
    CONCURRENCY = "clients"
    SPEED = "x recorded speed"
    RAMP = "ramp"


@dataclass(frozen=True, slots=True, order=True)
class Level:
    """One level of load. The value of a ramp is its highest rate."""

    value: float
    kind: LevelKind

    @property
    def label(self) -> str:
        """For people."""
        if self.kind is LevelKind.RAMP:
            return f"ramp to {self.value:g} requests/s"
        return f"{self.value:g} {self.kind.value}"


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a run sends."""

    duration_s: float | None = None
    """None: 600 s; a closed loop whose clients send a fixed number of requests runs until they
    have; a trace runs to its end."""
    max_requests: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A workload by name, or a trace by path."""

    name: str
    trace: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """A source from ``name`` of the catalogue or ``trace:PATH``. Raises LabError,
        TraceError."""
        if text.startswith(_TRACE_PREFIX):
            path = Path(text.removeprefix(_TRACE_PREFIX))
            _trace(path)
            return cls(path.name, path)
        if text not in CATALOGUE:
            known = ", ".join(CATALOGUE)
            raise LabError(
                f"workload {text!r}: not in the catalogue, which has {known}; a recorded one is"
                " trace:PATH, Mooncake's .jsonl or Azure's .csv"
            )
        return cls(text)

    @property
    def about(self) -> str:
        """One line about it, for people."""
        if self.trace is None:
            return CATALOGUE[self.name].about
        return f"{len(_trace(self.trace).requests):,} recorded requests"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages of the catalogue's ramp; () when the load is something else."""
        load = None if self.trace is not None else CATALOGUE[self.name].load
        return load.stages if load is not None and len(load.stages) > 1 else ()

    def adapters(self) -> tuple[str, ...]:
        """LoRA adapters that the requests may ask for."""
        if self.trace is not None:
            return ()
        workload = CATALOGUE[self.name].make(1)
        return tuple(workload.adapter_names()) if isinstance(workload, LoraMix) else ()

    def levels(
        self,
        *,
        rates: Sequence[float] = (),
        concurrencies: Sequence[float] = (),
        speeds: Sequence[float] = (),
    ) -> tuple[Level, ...]:
        """The levels asked for, or else the one of the catalogue. Raises LabError."""
        if sum(map(bool, (rates, concurrencies, speeds))) > 1:
            raise LabError("--rate, --concurrency and --speed exclude each other")
        if speeds and self.trace is None:
            raise LabError("--speed is of a trace: give a workload of the catalogue a --rate")
        if rates and self.trace is not None:
            raise LabError("a trace has its own times: instead of --rate give it a --speed")
        for values, kind in (
            (rates, LevelKind.RATE),
            (concurrencies, LevelKind.CONCURRENCY),
            (speeds, LevelKind.SPEED),
        ):
            if any(value <= 0 or not math.isfinite(value) for value in values):
                raise LabError(f"loads are more than 0 {kind.value}")
            if kind is LevelKind.CONCURRENCY and any(value != int(value) for value in values):
                raise LabError("--concurrency is a whole number of clients")
            if values:
                return tuple(Level(float(value), kind) for value in sorted(set(values)))
        return (self._own_level(),)

    def traffic(self, level: Level, seed: int, extent: Extent) -> Traffic:
        """The requests at one level. Of a trace, seed 1 has the recorded times, and other seeds
        move them (`Trace.jittered`)."""
        until_s = math.inf if extent.duration_s is None else extent.duration_s
        if self.trace is not None:
            trace = _trace(self.trace)
            if seed != 1:
                trace = trace.jittered(seed)
            if level.kind is LevelKind.CONCURRENCY:
                return ClosedLoop(
                    trace, int(level.value), max_requests=extent.max_requests, until_s=until_s
                )
            times_s = trace.times(speed=level.value)
            return OpenLoop(trace, times_s, max_requests=extent.max_requests, until_s=until_s)
        entry = CATALOGUE[self.name]
        load = _load(entry, level, extent)
        if level.kind is LevelKind.RATE:
            until_s = load.stages[0].duration_s
        elif load.requests_per_client is None and level.kind is LevelKind.CONCURRENCY:
            until_s = extent.duration_s or DEFAULT_DURATION_S
        return load.traffic(
            entry.make(seed), seed=seed, max_requests=extent.max_requests, until_s=until_s
        )

    def _own_level(self) -> Level:
        if self.trace is not None:
            return Level(1.0, LevelKind.SPEED)
        load = CATALOGUE[self.name].load
        if load.concurrency:
            return Level(float(load.concurrency), LevelKind.CONCURRENCY)
        kind = LevelKind.RATE if len(load.stages) == 1 else LevelKind.RAMP
        return Level(max(stage.per_s for stage in load.stages), kind)


def _load(entry: CatalogueEntry, level: Level, extent: Extent) -> Load:
    """A rate keeps the workload's burstiness; a concurrency keeps how its clients begin again."""
    own = entry.load
    if level.kind is LevelKind.RAMP:
        return own
    if level.kind is LevelKind.RATE:
        duration_s = extent.duration_s or DEFAULT_DURATION_S
        return Load.open(level.value, duration_s=duration_s, cv=own.cv)
    # A given duration ends a run, instead of a number of requests for each client.
    each = own.requests_per_client if extent.duration_s is None else None
    return Load.closed(int(level.value), recycle=own.recycle, requests_per_client=each)


@lru_cache(maxsize=2)
def _trace(path: Path) -> Trace:
    return read_trace(path)
