"""Reads KV events off the wire, knowing nothing but what vLLM says about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import zmq

PATIENCE_MS = 20_000
END = b"\xff" * 8


class Batch(NamedTuple):
    """One message."""

    topic: bytes
    number: int
    payload: bytes

    @property
    def content(self) -> list[Any]:
        """[ts, events, data_parallel_rank]."""
        decoded: list[Any] = msgspec.msgpack.decode(self.payload)
        return decoded

    @property
    def events(self) -> list[dict[str, Any]]:
        """As maps with a `type`."""
        found: list[dict[str, Any]] = self.content[1]
        return found


class Subscriber:
    """A SUB socket; `listening` makes one and closes it."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def take(self) -> Batch:
        """The next batch; AssertionError when none comes."""
        assert self._socket.poll(PATIENCE_MS), "no KV events came"
        topic, number, payload = self._socket.recv_multipart()
        return Batch(topic, int.from_bytes(number, "big"), payload)

    def waiting(self, timeout_ms: int = 0) -> bool:
        """Whether a batch is there."""
        return bool(self._socket.poll(timeout_ms))


@contextlib.contextmanager
def listening(
    endpoint: str, *, topic: str = "", bind: bool = False, keeps: int | None = None
) -> Iterator[Subscriber]:
    """``keeps``: batches (and a little more) that it holds before the publisher must."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        if keeps is not None:
            socket.setsockopt(zmq.RCVHWM, keeps)
            socket.setsockopt(zmq.RCVBUF, 4096)
        socket.subscribe(topic)
        if bind:
            socket.bind(endpoint)
        else:
            socket.connect(endpoint)
        yield Subscriber(socket)


def replay(endpoint: str, start: int = 0) -> list[Batch]:
    """All batches that are held from this number on; AssertionError when it does not end."""
    found: list[Batch] = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(endpoint)
        socket.send_multipart((b"", start.to_bytes(8, "big")))
        while True:
            assert socket.poll(PATIENCE_MS), "the replay does not end"
            empty, topic, number, payload = socket.recv_multipart()
            assert empty == b""
            if number == END:
                assert (topic, payload) == (b"", b"")
                return found
            found.append(Batch(topic, int.from_bytes(number, "big"), payload))
