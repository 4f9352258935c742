"""Publishes batches over ZeroMQ as vLLM 0.32 publishes KV events, and replays the latest ones.

PUB sends [topic, sequence number, payload]. A client of the ROUTER sends a sequence number (after
the empty frame that REQ adds). It gets [topic, sequence number, payload] for each batch from that
number on that is still kept, and then an end mark: the same frames with an empty topic, number -1
and an empty payload. Numbers are 8 bytes, big-endian, and start at 0 with every publisher. As with
vLLM, the ROUTER has ZeroMQ's own limit of 1000 messages: a client that asks for more and reads
slowly loses some of them, and must ask again from its gap.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from dataclasses import dataclass

import msgspec
import zmq

_log = logging.getLogger(__name__)

_SEQUENCE_BYTES = 8
_END = (-1).to_bytes(_SEQUENCE_BYTES, "big", signed=True)
_WAKE = "inproc://wake"
_HIGHEST_PORT = 65535


class EndpointError(Exception):
    """An endpoint cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class PublisherOptions:
    """vLLM's names and defaults (its `--kv-events-config`)."""

    endpoint: str = "tcp://*:5557"
    """Listened on if it has a ``*`` or ``::`` or is ipc://, else connected to. Port 0: any."""
    replay_endpoint: str | None = None
    """Always listened on."""
    topic: str = ""
    buffer_steps: int = 10_000
    """Batches that are kept for replay."""
    hwm: int = 100_000
    """Batches that may wait for one slow subscriber; it does not get further ones."""
    max_queue_size: int = 100_000
    """Batches that may wait to be sent; further ones are dropped, where vLLM would wait."""


class Publisher:
    """A thread with the sockets. `publish` never blocks; what is lost leaves a gap in the numbers.

    ``host`` replaces a ``*``. Raises EndpointError.
    """

    def __init__(self, options: PublisherOptions, *, host: str = "*") -> None:
        self.dropped_batches = 0
        """Batches that found the queue full, or could not be encoded. What a slow subscriber loses
        is not known here."""
        self._topic = options.topic.encode()
        self._queue: queue.Queue[tuple[int, object]] = queue.Queue(options.max_queue_size)
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=options.buffer_steps)
        self._next = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._context = zmq.Context()
        self._replay: zmq.Socket[bytes] | None = None
        try:
            self._pub = self._context.socket(zmq.PUB)
            self._pub.set_hwm(options.hwm)
            self.endpoint = _open(self._pub, options.endpoint, host, listen=False)
            """The address for subscribers."""
            self.replay_endpoint: str | None = None
            if options.replay_endpoint is not None:
                self._replay = self._context.socket(zmq.ROUTER)
                self.replay_endpoint = _open(
                    self._replay, options.replay_endpoint, host, listen=True
                )
        except EndpointError:
            self._context.destroy(linger=0)
            raise
        self._woken = self._context.socket(zmq.PAIR)
        self._woken.bind(_WAKE)
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.connect(_WAKE)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="kv-events", daemon=True)
        self._thread.start()

    def publish(self, batch: object) -> None:
        """Send a batch soon; it is encoded later and must not change. Call from one thread."""
        number, self._next = self._next, self._next + 1
        try:
            self._queue.put_nowait((number, batch))
        except queue.Full:
            if not self.dropped_batches:
                _log.warning("KV events: the queue is full, batches are dropped")
            self.dropped_batches += 1
        self._rouse()

    def close(self) -> None:
        """Send what waits, stop the thread and close the sockets. Calling it again has no effect.

        As with vLLM, what has not left the process by then may be lost.
        """
        if self._closing:
            return
        self._closing = True
        self._rouse()
        self._thread.join()
        self._context.destroy(linger=0)

    def _rouse(self) -> None:
        with contextlib.suppress(zmq.Again):  # enough calls are waiting already
            self._wake.send(b"", zmq.NOBLOCK)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._woken, zmq.POLLIN)
        if self._replay is not None:
            poller.register(self._replay, zmq.POLLIN)
        while not self._closing:
            ready = dict(poller.poll())
            if self._woken in ready:
                self._woken.recv()
                self._send_waiting()
            if self._replay is not None and self._replay in ready:
                self._answer(self._replay)
        self._send_waiting()

    def _send_waiting(self) -> None:
        while True:
            try:
                sequence, batch = self._queue.get_nowait()
            except queue.Empty:
                return
            number = sequence.to_bytes(_SEQUENCE_BYTES, "big")
            try:
                payload = self._encoder.encode(batch)
            except (TypeError, ValueError, OverflowError):
                self.dropped_batches += 1
                _log.exception("KV events: batch %d cannot be encoded and is dropped", sequence)
                continue
            self._pub.send_multipart((self._topic, number, payload))
            self._buffer.append((number, payload))

    def _answer(self, replay: zmq.Socket[bytes]) -> None:
        frames = replay.recv_multipart()
        if len(frames) != 3:
            _log.warning("KV events: a replay request has %d frames, not 3", len(frames))
            return
        client, _, wanted = frames
        first = int.from_bytes(wanted, "big")
        for number, payload in self._buffer:
            if int.from_bytes(number, "big") >= first:
                replay.send_multipart((client, b"", self._topic, number, payload))
        replay.send_multipart((client, b"", b"", _END, b""))


def _open(socket: zmq.Socket[bytes], endpoint: str, host: str, *, listen: bool) -> str:
    """Listen or connect. Returns the endpoint with its real port. Raises EndpointError."""
    wild = "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))
    port = endpoint.rpartition(":")[2]
    if port.isdigit() and int(port) > _HIGHEST_PORT:  # ZeroMQ would silently take another one
        raise EndpointError(f"KV events endpoint {endpoint}: ports are 0 to {_HIGHEST_PORT}")
    address = endpoint.replace("*", f"[{host}]" if ":" in host else host, 1)
    try:
        if "[" in address:
            socket.setsockopt(zmq.IPV6, 1)
        if listen or wild:
            socket.bind(address)
            return socket.getsockopt_string(zmq.LAST_ENDPOINT)
        socket.connect(address)
    except zmq.ZMQError as error:
        raise EndpointError(f"KV events endpoint {endpoint}: {error.strerror}") from error
    return address
