"""A client's connection: raw HTTP/1.1, one request at a time."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

from loadtests.bench.result import Result


class Client(Protocol):
    """Whose requests a connection sends."""

    def answered(self, connection: Connection, now_s: float) -> None:
        """The last byte of an answer with status 200 has come."""

    def failed(self, connection: Connection, reason: str) -> None:
        """Another status has come, or the connection was closed before the answer's end."""


class Connection(asyncio.Protocol):
    """Times count from the time at which a request was due."""

    def __init__(self, client: Client, result: Result) -> None:
        """Events and pieces of streams are counted in ``result``."""
        self._client = client
        self._result = result
        self._transport: asyncio.Transport | None = None
        self._due_s = 0.0
        self._busy = False
        self._head = b""
        self._in_body = False
        self._missing_bytes = 0
        self._chunked = False
        self._end = b""
        self._status = b""
        self.latency_s = 0.0
        """Of the last answer, to its last byte."""
        self.first_byte_s: float | None = None
        """Of the last answer, to the first byte of its body; None unless it is a stream."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._busy:
            self._busy = False
            self._client.failed(self, "connection closed")

    @property
    def open(self) -> bool:
        return self._transport is not None

    def close(self) -> None:
        """At once."""
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    def send(self, request: bytes, due_s: float) -> None:
        """Send a request that was due at ``due_s`` on time.monotonic()."""
        assert self._transport is not None
        self._due_s, self._busy = due_s, True
        self._head, self._in_body, self._end, self.first_byte_s = b"", False, b"", None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        if not self._in_body:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            data = self._head[end + 4 :]
            self._begin_body(self._head[: end + 2].lower())
        if self._chunked:
            if not data:
                return
            self._result.reads += 1
            self._result.events += _events(self._end, data)
            if self.first_byte_s is None:
                self.first_byte_s = now_s - self._due_s
            self._end = (self._end + data)[-5:] if len(data) < 5 else data[-5:]
            over = self._end == b"0\r\n\r\n"
        else:
            self._missing_bytes -= len(data)
            over = self._missing_bytes <= 0
        if over:
            self._finish(now_s)

    def _begin_body(self, head: bytes) -> None:
        self._status = head[9:12]
        _, found, rest = head.partition(b"\r\ncontent-length: ")
        self._chunked = not found
        self._missing_bytes = int(rest.split(b"\r", 1)[0]) if found else 0
        self._in_body = True

    def _finish(self, now_s: float) -> None:
        self._busy = False
        if self._status != b"200":
            self._client.failed(self, f"status {self._status.decode()}")
            return
        self.latency_s = now_s - self._due_s
        self._client.answered(self, now_s)


def _events(before: bytes, data: bytes) -> int:
    cut = before.endswith(b"\n") and data.startswith(b"\n") and not before.endswith(b"\r\n")
    return data.count(b"\n\n") + cut
