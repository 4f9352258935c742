"""The test stand: canned replicas, a gateway in front of them, Envoy alone, a load generator.

All are processes of their own on loopback; leaving the stand ends them, each by its pid.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson
import yaml

from loadtests.bench import plain, processes
from loadtests.bench.child import Child
from loadtests.bench.load import Job
from loadtests.bench.long_prompts import LongMix
from loadtests.bench.ports import free_port
from loadtests.bench.prompts import MODEL, PromptShape, Requests, api_key
from loadtests.bench.result import Result
from loadtests.bench.turns import TurnsJob

_START_S = 45.0
_FLUSH_S = 0.2
"""After the last answer: Envoy hands over its access log every 50 ms."""


class StandError(RuntimeError):
    """A part of the stand does not run; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Run:
    """A job's result and the CPU seconds that each process took for it."""

    result: Result
    cpu_s: Mapping[str, float]
    seconds: float
    """Wall time over which the CPU was counted."""

    def cores(self, name: str) -> float:
        """CPU seconds per second."""
        return self.cpu_s[name] / self.seconds


@dataclass(frozen=True, slots=True)
class Turns:
    """Requests that took three ways in turn."""

    direct: Result
    """To a replica."""
    plain: Result
    """Through Envoy alone."""
    gateway: Result


class Process(Child):
    """A child that is asked in lines, and ends with the stand."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        cores: Collection[int] = (),
    ) -> None:
        super().__init__(
            name,
            command,
            folder / f"{name}.log",
            piped=True,
            environment=environment,
            cores=cores,
        )

    def ask(self, line: bytes) -> bytes:
        """Send a line, give the line that comes back. Raises StandError when it has ended."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(line + b"\n")
            self._popen.stdin.flush()
        except BrokenPipeError as error:
            raise self.problem() from error
        return self.read()

    def read(self) -> bytes:
        """The next line. Raises StandError when it has ended."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise self.problem()
        return line

    def problem(self) -> StandError:
        """Why it does not do what it should."""
        words = self.output()[-2000:]
        return StandError(f"{self.name} (pid {self.pid}) does not run:\n{words}")

    @property
    def running(self) -> bool:
        return self.exit_status is None

    def stop(self) -> None:
        """End it and what it has started."""
        self.terminate()
        self.reap()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Stand:
    """Everything that a figure needs; ``with Stand(replicas) as stand``."""

    def __init__(
        self,
        replicas: int,
        *,
        sections: Mapping[str, object] | None = None,
        keys: int = 0,
        running: int = 0,
        start_s: float = _START_S,
    ) -> None:
        """``sections``: more of the gateway's configuration. ``keys``: of so many `api_key`s each
        request shows one; the gateway has to know them from its start; 0: none. ``running``:
        requests that every replica claims to run. ``start_s``: longest start."""
        self.replicas = replicas
        self.started_s = 0.0
        """What the gateway took from its start to the first answer, to the last of the keys."""
        self._sections = sections or {}
        self._keys = keys
        self._running = running
        self._start_s = start_s
        self.port, self.plain_port = free_port(), free_port()
        self._admin_port = free_port()
        self._closing = contextlib.ExitStack()
        self._pids: dict[str, int] = {}
        self._seed = 0
        self._upstream_port = 0
        self._folder = Path()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    # -- use

    @property
    def pids(self) -> Mapping[str, int]:
        """By name: picker (the second picker worker is picker-1, and so on), supervisor, envoy,
        plain, upstream, load."""
        return self._pids

    def load(
        self,
        shape: PromptShape | LongMix,
        *,
        plain: bool = False,
        connections: int,
        rate: float | None = None,
        seconds: float | None = None,
        requests: int | None = None,
        max_tokens: int = 1,
        stream: bool = False,
        window_s: float = 0.0,
        keys: range | None = None,
    ) -> Run:
        """Run a load, through the gateway or through Envoy alone; CPU counts over at least
        ``window_s``. ``keys``: only those of these numbers, None: all. Raises StandError when a
        request fails."""
        self._seed += 1
        shown = range(self._keys) if keys is None else keys
        job = Job(
            port=self.plain_port if plain else self.port,
            prompt=shape,
            seed=self._seed,
            connections=connections,
            rate=rate,
            seconds=seconds,
            requests=requests,
            max_tokens=max_tokens,
            stream=stream,
            keys=len(shown),
            first_key=shown.start,
        )
        began_s, before = time.monotonic(), processes.cpu_times_s(self._pids)
        result = Result(**orjson.loads(self._load.ask(orjson.dumps(job))))
        time.sleep(max(_FLUSH_S, began_s + window_s - time.monotonic()))
        took_s, after = time.monotonic() - began_s, processes.cpu_times_s(self._pids)
        if result.failures or not result.answered:
            raise StandError(f"requests failed: {result.failures or 'all'} ({self._logs()})")
        return Run(result, {name: after[name] - before[name] for name in after}, took_s)

    def in_turn(
        self, shape: PromptShape, *, requests: int, max_tokens: int = 1, stream: bool = False
    ) -> Turns:
        """So many requests each way, one at a time, in turn. Raises StandError when one fails."""
        self._seed += 1
        job = TurnsJob(
            [self._upstream_port, self.plain_port, self.port],
            shape,
            self._seed,
            requests,
            max_tokens=max_tokens,
            stream=stream,
        )
        results = [Result(**found) for found in orjson.loads(self._load.ask(orjson.dumps(job)))]
        for result in results:
            if result.failures:
                raise StandError(f"requests failed: {result.failures} ({self._logs()})")
        return Turns(*results)

    def rest(self, seconds: float) -> Mapping[str, float]:
        """CPU seconds by process of a time without load."""
        before = processes.cpu_times_s(self._pids)
        time.sleep(seconds)
        after = processes.cpu_times_s(self._pids)
        return {name: after[name] - before[name] for name in after}

    def scrapes(self) -> int:
        """Reads of /metrics so far, over all replicas."""
        return sum(self._counts("scrapes"))

    def requests_by_replica(self) -> list[int]:
        """Requests that each replica has answered."""
        return self._counts("requests")

    def _counts(self, name: str) -> list[int]:
        counts: dict[str, list[int]] = orjson.loads(self._upstream.ask(b"counts"))
        return counts[name]

    # -- start

    def _start(self) -> None:
        self._folder = Path(
            self._closing.enter_context(tempfile.TemporaryDirectory(prefix="pst-bench-"))
        )
        module = [sys.executable, "-m"]
        self._load = self._run("load", [*module, "loadtests.bench.load"])
        claims = ["--replicas", str(self.replicas), "--running", str(self._running)]
        self._upstream = self._run("upstream", [*module, "loadtests.bench.upstream", *claims])
        ports: list[int] = orjson.loads(self._upstream.read())
        self._upstream_port = ports[0]
        envoy = str(Path(sys.executable).parent / "envoy")
        plain_file = self._folder / "plain.json"
        addresses = [f"127.0.0.1:{port}" for port in ports]
        plain_file.write_bytes(orjson.dumps(plain.configuration(self.plain_port, addresses)))
        options = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]
        alone = self._run("plain", [envoy, "-c", str(plain_file), *options])
        file = self._folder / "penstock.yaml"
        file.write_text(
            yaml.safe_dump(
                configuration(self.port, self._admin_port, ports, self._folder, self._sections)
            )
        )
        began_s = time.monotonic()
        gateway = self._run("supervisor", [*module, "gateway.cli", "up", "-c", str(file)])
        self._wait(gateway, lambda: answers(self.port, self._keys))
        self.started_s = time.monotonic() - began_s
        self._wait(alone, lambda: answers(self.plain_port, 0))
        self._wait(self._upstream, lambda: min(self._counts("scrapes")) > 0)
        for pid in processes.children(gateway.pid):
            words = processes.arguments(pid)
            if "gateway.run.worker" in words:
                index = words[words.index("--index") + 1]
                self._pids["picker" if index == "0" else f"picker-{index}"] = pid
            elif words and Path(words[0]).name == "envoy":
                self._pids["envoy"] = pid
        if not {"picker", "envoy"} <= self._pids.keys():
            raise StandError(f"no picker or no Envoy among the children of {gateway.pid}")

    def _run(self, name: str, command: list[str]) -> Process:
        process = Process(name, command, self._folder)
        self._closing.callback(process.stop)
        self._pids[name] = process.pid
        return process

    def _wait(self, part: Process, ready: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + self._start_s
        while not ready():
            if not part.running:
                raise part.problem()
            if time.monotonic() > deadline_s:
                raise StandError(f"{part.name}: not ready in {self._start_s:g} s ({self._logs()})")
            time.sleep(0.1)

    def _logs(self) -> str:
        def last_words() -> Iterator[str]:
            for file in sorted(self._folder.rglob("*.log")):
                if words := file.read_text(errors="replace").strip():
                    yield f"{file.name}: {words[-400:]}"

        return "\n".join(last_words()) or "nothing in the logs"


def configuration(
    port: int,
    admin_port: int,
    replicas: Sequence[int],
    folder: Path,
    sections: Mapping[str, object],
) -> dict[str, object]:
    """The gateway's, with one picker and one thread of Envoy unless ``sections`` say otherwise.
    ``replicas``: their ports."""
    return {
        "listen": {"port": port},
        "admin": {"port": admin_port},
        "envoy": {"concurrency": 1},
        "picker": {"workers": 1},
        "pools": [
            {
                "name": "bench",
                "type": "static",
                "endpoints": [f"127.0.0.1:{replica}" for replica in replicas],
                "models": [MODEL],
                "default": True,
            }
        ],
        "telemetry": {"request_log": {"file": str(folder / "requests.jsonl")}},
        "run_dir": str(folder / "run"),
        **sections,
    }


def answers(port: int, keys: int) -> bool:
    """Whether a request with the last of so many API keys is answered with status 200."""
    headers = {"content-type": "application/json"}
    if keys:
        headers["authorization"] = f"Bearer {api_key(keys - 1)}"
    request = Requests(PromptShape(500), max_tokens=1, stream=False, seed=0).next()
    _, _, body = request.partition(b"\r\n\r\n")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
