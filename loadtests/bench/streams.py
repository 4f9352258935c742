"""Streams that are held open at once: when each event came, and whether any was lost or changed."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import orjson

from loadtests.bench.prompts import PromptShape, Requests
from loadtests.bench.upstream import token_text


@dataclass(frozen=True, slots=True)
class StreamsJob:
    """``streams`` at once on 127.0.0.1:``port``, each with ``tokens`` of `upstream`'s; they begin
    spread over ``spread_s``. Those that last longer than ``longest_s`` are given up."""

    port: int
    prompt: PromptShape
    seed: int
    streams: int
    tokens: int
    spread_s: float
    longest_s: float
    keys: int = 0


@dataclass(slots=True)
class StreamsResult:
    """What came of them."""

    whole: int = 0
    """Streams with every token, in order and as it was sent, and their end."""
    tokens: int = 0
    """That arrived as they were sent and in their place."""
    first_tokens_s: list[float] = field(default_factory=list)
    """From a request to its first token."""
    between_s: list[float] = field(default_factory=list)
    """From a token to the next of its stream, all streams."""
    problems: dict[str, int] = field(default_factory=dict)
    """What was wrong with the others, and how often."""


class _Stream(asyncio.Protocol):
    """One request on a connection of its own; what comes is only kept, and read later."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self.over = asyncio.Event()
        self.sent_s = 0.0
        self.pieces: list[tuple[float, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.over.set()

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.monotonic(), data))
        if data.endswith(b"0\r\n\r\n"):
            self.over.set()

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self.sent_s = time.monotonic()
        self._transport.write(request)

    def close(self) -> None:
        """At once."""
        if self._transport is not None:
            self._transport.abort()


async def hold(job: StreamsJob) -> StreamsResult:
    """Run the job. Raises OSError when there are too few connections."""
    requests = Requests(
        job.prompt, max_tokens=job.tokens, stream=True, seed=job.seed, keys=job.keys
    )
    loop = asyncio.get_running_loop()
    streams = [_Stream() for _ in range(job.streams)]
    gc.collect()
    gc.disable()
    try:
        for stream in streams:
            await loop.create_connection(lambda s=stream: s, "127.0.0.1", job.port)  # type: ignore[misc]
        start_s = loop.time()
        for number, stream in enumerate(streams):
            due_s = start_s + job.spread_s * number / job.streams
            loop.call_at(due_s, stream.send, requests.next())
        async with asyncio.timeout(job.spread_s + job.longest_s):
            for stream in streams:
                await stream.over.wait()
    except TimeoutError:
        pass  # read_stream says which of them
    finally:
        gc.enable()
        for stream in streams:
            stream.close()
    result = StreamsResult()
    for stream in streams:
        _read(stream, job.tokens, result)
    return result


def _read(stream: _Stream, tokens: int, result: StreamsResult) -> None:
    arrivals_s, problem = read_stream(stream.pieces, tokens)
    result.tokens += len(arrivals_s)
    if arrivals_s:
        result.first_tokens_s.append(arrivals_s[0] - stream.sent_s)
    result.between_s += [later - earlier for earlier, later in pairwise(arrivals_s)]
    if problem:
        result.problems[problem] = result.problems.get(problem, 0) + 1
    else:
        result.whole += 1


def read_stream(pieces: list[tuple[float, bytes]], tokens: int) -> tuple[list[float], str]:
    """When each token of a stream arrived, up to the first that is missing or other than it was
    sent; and what is wrong with it, "" when nothing is. ``pieces``: what was read of its
    connection, and when."""
    raw = b"".join(data for _, data in pieces)
    head_end = raw.find(b"\r\n\r\n")
    if head_end < 0:
        return [], "no answer"
    head = raw[:head_end].lower()
    if head[9:12] != b"200":
        return [], f"status {head[9:12].decode(errors='replace')}"
    if b"\r\ntransfer-encoding: chunked" not in head:
        return [], "no stream"
    body, places, has_end = _unchunked(raw, head_end + 4)
    arrivals_s: list[float] = []
    times = _Times(pieces)
    done = False
    start = 0
    while (end := body.find(b"\n\n", start)) >= 0:
        event = body[start:end].strip()
        start = end + 2
        if event == b"data: [DONE]":
            done = True
        elif text := _text(event):
            if len(arrivals_s) >= tokens or text != token_text(len(arrivals_s)):
                return arrivals_s, "an event is missing or changed"
            arrivals_s.append(times.at(places.raw_place(end + 1)))
    if len(arrivals_s) < tokens:
        return arrivals_s, "an event is missing or changed" if has_end else "not over in time"
    if not has_end:
        return arrivals_s, "not over in time"
    if not done:
        return arrivals_s, "no end"
    return arrivals_s, ""


def _text(event: bytes) -> str:
    """The content that an event brings; "" for any other, such as comments and usage."""
    if not event.startswith(b"data: {"):
        return ""
    choices = orjson.loads(event[len(b"data: ") :]).get("choices")
    return (choices[0].get("delta", {}).get("content") or "") if choices else ""


class _Places:
    """Where in the raw bytes a place of the body is; asked for in ascending order."""

    def __init__(self) -> None:
        self._chunks: list[tuple[int, int]] = []
        self._next = 0

    def add(self, body_place: int, raw_place: int) -> None:
        self._chunks.append((body_place, raw_place))

    def raw_place(self, body_place: int) -> int:
        chunks = self._chunks
        while self._next + 1 < len(chunks) and chunks[self._next + 1][0] <= body_place:
            self._next += 1
        start, raw = chunks[self._next]
        return raw + body_place - start


class _Times:
    """When a place of the raw bytes was read; asked for in ascending order."""

    def __init__(self, pieces: list[tuple[float, bytes]]) -> None:
        self._pieces = pieces
        self._next = 0
        self._end = len(pieces[0][1]) if pieces else 0

    def at(self, place: int) -> float:
        while place >= self._end and self._next + 1 < len(self._pieces):
            self._next += 1
            self._end += len(self._pieces[self._next][1])
        return self._pieces[self._next][0]


def _unchunked(raw: bytes, place: int) -> tuple[bytes, _Places, bool]:
    """The body of what is in HTTP/1.1's chunks from ``place``, and whether its last chunk is
    there."""
    parts: list[bytes] = []
    places = _Places()
    length = 0
    while (line_end := raw.find(b"\r\n", place)) >= 0:
        size = int(raw[place:line_end].partition(b";")[0], 16)
        if size == 0:
            return b"".join(parts), places, True
        start = line_end + 2
        part = raw[start : start + size]
        places.add(length, start)
        parts.append(part)
        length += len(part)
        place = start + size + 2
    return b"".join(parts), places, False
