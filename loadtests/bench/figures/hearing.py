"""What it costs a picker to hear of the requests that another one has sent."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
import time
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import orjson
import uvloop

from loadtests.bench import processes
from loadtests.bench.conversations import Conversations
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.picker_process import known, picker_of
from loadtests.bench.rows import Row, below, number
from loadtests.bench.stand import Process, StandError
from picker.core import Picker
from picker.replication.local import LocalPeers
from picker.request.answer import Answer
from picker.request.head import RequestHead
from picker.request.report import Ending, Report

_ENDPOINTS: Final = 1_000
_CONVERSATIONS: Final = 1_000
_RATE: Final = 10_000
"""Requests/s that are heard."""
_TURN_S: Final = 0.01
"""Between two batches of a picker with so much to do."""
_A_TURN: Final = int(_RATE * _TURN_S)
_UNDER_WAY: Final = 1_000
_AIM_US: Final = 10.0
_QUEUE_BYTES: Final = 4 << 20


@dataclass(slots=True)
class _Recording:
    """What a picker has sent to another while it decided ``_A_TURN`` requests at a time."""

    turns: list[list[bytes]] = field(default_factory=list)
    known: dict[str, float] = field(default_factory=dict)
    """To the sender, at the end."""

    @property
    def requests(self) -> int:
        return _A_TURN * len(self.turns)

    @property
    def bytes_a_request(self) -> float:
        return sum(len(data) for turn in self.turns for data in turn) / self.requests


def per_request(effort: Effort) -> list[Row]:
    """CPU of a picker that hears recorded datagrams of a real one."""
    rounds, turns = effort.of(5, 2), effort.of(200, 50)
    costs_us = []
    for n in range(rounds):
        with tempfile.TemporaryDirectory(prefix="pst-bench-") as path:
            folder = Path(path)
            effort.say(f"recording {turns * _A_TURN:,} requests: round {n + 1} of {rounds}")
            recording = uvloop.run(_record(folder, turns))
            effort.say(f"hearing them: round {n + 1} of {rounds}")
            costs_us.append(_hear(folder, recording) / recording.requests * 1e6)
    cost_us = median(costs_us)
    aim, met = below(cost_us, _AIM_US, "us")
    return [
        Row(
            "picker CPU per request of another picker heard",
            cost_us,
            "us",
            f"conversations with prompts of 16 to 24 kB, {_ENDPOINTS:,} replicas,"
            f" {_RATE:,} requests/s with their ends; {recording.bytes_a_request:.0f} bytes a"
            f" request; median of {', '.join(map(number, costs_us))}",
            aim=aim,
            met=met,
        )
    ]


async def _record(folder: Path, turns: int) -> _Recording:
    peers = LocalPeers("sender", own=folder / "mouth", others=[folder / "ear"])
    picker = picker_of("sender", _ENDPOINTS, peers)
    recording = _Recording()
    heard: list[bytes] = []
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as ear:
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
        ear.setblocking(False)
        ear.bind(str(folder / "ear"))
        loop = asyncio.get_running_loop()
        loop.add_reader(ear, lambda: heard.append(ear.recv(1 << 20)))
        peers.start(picker.flights)
        conversations = Conversations(_CONVERSATIONS, seed=1)
        under_way: deque[Report] = deque()
        for _ in range(turns):
            for _ in range(_A_TURN):
                under_way.append(await _decide(picker, *conversations.next()))
                if len(under_way) > _UNDER_WAY:
                    picker.complete(under_way.popleft())
            await asyncio.sleep(2 * _TURN_S)
            recording.turns.append(list(heard))
            heard.clear()
        loop.remove_reader(ear)
        peers.stop()
        with suppress(BlockingIOError):
            while True:
                recording.turns[-1].append(ear.recv(1 << 20))
    recording.known = known(picker)
    return recording


async def _decide(picker: Picker, session: str, body: bytes) -> Report:
    """Decide a request; returns its end, which is to come."""
    head = RequestHead(
        method="POST",
        path="/v1/chat/completions",
        headers={"content-type": "application/json", "x-session-id": session},
        subset=None,
        received_s=picker.now(),
    )
    begun = await picker.begin(head)
    decision = begun if isinstance(begun, Answer) else await picker.offer(begun, body)
    if isinstance(decision, Answer):
        raise StandError(f"the picker refused a request: {decision.body!r}")
    return Report(
        id=decision.id,
        owner=picker.id,
        address=decision.addresses[0],
        status=200,
        reason=Ending.OK,
        input_tokens=len(body) // 4,
        output_tokens=200,
        cached_tokens=None,
        streamed_events=0,
        ttft_s=0.1,
        duration_s=1.0,
    )


def _hear(folder: Path, recording: _Recording) -> float:
    """CPU seconds that a picker takes to hear a recording, beyond those of doing nothing. Raises
    StandError when it does not know afterwards what the sender knows."""
    own = folder / "listener"
    command = [sys.executable, "-m", "loadtests.bench.picker_process", "--own", str(own)]
    listener = Process("listener", [*command, "--endpoints", str(_ENDPOINTS)], folder)
    mouth = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        listener.read()
        seconds = len(recording.turns) * _TURN_S
        before_s = processes.cpu_s(listener.pid)
        time.sleep(seconds)
        idle_s = processes.cpu_s(listener.pid) - before_s
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BYTES)
        mouth.connect(str(own))
        before_s = processes.cpu_s(listener.pid)
        began_s = time.monotonic()
        for n, turn in enumerate(recording.turns):
            time.sleep(max(0.0, began_s + n * _TURN_S - time.monotonic()))
            for data in turn:
                mouth.send(data)
        heard = orjson.loads(listener.ask(b"look"))
        used_s = processes.cpu_s(listener.pid) - before_s - idle_s
    finally:
        mouth.close()
        listener.stop()
    wanted = {**recording.known, "unreadable": 0}
    if heard != wanted:
        raise StandError(f"the listener knows {heard}, and not {wanted}")
    return used_s
