"""A gRPC client by the `h2` library, without I/O, and the connection of ours that it talks to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from picker.server.http2.call import Call, Receiver
from picker.server.http2.connection import Connection

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/service/method"),
    (":authority", "picker"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


@dataclass
class Stream:
    """What the client has got on a stream."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def messages(self) -> list[bytes]:
        """Those that are complete; nothing else may have come."""
        found, rest = [], bytes(self.data)
        while rest:
            assert rest[0] == 0
            size = int.from_bytes(rest[1:5], "big")
            assert len(rest) >= 5 + size, "a message is cut off"
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found

    @property
    def status(self) -> str:
        """grpc-status."""
        assert self.ended
        return {**self.headers, **self.trailers}["grpc-status"]


def message(data: bytes) -> bytes:
    """With gRPC's prefix."""
    return b"\0" + len(data).to_bytes(4, "big") + data


class Client:
    """Talks to a connection in memory. ``chunk``: sizes of the pieces in which bytes pass."""

    def __init__(
        self,
        accept: Callable[[Call], Receiver],
        *,
        max_message: int = 1 << 30,
        chunk: int = 1 << 20,
    ) -> None:
        self.server = Connection(accept, max_message=max_message)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.chunk = chunk
        self.streams: dict[int, Stream] = {}
        self.events: list[h2.events.Event] = []
        self.takes = True
        """Gives windows back for what has come."""

    @property
    def closed(self) -> h2.events.ConnectionTerminated | None:
        """The server's GOAWAY."""
        found = [one for one in self.events if isinstance(one, h2.events.ConnectionTerminated)]
        return found[-1] if found else None

    def begin(self, *messages: bytes, end: bool = False) -> int:
        """Open a stream, with these messages in frames of their own."""
        stream = self.h2.get_next_available_stream_id()
        self.streams[stream] = Stream()
        self.h2.send_headers(stream, HEADERS)
        for one in messages:
            self.send(stream, message(one))
        if end:
            self.h2.end_stream(stream)
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """DATA, in as many frames and turns as it takes."""
        while data:
            size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if size == 0:
                self.pass_on()
                continue
            self.h2.send_data(stream, data[:size])
            data = data[size:]
        if end:
            self.h2.end_stream(stream)

    def raw(self, data: bytes) -> None:
        """Bytes that h2 would not send, after all that it would."""
        self.pass_on()
        self.server.receive(data)
        self.pass_on()

    def pass_on(self) -> None:
        """Until neither side has anything to say."""
        while True:
            sent = self.h2.data_to_send()
            for start in range(0, len(sent), self.chunk):
                self.server.receive(sent[start : start + self.chunk])
            got = b"".join(self.server.output(1 << 18))
            if not sent and not got:
                return
            for start in range(0, len(got), self.chunk):
                for event in self.h2.receive_data(got[start : start + self.chunk]):
                    self._take(event)

    def _take(self, event: h2.events.Event) -> None:
        self.events.append(event)
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        match event:
            case h2.events.ResponseReceived() if stream is not None:
                stream.headers = _plain(event.headers)
            case h2.events.TrailersReceived() if stream is not None:
                stream.trailers = _plain(event.headers)
            case h2.events.DataReceived() if stream is not None:
                stream.data += event.data
                if self.takes and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded() if stream is not None:
                stream.ended = True
            case h2.events.StreamReset() if stream is not None:
                stream.reset = event.error_code
            case _:
                pass


def _plain(headers: object) -> dict[str, str]:
    plain = {}
    for name, value in headers or ():  # type: ignore[attr-defined]
        plain[_text(name)] = _text(value)
    return plain


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
