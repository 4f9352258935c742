"""Where gateways are compared: the mock upstream and the load client on cores of their own, and one
gateway after the other on the others."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import orjson

from loadtests.bench import processes
from loadtests.bench.contest.contenders import Contender, Setting
from loadtests.bench.load import Job
from loadtests.bench.ports import free_port
from loadtests.bench.processes import GoneError
from loadtests.bench.result import Result
from loadtests.bench.stand import Process, StandError, answers
from loadtests.bench.streams import StreamsJob, StreamsResult
from loadtests.bench.turns import TurnsJob

DELAY_S: Final = 0.020
"""To the first byte of an answer of the upstream."""
REPLICAS: Final = 4
_START_S: Final = 120.0
_STOP_S: Final = 0.2
"""What a gateway is given at least after the last answer before its CPU time is read."""
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where."""

    gateway: tuple[int, ...]
    load: tuple[int, ...]
    """For the client and the upstream."""

    @classmethod
    def halves(cls) -> Self:
        """Half of what we may use for each; on one core, both."""
        ours = sorted(os.sched_getaffinity(0))
        half = len(ours) // 2
        return cls(tuple(ours[half:]), tuple(ours[:half] or ours))


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds during a job."""

    by_part: Mapping[str, float]
    """Of the gateway, by its parts' names."""
    load_s: float
    """Of client and upstream."""
    seconds: float
    """That the job took."""
    window_s: float
    """Over which CPU was counted."""


class Arena:
    """``with Arena(cores) as arena``: the upstream and the client run."""

    def __init__(self, cores: Cores) -> None:
        self.cores = cores
        self.upstream_port = 0
        self._closing = contextlib.ExitStack()
        self._seed = 0

    def __enter__(self) -> Self:
        try:
            folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="pst-contest-"))
            self._folder = Path(folder)
            module = [sys.executable, "-m"]
            delayed = ["--delay-ms", f"{DELAY_S * 1e3:g}", "--token-ms", "20"]
            upstream = [*module, "loadtests.bench.upstream", "--replicas", str(REPLICAS), *delayed]
            self._upstream = self._run("upstream", upstream)
            self._client = self._run("load", [*module, "loadtests.bench.load"])
            self.ports: list[int] = orjson.loads(self._upstream.read())
            self.upstream_port = self.ports[0]
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _run(self, name: str, command: Sequence[str]) -> Process:
        process = Process(name, command, self._folder, cores=self.cores.load)
        self._closing.callback(process.stop)
        return process

    # -- jobs

    def next_seed(self) -> int:
        self._seed += 1
        return self._seed

    def pace(self, token_s: float) -> None:
        """From now on a stream has a token every ``token_s``."""
        self._upstream.ask(f"{token_s:g}".encode())

    def load(self, job: Job) -> Result:
        return Result(**orjson.loads(self._client.ask(orjson.dumps(job))))

    def in_turn(self, job: TurnsJob) -> list[Result]:
        found = orjson.loads(self._client.ask(orjson.dumps(job)))
        return [Result(**one) for one in found]

    def hold(self, job: StreamsJob) -> StreamsResult:
        return StreamsResult(**orjson.loads(self._client.ask(orjson.dumps(job))))

    def load_s(self) -> float:
        """CPU seconds of client and upstream so far."""
        return processes.cpu_s(self._client.pid) + processes.cpu_s(self._upstream.pid)

    @contextlib.contextmanager
    def gateway(self, contender: Contender) -> Iterator[Running]:
        """The gateway, once it answers; it is ended on leaving. Raises StandError."""
        with tempfile.TemporaryDirectory(prefix="pst-contest-") as folder:
            setting = Setting(free_port(), tuple(self.ports), len(self.cores.gateway), Path(folder))
            command = contender.command(setting)
            process = Process(
                contender.peer or "gateway",
                command.words,
                Path(folder),
                environment=command.environment,
                cores=self.cores.gateway,
            )
            try:
                _wait(process, setting.port)
                yield Running(setting.port, contender, process.pid, self)
                if not process.running:
                    raise process.problem()
            finally:
                process.stop()


def _wait(process: Process, port: int) -> None:
    deadline_s = time.monotonic() + _START_S
    while not answers(port, 1):
        if not process.running:
            raise process.problem()
        if time.monotonic() > deadline_s:
            raise StandError(f"no answer in {_START_S:g} s; its last words: {process.output()}")
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that answers."""

    port: int
    contender: Contender
    pid: int
    arena: Arena

    @contextlib.contextmanager
    def cost(self, window_s: float = 0.0) -> Iterator[list[Cost]]:
        """What is done inside costs what the list has afterwards, counted over at least
        ``window_s``."""
        found: list[Cost] = []
        began_s, before, load_s = time.monotonic(), self._cpu_s(), self.arena.load_s()
        yield found
        took_s, load_after_s = time.monotonic() - began_s, self.arena.load_s()
        time.sleep(max(_STOP_S, began_s + window_s - time.monotonic()))
        by_part: dict[str, float] = defaultdict(float)
        for pid, (part, seconds) in self._cpu_s().items():
            by_part[part] += seconds - before.get(pid, ("", 0.0))[1]
        window_s = time.monotonic() - began_s
        found.append(Cost(by_part, load_after_s - load_s, took_s, window_s))

    def memory_mb(self) -> float:
        """Resident, shared pages divided by their users, of all its processes."""
        total_bytes = 0
        for pid in processes.family(self.pid):
            with contextlib.suppress(GoneError):
                total_bytes += processes.memory(pid).pss_bytes
        return total_bytes / _MB

    def _cpu_s(self) -> dict[int, tuple[str, float]]:
        found = {}
        for pid in processes.family(self.pid):
            with contextlib.suppress(GoneError):
                part = self.contender.parts(processes.arguments(pid))
                found[pid] = part, processes.cpu_s(pid)
        return found
