"""A batch beside interactive traffic, over simulated replicas: what it does to the time to the
first token, and whether each line is answered once though its process is killed twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import orjson
import yaml

from loadtests.bench.child import Child
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.ports import free_port
from loadtests.bench.rows import Row, below
from loadtests.bench.stand import StandError

_REPLICAS: Final = 8
_TIME_SCALE: Final = 3.0
"""Engines at a third of their speed: a few milliseconds of a busy machine are then little of a time
to the first token."""
_RATE_PER_S: Final = 6.0
"""Of interactive requests, in open loop."""
_PROMPT_BYTES, _ANSWER_TOKENS = 6_000, 64
_LINE_BYTES, _LINE_TOKENS = 200, 16
_BESIDE_S: Final = 15.0
_ALONE_S: Final = 3.0
_ENDING_S: Final = 1.0
"""Interactive traffic has the batch beside it and is alone in turn, because a shared machine is not
as fast in one minute as in the next. For that the lane is stopped (SIGSTOP) until it goes on; lines
that run then end within the last of these times."""
_LONGEST_S: Final = 240.0
"""The batch is given up after this."""
_WARM_S: Final = 8.0
_START_S: Final = 60.0
_MOST_RATIO: Final = 1.1
_MODEL: Final = "sim"


@dataclass
class _Traffic:
    """What interactive clients have seen."""

    now: list[float] | None = None
    """Where the times of the requests go that begin now; None: they do not count."""
    alone_s: list[float] = field(default_factory=list)
    beside_s: list[float] = field(default_factory=list)
    failed: int = 0


def beside(effort: Effort) -> list[Row]:
    """Interactive TTFT with and without the batch, its rate, and its lines."""
    return asyncio.run(_measured(effort))


async def _measured(effort: Effort) -> list[Row]:
    lines = effort.of(10_000, 1_500)
    with tempfile.TemporaryDirectory(prefix="pst-") as name, _gateway(Path(name)) as url:
        async with aiohttp.ClientSession(url) as session:
            await _ready(session)
            effort.say(f"interactive traffic, and {lines:,} lines beside it")
            traffic = _Traffic()
            asking = asyncio.create_task(_interactive(session, traffic))
            try:
                await asyncio.sleep(_WARM_S)
                batch = await _started(session, lines)
                turns = _Turns(session, Path(name), traffic, batch, lines)
                shown = await turns.take()
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            answers = await _answers(session, shown)
    alone_ms, beside_ms = (1e3 * _p90(times) for times in (traffic.alone_s, traffic.beside_s))
    ratio = beside_ms / alone_ms
    once = sum(count == 1 for count in answers.values())
    doubled = sum(count > 1 for count in answers.values())
    aim, met = below(ratio, _MOST_RATIO, "")
    how = f"{_RATE_PER_S:g}/s, {_REPLICAS} simulated replicas, p90 of"
    return [
        Row(
            *("interactive TTFT p90 without a batch", alone_ms, "ms"),
            f"{how} {len(traffic.alone_s)}, in turn with the next",
        ),
        Row(
            *("interactive TTFT p90 beside a batch", beside_ms, "ms"),
            f"{how} {len(traffic.beside_s)}; {traffic.failed} of all failed",
        ),
        Row("the second over the first", ratio, "", "", aim=aim, met=met),
        Row(
            *("lines a second beside interactive traffic", lines / turns.beside_s, "1/s"),
            f"{lines:,} lines, the lane killed with -9 {turns.kills} times; {shown['status']}",
        ),
        Row(
            *("lines answered once", once, "lines"),
            f"{doubled} twice, {lines - once - doubled} never",
            aim=f"{lines:,}",
            met=once == lines,
        ),
    ]


class _Turns:
    """Interactive traffic beside the batch and alone, in turn, until the batch is over."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        folder: Path,
        traffic: _Traffic,
        batch: str,
        lines: int,
    ) -> None:
        self._session, self._folder, self._traffic = session, folder, traffic
        self._batch, self._lines = batch, lines
        self.kills = 0
        self.beside_s = 0.0
        """Time that the batch had."""

    async def take(self) -> dict[str, object]:
        """The batch when it is over. Raises StandError when it takes too long."""
        end_s = time.monotonic() + _LONGEST_S
        while time.monotonic() < end_s:
            shown = await self._beside()
            if shown["status"] in ("completed", "failed", "expired", "cancelled"):
                return shown
            _signal(self._folder, signal.SIGSTOP)
            await asyncio.sleep(_ENDING_S)
            self._traffic.now = self._traffic.alone_s
            await asyncio.sleep(_ALONE_S)
            self._traffic.now = None
            _signal(self._folder, signal.SIGCONT)
        raise StandError("the batch is not over")

    async def _beside(self) -> dict[str, object]:
        self._traffic.now = self._traffic.beside_s
        began_s = time.monotonic()
        while True:
            shown = await _shown(self._session, self._batch)
            took_s = time.monotonic() - began_s
            counts = shown["request_counts"]
            assert isinstance(counts, dict)
            if self.kills < 2 and counts["completed"] >= (self.kills + 1) / 3 * self._lines:
                self.kills += _signal(self._folder, signal.SIGKILL)
            is_over = shown["status"] not in ("validating", "in_progress")
            if took_s >= _BESIDE_S or is_over:
                self._traffic.now = None
                self.beside_s += took_s
                return shown
            await asyncio.sleep(0.5)


@contextlib.contextmanager
def _gateway(folder: Path) -> Iterator[str]:
    port = free_port()
    config = {
        "listen": {"port": port},
        "admin": {"port": free_port()},
        "run_dir": str(folder / "run"),
        "telemetry": {"request_log": "none", "log_level": "warning"},
        "envoy": {"concurrency": 1},
        "pools": [
            {
                "name": "p",
                "type": "simulated",
                "replicas": _REPLICAS,
                "model": _MODEL,
                "time_scale": _TIME_SCALE,
            },
        ],
    }
    file = folder / "penstock.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "gateway.cli", "up", "-c", str(file)]
    child = Child("penstock", command, folder / "penstock.log")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.reap()


async def _ready(session: aiohttp.ClientSession) -> None:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s:
        with contextlib.suppress(aiohttp.ClientError):
            if await _first_token_s(session, "ready", 1) is not None:
                return
        await asyncio.sleep(0.2)
    raise StandError("the gateway does not answer")


async def _interactive(session: aiohttp.ClientSession, traffic: _Traffic) -> None:
    """Requests at random times until it is cancelled; their prompts share nothing."""
    rng, due_s, number = random.Random(1), time.monotonic(), 0
    async with asyncio.TaskGroup() as asking:
        while True:
            due_s += rng.expovariate(_RATE_PER_S)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            number += 1
            asking.create_task(_asked(session, f"i{number}", traffic))


async def _asked(session: aiohttp.ClientSession, name: str, traffic: _Traffic) -> None:
    times_s = traffic.now
    try:
        took_s = await _first_token_s(session, name, _ANSWER_TOKENS)
    except aiohttp.ClientError:
        took_s = None
    if took_s is None:
        traffic.failed += 1
    elif times_s is not None:
        times_s.append(took_s)


async def _first_token_s(session: aiohttp.ClientSession, name: str, tokens: int) -> float | None:
    """None: it was refused."""
    words = random.Random(name).choices(("alpha", "beta", "gamma", "delta"), k=_PROMPT_BYTES // 6)
    began_s = time.monotonic()
    body = _chat(f"{name} {' '.join(words)}", tokens) | {"stream": True}
    async with session.post("/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            return None
        await answer.content.readany()
        first_s = time.monotonic() - began_s
        await answer.read()
        return first_s


def _chat(text: str, tokens: int) -> dict[str, object]:
    message = {"role": "user", "content": text}
    return {"model": _MODEL, "max_tokens": tokens, "messages": [message]}


async def _started(session: aiohttp.ClientSession, lines: int) -> str:
    content = b"\n".join(
        orjson.dumps(
            {
                "custom_id": f"r{n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": _chat(f"{n} ".ljust(_LINE_BYTES, "x"), _LINE_TOKENS),
            }
        )
        for n in range(lines)
    )
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", content, filename="lines.jsonl")
    async with session.post("/v1/files", data=form) as answer:
        file = (await answer.json())["id"]
    wanted = {
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    async with session.post("/v1/batches", json=wanted) as answer:
        return str((await answer.json())["id"])


def _signal(folder: Path, number: signal.Signals) -> int:
    """To the lane's process of this gateway; to how many there are."""
    count = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if b"gateway.batches.process" in words and str(folder).encode() in b"".join(words):
                    os.kill(int(process.name), number)
                    count += 1
    return count


async def _shown(session: aiohttp.ClientSession, batch: str) -> dict[str, object]:
    async with session.get(f"/v1/batches/{batch}") as answer:
        found: dict[str, object] = await answer.json()
        if answer.status != 200:
            raise StandError(f"the batch cannot be read: {found}")
        return found


async def _answers(session: aiohttp.ClientSession, batch: dict[str, object]) -> Counter[str]:
    """How often each line is answered."""
    async with session.get(f"/v1/files/{batch['output_file_id']}/content") as answer:
        content = await answer.read()
    return Counter(orjson.loads(line)["custom_id"] for line in content.splitlines())


def _p90(times_s: list[float]) -> float:
    if not times_s:
        raise StandError("no interactive request was answered")
    return sorted(times_s)[int(0.9 * len(times_s))]
