"""Replicas that send a stream's tokens one by one at the pace that its request asks for.

Run as ``python -m loadtests.bench.tokens.upstream --replicas N``; prints their ports, ends with its
standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import deque
from functools import cache
from typing import Final, cast

import orjson
import uvloop

from loadtests.bench.metronome import Metronome
from loadtests.bench.prompts import MODEL
from loadtests.bench.tokens.answers import ORDER_HEADER, Api, Stream, stream, whole

_BEAT_S: Final = 0.001
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_END: Final = b"0\r\n\r\n"
_LABELS: Final = f'engine="0",model_name="{MODEL}"'
_METRICS: Final = "\n".join(
    f"{name}{{{_LABELS}}} 0.0"
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
    )
)
_MODELS: Final = orjson.dumps(
    {"object": "list", "data": [{"id": MODEL, "object": "model", "parent": None}]}
)
_stream = cache(stream)
_whole = cache(whole)


class Pacer:
    """Sends each stream its next token when it is due: one every so many beats, and the streams
    share the beats out among them."""

    def __init__(self) -> None:
        self._due: dict[int, deque[Connection]] = {}
        self._beat = 0
        self._offset = 0
        self._metronome = Metronome(time.monotonic(), _BEAT_S, self._tick)

    def add(self, connection: Connection) -> None:
        """Its first token comes within its pace."""
        self._offset += 1
        self._at(self._beat + 1 + self._offset % connection.pace_beats, connection)

    def _at(self, beat: int, connection: Connection) -> None:
        self._due.setdefault(beat, deque()).append(connection)

    def _tick(self, _: float) -> None:
        self._beat += 1
        for connection in self._due.pop(self._beat, ()):
            if connection.send_token():
                self._at(self._beat + connection.pace_beats, connection)


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._left = 0
        self._stream: Stream | None = None
        self.pace_beats = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._held += data
        head_end = self._held.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._held[:head_end].lower()
        size_bytes = int(_field(head, b"content-length") or 0)
        if len(self._held) < head_end + 4 + size_bytes:
            return
        body, self._held = self._held[head_end + 4 :], b""
        path = head.split(b" ", 2)[1].decode()
        order = _field(head, ORDER_HEADER)
        if order:
            pace_ms, size = map(int, order.split())
            self._answer(path, body, pace_ms, size)
        elif path == "/metrics":
            self._write(_answer("text/plain", _METRICS.encode() + b"\n"))
        else:
            self._write(_answer("application/json", _MODELS))

    def send_token(self) -> bool:
        """The next; False after the last, or when the client has left."""
        assert self._stream is not None
        if self._transport is None:
            return False
        self._left -= 1
        tokens = self._stream.tokens
        self._write(tokens[self._left % len(tokens)])
        if self._left == 0:
            self._write(self._stream.end + _END)
        return self._left > 0

    def _answer(self, path: str, body: bytes, pace_ms: int, size: int) -> None:
        if pace_ms == 0:
            self._write(_answer("application/json", _whole(size)))
            return
        self._stream = _stream(Api(path), with_usage=b'"include_usage":true' in body)
        self._left, self.pace_beats = size, pace_ms
        self._write(_HEAD + self._stream.opening)
        self._pacer.add(self)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _field(head: bytes, name: bytes) -> bytes:
    _, _, rest = head.partition(b"\n" + name + b":")
    return rest.split(b"\r", 1)[0].strip()


def _answer(kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def serve(count: int) -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    pacer = Pacer()
    ports = []
    for _ in range(count):
        server = await loop.create_server(lambda: Connection(pacer), "127.0.0.1", 0, backlog=1024)
        ports.append(server.sockets[0].getsockname()[1])
    print(orjson.dumps(ports).decode(), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        pass


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Replicas that send tokens one by one.")
    parser.add_argument("--replicas", type=int, default=1)
    uvloop.run(serve(int(parser.parse_args().replicas)))


if __name__ == "__main__":
    main()
