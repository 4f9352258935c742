"""Envoy alone and the gateway, in front of the same replicas, each with one thread of Envoy."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import yaml

from loadtests.bench import plain, processes
from loadtests.bench.ports import free_port
from loadtests.bench.prompts import MODEL
from loadtests.bench.stand import Process, StandError, configuration
from loadtests.bench.tokens.answers import ALIAS, Api, Order
from loadtests.bench.tokens.clients import WrongAnswerError, ask_all

_START_S: Final = 45.0
_REPLICAS: Final = 4


@dataclass(frozen=True, slots=True)
class Proxy:
    """A port, and the processes whose CPU time counts."""

    port: int
    envoy: int
    """Process id."""
    picker: int | None = None


@contextlib.contextmanager
def replicas(folder: Path) -> Iterator[list[int]]:
    """Their ports."""
    command = [sys.executable, "-m", "loadtests.bench.tokens.upstream"]
    process = Process("upstream", [*command, "--replicas", str(_REPLICAS)], folder)
    try:
        ports: list[int] = orjson.loads(process.read())
        yield ports
    finally:
        process.stop()


@contextlib.contextmanager
def envoy_alone(folder: Path, ports: Sequence[int]) -> Iterator[Proxy]:
    """Without filters but the router."""
    port = free_port()
    file = folder / "alone.json"
    addresses = [f"127.0.0.1:{replica}" for replica in ports]
    file.write_bytes(orjson.dumps(plain.configuration(port, addresses)))
    options = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]
    envoy = Path(sys.executable).parent / "envoy"
    process = Process("alone", [str(envoy), "-c", str(file), *options], folder)
    try:
        _wait(process, port, MODEL)
        yield Proxy(port, process.pid)
    finally:
        process.stop()


@contextlib.contextmanager
def gateway(folder: Path, ports: Sequence[int]) -> Iterator[Proxy]:
    """Penstock with one picker."""
    port = free_port()
    models = [{"name": ALIAS, "targets": [{"model": MODEL}]}]
    config = configuration(port, free_port(), ports, folder, {"models": models})
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "gateway.cli", "up", "-c", str(file)]
    process = Process("gateway", command, folder)
    try:
        _wait(process, port, ALIAS)
        pids: dict[str, int] = {}
        for pid in processes.children(process.pid):
            words = processes.arguments(pid)
            if "gateway.run.worker" in words:
                pids["picker"] = pid
            elif words and Path(words[0]).name == "envoy":
                pids["envoy"] = pid
        yield Proxy(port, pids["envoy"], pids["picker"])
    finally:
        process.stop()


@contextlib.contextmanager
def compared() -> Iterator[tuple[Proxy, Proxy]]:
    """The gateway and Envoy alone."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pst-tokens-")))
        ports = stack.enter_context(replicas(folder))
        alone = stack.enter_context(envoy_alone(folder, ports))
        yield stack.enter_context(gateway(folder, ports)), alone


def _wait(process: Process, port: int, model: str) -> None:
    deadline_s = time.monotonic() + _START_S
    order = Order(Api.CHAT, 0, 1_000, model)
    while process.running:
        with contextlib.suppress(OSError, WrongAnswerError, ExceptionGroup):
            ask_all(port, order, clients=1)
            return
        if time.monotonic() > deadline_s:
            raise StandError(f"{process.name}: not ready in {_START_S:g} s\n{process.output()}")
        time.sleep(0.1)
    raise process.problem()
