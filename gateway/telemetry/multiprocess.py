"""Prometheus across the picker processes: each writes files, the supervisor adds them up."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, multiprocess, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

ENVIRONMENT_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Must be set for a worker before it imports prometheus_client."""


def prepare(directory: Path) -> None:
    """Make the directory, and remove what an earlier run left there."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.db"):
        old.unlink()


def use_fixed_process() -> None:
    """Save a system call at each count. Call it before any metric is made, and only in a process
    that never forks."""
    pid = os.getpid()
    values.ValueClass = values.MultiProcessValue(lambda: pid)  # type: ignore[no-untyped-call]


def worker_ended(pid: int, directory: Path) -> None:
    """A worker has ended: its gauges vanish, its counters stay."""
    multiprocess.mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]


def render(
    directory: Path, collectors: Iterable[Collector] = (), accept: str = ""
) -> tuple[bytes, str]:
    """(body, content type) of the metrics of all workers and of ``collectors``. Reads files:
    call it in a thread."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    for collector in collectors:
        registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
