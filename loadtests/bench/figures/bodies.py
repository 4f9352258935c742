"""What bodies that are dear to read do to everybody else: how long one holds the event loop."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from dataclasses import dataclass
from typing import Final

from loadtests.bench import processes
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.hostile import HostileBody, corpus
from loadtests.bench.metronome import Metronome
from loadtests.bench.rows import Row, below
from picker.bodies.apart import BodyProcess
from picker.core import Parts, Picker
from picker.request.answer import Answer
from picker.request.head import RequestHead
from picker.settings import PickerSettings, PoolSettings, RewriteRule, RewriteTarget
from picker.state.endpoints import Signals
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec
from policies.routing.spec import PolicySpec

_BODY_BYTES: Final = 4_000_000
_LARGEST_BYTES: Final = 60_000_000
_POOL: Final = "bench"
_MODEL: Final = "served"
_ALIAS: Final = "alias"
_TICK_S: Final = 0.001
_STALL_AIM_MS: Final = 50.0
_MB: Final = 1e6
_IDLE: Final = Signals(0, 0, 0.1, 500_000, 16, 0, frozenset(), frozenset())


@dataclass(frozen=True, slots=True)
class _Seen:
    body: HostileBody
    size: int
    stall_ms: float
    took_ms: float
    peak_mb: float
    status: int


def worst(effort: Effort) -> list[Row]:
    """The worst of the hostile bodies, through a picker alone; the bodies' process is warm."""
    return asyncio.run(_worst(effort))


async def _worst(effort: Effort) -> list[Row]:
    apart = BodyProcess()
    picker = _picker(apart)
    seen: list[_Seen] = []
    try:
        bodies = list(corpus(_ALIAS))
        await _offer(picker, bodies[0], _BODY_BYTES)
        for number, body in enumerate(bodies):
            effort.say(f"{body.name}: {number} of {len(bodies)}")
            sizes = (_BODY_BYTES,) if effort.quick else (_BODY_BYTES, _LARGEST_BYTES)
            seen += [await _offer(picker, body, size) for size in sizes]
    finally:
        apart.close()
    rows: list[Row] = []
    for size in sorted({one.size for one in seen}):
        of_size = [one for one in seen if one.size == size]
        rows += _rows(of_size, size)
    return rows


def _rows(seen: list[_Seen], size: int) -> list[Row]:
    stalled = max(seen, key=lambda one: one.stall_ms)
    slowest = max(seen, key=lambda one: one.took_ms)
    largest = max(seen, key=lambda one: one.peak_mb)
    mb = size / _MB
    aim, met = below(stalled.stall_ms, _STALL_AIM_MS, "ms")
    return [
        Row(f"worst stall by a hostile body of {mb:g} MB", stalled.stall_ms, "ms",
            f"of {len(seen)}: {stalled.body.name}", aim=aim, met=met),
        Row(f"its decision or refusal, body of {mb:g} MB", slowest.took_ms, "ms",
            f"the longest: {slowest.body.name}"),
        Row(f"picker memory for each MB, body of {mb:g} MB", largest.peak_mb / mb, "MB",
            f"the most: {largest.body.name}, without the process that reads it"),
    ]  # fmt: skip


async def _offer(picker: Picker, hostile: HostileBody, size: int) -> _Seen:
    body = hostile.make(size)
    late: list[float] = []
    peak = _Peak()
    ticks = Metronome(
        time.monotonic(), _TICK_S, lambda when_s: late.append(time.monotonic() - when_s)
    )
    await asyncio.sleep(0.01)
    late.clear()
    started_s = time.monotonic()
    headers = {"content-type": "application/json"}
    head = RequestHead("POST", hostile.path, headers, None, picker.now())
    begun = await picker.begin(head)
    assert not isinstance(begun, Answer)
    outcome = await picker.offer(begun, body)
    took_s = time.monotonic() - started_s
    del begun
    await asyncio.sleep(0.01)
    ticks.stop()
    peak_bytes = peak.stop()
    if not isinstance(outcome, Answer):
        picker.abandon(outcome)
    status = outcome.status if isinstance(outcome, Answer) else 200
    return _Seen(hostile, size, max(late) * 1e3, took_s * 1e3, peak_bytes / _MB, status)


class _Peak:
    """The most resident memory of this process, above what it was at the start."""

    def __init__(self) -> None:
        self._before = self._most = processes.memory(os.getpid()).rss_bytes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._most - self._before

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self._most = max(self._most, processes.memory(os.getpid()).rss_bytes)


def _picker(apart: BodyProcess) -> Picker:
    picker = Picker("bench", Parts(apart=apart), now=time.monotonic, rng=random.Random(1))
    pool = PoolSettings(_POOL, PolicySpec("auto"), default=True)
    rule = RewriteRule(_ALIAS, (RewriteTarget(_MODEL),))
    picker.configure(PickerSettings((pool,), (rule,), stale_after_s=1e9))
    address = "10.0.0.1:8000"
    picker.pools.sync_endpoints(_POOL, [EndpointSpec(address)])
    picker.apply_signals(_POOL, address, _IDLE, picker.now())
    picker.apply_models(_POOL, address, [ServedModel(_MODEL, None, 10**9)], picker.now())
    return picker
