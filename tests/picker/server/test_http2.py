"""The framing by RFC 9113, against the `h2` library as client, and against what no client sends."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.errors
import h2.events
import h2.settings
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from picker.server.http2 import connection as connections
from picker.server.http2.call import STREAM_WINDOW, Call, Message, Receiver
from picker.server.http2.connection import Connection
from picker.server.http2.frames import PREFACE, ErrorCode, Status
from picker.server.http2.streams import MAX_CONCURRENT_STREAMS
from tests.picker.server.h2_client import Client, message

DATA, HEADER, PRIORITY, RST, SETTINGS, PROMISE, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x4, 0x8, 0x20
ACK = 0x1


@dataclass
class Echo:
    """Sends each message back, and ends with the client."""

    call: Call
    got: list[bytes] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def message(self, message: Message) -> None:
        self.got.append(bytes(message))
        self.call.send(bytes(message))

    def half_closed(self) -> None:
        self.ends.append("half-closed")
        self.call.finish()

    def cancelled(self) -> None:
        self.ends.append("cancelled")


class Echoes(list[Echo]):
    """All that were made."""

    def accept(self, call: Call) -> Echo:
        self.append(Echo(call))
        return self[-1]


@dataclass
class Silent(Echo):
    """Answers nothing by itself."""

    def message(self, message: Message) -> None:
        self.got.append(bytes(message))

    def half_closed(self) -> None:
        self.ends.append("half-closed")


class Silents(list[Silent]):
    def accept(self, call: Call) -> Silent:
        self.append(Silent(call))
        return self[-1]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def setting(name: int, value: int) -> bytes:
    return struct.pack(">HI", name, value)


HEAD = b"\x83\x86\x84"
OPENED = frame(HEADER, END_HEADERS, 1, HEAD)


@pytest.fixture
def echoes() -> Echoes:
    return Echoes()


@pytest.fixture
def client(echoes: Echoes) -> Client:
    made = Client(echoes.accept)
    made.pass_on()
    return made


# -- calls


@pytest.mark.parametrize("chunk", [1, 7, 9, 100, 1 << 20])
@pytest.mark.parametrize("messages", [[], [b""], [b"one"], [b"", b"two", b"x" * 40_000, b"3"]])
def test_calls_with_any_messages_in_pieces_of_any_size(chunk: int, messages: list[bytes]) -> None:
    echoes = Echoes()
    client = Client(echoes.accept, chunk=chunk)
    first = client.begin(*messages, end=True)
    other = client.begin(b"other", end=True)
    client.pass_on()
    for stream, sent in ((first, messages), (other, [b"other"])):
        got = client.streams[stream]
        assert got.messages == sent
        assert (got.headers[":status"], got.status, got.ended) == ("200", "0", True)
        assert got.headers["content-type"] == "application/grpc"
        assert got.reset is None
    assert [echo.ends for echo in echoes] == [["half-closed"]] * 2
    assert not client.server.calls


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_message_cut_anywhere_into_frames(client: Client, echoes: Echoes, cut: int) -> None:
    stream = client.begin()
    both = message(b"hello") + message(b"you")
    for start in range(0, len(both), cut):
        client.send(stream, both[start : start + cut])
        client.pass_on()
    client.h2.end_stream(stream)
    client.pass_on()
    assert client.streams[stream].messages == [b"hello", b"you"]


def begun(accept: Callable[[Call], Receiver], data: bytes = b"") -> Connection:
    """A connection that has got the client's first frames, and then this."""
    connection = Connection(accept, max_message=1 << 30)
    connection.receive(PREFACE + frame(SETTINGS, 0, 0) + data)
    return connection


def test_padding_and_priority_are_taken_off(client: Client, echoes: Echoes) -> None:
    stream = client.begin()
    client.h2.send_data(stream, message(b"a"), pad_length=200)
    client.h2.send_data(stream, b"", pad_length=0)
    client.pass_on()
    assert client.streams[stream].messages == [b"a"]
    head = b"\2" + bytes(5) + HEAD + b"\0\0"
    second = frame(HEADER, END_HEADERS | PADDED | WITH_PRIORITY, 3, head)
    begun(echoes.accept, second + frame(DATA, PADDED, 3, b"\1" + message(b"b") + b"\0"))
    assert [echo.got for echo in echoes] == [[b"a"], [b"b"]]


def test_headers_in_many_frames(echoes: Echoes) -> None:
    parts = [frame(CONTINUATION, 0, 1, b"x" * 100) for _ in range(5)]
    whole = [frame(HEADER, 0, 1, b"x"), *parts, frame(CONTINUATION, END_HEADERS, 1)]
    begun(echoes.accept, b"".join(whole) + frame(DATA, END_STREAM, 1, message(b"a")))
    assert [echo.got for echo in echoes] == [[b"a"]]


def test_the_clients_trailers_end_its_messages(client: Client, echoes: Echoes) -> None:
    stream = client.begin(b"a")
    client.h2.send_headers(stream, [("x", "y")], end_stream=True)
    client.pass_on()
    assert client.streams[stream].messages == [b"a"]
    assert echoes[0].ends == ["half-closed"]


def test_an_answer_before_the_client_ends(client: Client) -> None:
    silents = Silents()
    client = Client(silents.accept)
    stream = client.begin(b"a")
    client.pass_on()
    silents[0].call.send(b"b")
    silents[0].call.finish()
    client.pass_on()
    got = client.streams[stream]
    assert (got.messages, got.status, got.reset) == ([b"b"], "0", ErrorCode.NO_ERROR)
    # What was on its way is skipped.
    client.raw(
        frame(DATA, 0, 1, message(b"c")) + frame(HEADER, 5, 1, HEAD) + frame(RST, 0, 1, number(8))
    )
    assert client.closed is None
    assert silents[0].got == [b"a"]
    assert silents[0].ends == []


@pytest.mark.parametrize("rest", [b"", b"tail"])
def test_a_message_with_a_rest(rest: bytes) -> None:
    silents = Silents()
    client = Client(silents.accept)
    stream = client.begin(b"a")
    client.pass_on()
    silents[0].call.send(b"head", rest)
    silents[0].call.send(b"")
    silents[0].call.finish()
    client.pass_on()
    assert client.streams[stream].messages == [b"head" + rest, b""]


def test_long_messages_both_ways(client: Client) -> None:
    """Longer than every window."""
    sent = bytes(range(256)) * (STREAM_WINDOW // 250)
    streams = [client.begin(sent, b"short", end=True) for _ in range(2)]
    client.pass_on()
    for stream in streams:
        assert client.streams[stream].messages == [sent, b"short"]


@pytest.mark.parametrize(
    ("data", "limit", "status", "reason"),
    [
        (b"\1" + number(3) + b"abc", 10, Status.UNIMPLEMENTED, "compressed"),
        (message(b"x" * 11), 10, Status.RESOURCE_EXHAUSTED, "too long"),
        (b"\0" + number(0xFFFFFFFF), 10, Status.RESOURCE_EXHAUSTED, "too long"),
        (message(b"abc")[:-1], 10, Status.INTERNAL, "cut off"),
        (b"\0\0", 10, Status.INTERNAL, "cut off"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, limit: int, status: int, reason: str) -> None:
    echoes = Echoes()
    client = Client(echoes.accept, max_message=limit)
    streams = [client.begin(), client.begin(b"before")]
    for stream in streams:
        client.pass_on()
        client.send(stream, data, end=True)
    client.pass_on()
    for stream in streams:
        got = client.streams[stream]
        assert got.status == str(int(status))
        assert reason in {**got.headers, **got.trailers}["grpc-message"]
    assert client.streams[streams[0]].trailers == {}, "trailers only"
    assert [(echo.got, echo.ends) for echo in echoes] == [([b"before"], ["cancelled"])]
    assert not client.server.calls


def test_a_reason_is_quoted(client: Client) -> None:
    silents = Silents()
    client = Client(silents.accept)
    stream = client.begin(b"a")
    client.pass_on()
    silents[0].call.finish(Status.INTERNAL, "100 % wrong\r\n" + "é" * 200)
    client.pass_on()
    text = client.streams[stream].headers["grpc-message"]
    assert text.startswith("100 %25 wrong%0D%0A%C3%A9")


def test_a_cancelled_call(client: Client) -> None:
    silents = Silents()
    client = Client(silents.accept)
    streams = [client.begin(b"a"), client.begin(b"b")]
    client.pass_on()
    client.h2.reset_stream(streams[0], h2.errors.ErrorCodes.CANCEL)
    client.pass_on()
    assert [one.ends for one in silents] == [["cancelled"], []]
    for one in silents:
        one.call.send(b"late")
        one.call.finish()
        one.call.cancel()
    client.pass_on()
    assert client.streams[streams[0]].data == b""
    assert client.streams[streams[1]].messages == [b"late"]


def test_a_call_that_is_cancelled_in_the_same_piece_costs_nothing(
    client: Client, echoes: Echoes
) -> None:
    flood = b"".join(
        frame(HEADER, END_HEADERS, n, HEAD)
        + frame(DATA, 0, n, message(b"a"))
        + frame(RST, 0, n, number(8))
        for n in range(1, 20_001, 2)
    )
    client.raw(flood)
    assert not echoes
    assert not client.server.calls
    assert client.server.output(1) == []


# -- windows


def windowed(initial: int) -> tuple[Client, Silents]:
    """A client that takes so much on a stream, and gives nothing back by itself."""
    silents = Silents()
    client = Client(silents.accept)
    client.takes = False
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: initial})
    client.pass_on()
    return client, silents


def test_what_waits_for_the_streams_window() -> None:
    client, silents = windowed(10)
    stream = client.begin(b"a")
    client.pass_on()
    call, whole = silents[0].call, message(b"x" * 50) + message(b"yz")
    call.send(b"x" * 20, b"x" * 30)
    call.send(b"yz")
    call.finish()
    client.pass_on()
    got = client.streams[stream].data
    assert len(got) == 10
    assert not call.is_sent
    client.h2.increment_flow_control_window(3, stream)
    client.pass_on()
    assert len(got) == 13
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 20})
    client.pass_on()
    assert len(got) == 23
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.pass_on()  # below zero now
    client.h2.increment_flow_control_window(15, stream)
    client.pass_on()
    assert len(got) == 23
    client.h2.increment_flow_control_window(1_000, stream)
    client.pass_on()
    assert bytes(got) == whole
    assert call.is_sent
    assert client.streams[stream].status == "0"


def test_what_waits_for_the_connections_window() -> None:
    client, silents = windowed(1 << 20)
    streams = [client.begin(b"a") for _ in range(3)]
    client.pass_on()
    for one in silents:
        one.call.send(b"x" * 100_000)
        one.call.finish()
    client.pass_on()
    sizes = [len(client.streams[stream].data) for stream in streams]
    assert sum(sizes) == 65_535
    client.h2.increment_flow_control_window(200_000)
    client.pass_on()
    assert sum(len(client.streams[stream].data) for stream in streams) == 265_535
    client.h2.increment_flow_control_window(200_000)
    client.pass_on()
    assert [len(client.streams[stream].messages[0]) for stream in streams] == [100_000] * 3


def test_long_messages_take_turns() -> None:
    client, silents = windowed((1 << 31) - 1)
    client.h2.increment_flow_control_window(1 << 30)
    streams = [client.begin(b"a") for _ in range(2)]
    client.pass_on()
    for one in silents:
        one.call.send(b"x" * (1 << 20))
    for _ in range(8):
        client.h2.receive_data(b"".join(client.server.output(128 << 10)))
    silents[0].call.cancel()
    got = [silents[n].call.unsent for n in (0, 1)]
    assert sum(map(len, got[1])) < (1 << 20) - 400_000
    client.pass_on()
    assert streams


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def test_the_connections_window_never_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of it, all DATA is given back."""
    monkeypatch.setattr(connections, "CONNECTION_WINDOW", 200_000)
    client = Client(Echoes().accept, max_message=10)
    client.pass_on()
    for n in range(1, 101, 2):
        padded = frame(DATA, PADDED, n, b"\xff" + bytes(16_000))
        head = frame(HEADER, END_HEADERS, n, HEAD)
        client.server.receive(head + padded + frame(RST, 0, n, number(8)) + padded)
        assert not client.server.is_over
    given = sum(
        int.from_bytes(payload, "big")
        for kind, payload in frames_of(b"".join(client.server.output(1)))
        if kind == WINDOW
    )
    assert 100 * 16_001 - given < 100_000


# -- what breaks the protocol

CONNECTION_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    "a frame that is too long": (
        frame(DATA, 0, 1, bytes(16_385)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "DATA of no stream": (frame(DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA of an idle stream": (frame(DATA, 0, 5, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA of our stream": (frame(DATA, 0, 2, b"x"), ErrorCode.PROTOCOL_ERROR),
    "too much padding": (OPENED + frame(DATA, PADDED, 1, b"\5xxxx"), ErrorCode.PROTOCOL_ERROR),
    "no padding": (OPENED + frame(DATA, PADDED, 1), ErrorCode.FRAME_SIZE_ERROR),
    "HEADERS of no stream": (frame(HEADER, END_HEADERS, 0, HEAD), ErrorCode.PROTOCOL_ERROR),
    "HEADERS of our stream": (frame(HEADER, END_HEADERS, 2, HEAD), ErrorCode.PROTOCOL_ERROR),
    "HEADERS of a lower stream": (
        frame(HEADER, END_HEADERS, 5, HEAD) + frame(HEADER, END_HEADERS, 3, HEAD),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "HEADERS of a stream that has ended": (
        OPENED + frame(RST, 0, 1, number(8)) + OPENED,
        ErrorCode.PROTOCOL_ERROR,
    ),
    "HEADERS with too much padding": (
        frame(HEADER, END_HEADERS | PADDED, 1, b"\5" + HEAD),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "HEADERS without their priority": (
        frame(HEADER, END_HEADERS | WITH_PRIORITY, 1, b"abc"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "another frame in the headers": (
        frame(HEADER, 0, 1, HEAD) + frame(PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "another stream in the headers": (
        frame(HEADER, 0, 1, HEAD) + frame(CONTINUATION, END_HEADERS, 3),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "an unknown frame in the headers": (
        frame(HEADER, 0, 1, HEAD) + frame(99, 0, 1),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of nothing": (
        OPENED + frame(CONTINUATION, END_HEADERS, 1),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "endless headers": (
        frame(HEADER, 0, 1) + frame(CONTINUATION, 0, 1) * 10_000,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "long headers": (
        frame(HEADER, 0, 1) + frame(CONTINUATION, 0, 1, bytes(16_000)) * 5,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "PRIORITY of no stream": (frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of no stream": (frame(RST, 0, 0, number(8)), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of an idle stream": (frame(RST, 0, 1, number(8)), ErrorCode.PROTOCOL_ERROR),
    "a short RST_STREAM": (OPENED + frame(RST, 0, 1, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS of a stream": (frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "a short SETTINGS": (frame(SETTINGS, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "an answer to SETTINGS that says something": (
        frame(SETTINGS, ACK, 0, setting(1, 0)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "too large a window": (
        frame(SETTINGS, 0, 0, setting(4, 1 << 31)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a window that becomes too large": (
        OPENED
        + frame(WINDOW, 0, 1, number((1 << 31) - 1 - 65_535))
        + frame(SETTINGS, 0, 0, setting(4, 65_536)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "too small frames": (frame(SETTINGS, 0, 0, setting(5, 16_383)), ErrorCode.PROTOCOL_ERROR),
    "too large frames": (frame(SETTINGS, 0, 0, setting(5, 1 << 24)), ErrorCode.PROTOCOL_ERROR),
    "half a push": (frame(SETTINGS, 0, 0, setting(2, 2)), ErrorCode.PROTOCOL_ERROR),
    "PUSH_PROMISE": (
        OPENED + frame(PROMISE, END_HEADERS, 1, number(2) + HEAD),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "PING of a stream": (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a short PING": (frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY of a stream": (frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a short GOAWAY": (frame(GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "a short WINDOW_UPDATE": (frame(WINDOW, 0, 0, b"x"), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE by 0": (frame(WINDOW, 0, 0, number(0)), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE by too much": (
        frame(WINDOW, 0, 0, number((1 << 31) - 1)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "WINDOW_UPDATE of an idle stream": (
        frame(WINDOW, 0, 1, number(1)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "too many SETTINGS at once": (frame(SETTINGS, 0, 0) * 1000, ErrorCode.ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("broken", CONNECTION_ERRORS)
def test_an_error_of_the_connection_ends_it_and_every_call(broken: str) -> None:
    silents = Silents()
    connection = Connection(silents.accept, max_message=1 << 30)
    other = frame(HEADER, END_HEADERS, 7, HEAD) + frame(DATA, 0, 7, message(b"other"))
    data, code = CONNECTION_ERRORS[broken]
    # The last whole call of the connection has a higher number than those of the table.
    connection.receive(PREFACE + frame(SETTINGS, 0, 0))
    connection.receive(data)
    connection.receive(other)
    *_, (kind, payload) = frames_of(b"".join(connection.output(1 << 20)))
    assert kind == GOAWAY
    assert int.from_bytes(payload[4:8], "big") == code
    assert connection.is_over
    assert not connection.calls
    assert all(one.ends == ["cancelled"] for one in silents)
    assert not any(b"other" in one.got for one in silents)


@pytest.mark.parametrize(
    "ends",
    [frame(RST, 0, 1, number(8)), frame(DATA, 0, 1, b"\1\0\0\0\0"), frame(WINDOW, 0, 1, number(0))],
    ids=["reset", "refused", "broken"],
)
def test_a_call_that_ended_just_before_the_connection_hears_of_it(ends: bytes) -> None:
    silents = Silents()
    connection = Connection(silents.accept, max_message=1 << 30)
    connection.receive(PREFACE + frame(SETTINGS, 0, 0) + OPENED + frame(DATA, 0, 1, message(b"a")))
    connection.receive(ends + frame(PING, 0, 1, bytes(8)))
    assert [one.ends for one in silents] == [["cancelled"]]


@pytest.mark.parametrize(
    "came", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03\1"]
)
def test_who_speaks_something_else(came: bytes) -> None:
    connection = Connection(Echoes().accept, max_message=10)
    for byte in came:
        connection.receive(bytes((byte,)))
    assert connection.is_over


@pytest.mark.parametrize(
    "first", [OPENED, frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK, 0), frame(99, 0, 0)]
)
def test_settings_come_first(first: bytes) -> None:
    connection = Connection(Echoes().accept, max_message=10)
    connection.receive(PREFACE + first)
    assert connection.is_over


STREAM_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    "DATA after its end": (
        OPENED + frame(DATA, END_STREAM, 1) + frame(DATA, 0, 1, message(b"x")),
        ErrorCode.STREAM_CLOSED,
    ),
    "DATA after RST_STREAM": (
        OPENED + frame(RST, 0, 1, number(8)) + frame(DATA, 0, 1, message(b"x")),
        ErrorCode.STREAM_CLOSED,
    ),
    "HEADERS after its end": (
        OPENED + frame(DATA, END_STREAM, 1) + OPENED,
        ErrorCode.STREAM_CLOSED,
    ),
    "trailers that do not end it": (OPENED + OPENED, ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE by 0": (
        OPENED + frame(WINDOW, 0, 1, number(0)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "WINDOW_UPDATE by too much": (
        OPENED + frame(WINDOW, 0, 1, number((1 << 31) - 1)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a short PRIORITY": (OPENED + frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("broken", STREAM_ERRORS)
def test_an_error_of_a_stream_ends_that_alone(broken: str) -> None:
    silents = Silents()
    data, code = STREAM_ERRORS[broken]
    connection = begun(silents.accept, data)
    assert (RST, number(code)) in frames_of(b"".join(connection.output(1)))
    # What else was on its way is skipped, and the next call is served.
    connection.receive(
        frame(DATA, 0, 1, b"x") + frame(WINDOW, 0, 1, number(1)) + frame(RST, 0, 1, number(8))
    )
    connection.receive(frame(HEADER, END_HEADERS, 3, HEAD) + frame(DATA, 0, 3, message(b"next")))
    assert not connection.output(1)
    assert not connection.is_over
    assert [one.got for one in silents if not one.ends] == [[b"next"]]


@pytest.mark.parametrize(
    "skipped",
    [
        frame(99, 0xFF, 0, b"x"),
        frame(10, 0, 77, b"x" * 1000),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(PRIORITY, 0, 99, bytes(5)),
        frame(PRIORITY, 0, 99, bytes(3)),
        frame(GOAWAY, 0, 0, bytes(8) + b"bye"),
        frame(SETTINGS, ACK, 0),
        frame(SETTINGS, 0, 0, setting(77, 5) + setting(8, 1) + setting(2, 1)),
        frame(PING, ACK, 0, bytes(8)),
        frame(WINDOW, 0, 0, number(1 << 31 | 5)),
    ],
)
def test_what_says_nothing_to_us_is_skipped(client: Client, skipped: bytes) -> None:
    stream = client.begin(b"a")
    client.raw(skipped)
    client.h2.end_stream(stream)
    client.pass_on()
    assert client.streams[stream].messages == [b"a"]
    assert client.closed is None


def test_ping_and_settings_are_answered(client: Client) -> None:
    client.h2.ping(b"12345678")
    client.h2.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: 20_000})
    client.pass_on()
    kinds = [type(event) for event in client.events]
    assert h2.events.PingAckReceived in kinds
    assert h2.events.SettingsAcknowledged in kinds


# -- how many, and the end


def test_more_calls_than_are_taken_at_once() -> None:
    silents = Silents()
    heads = b"".join(
        frame(HEADER, END_HEADERS, 2 * n + 1, HEAD) for n in range(MAX_CONCURRENT_STREAMS + 5)
    )
    # Who does not know our settings yet may send more.
    assert len(begun(silents.accept, heads).calls) == MAX_CONCURRENT_STREAMS + 5
    connection = begun(silents.accept, frame(SETTINGS, ACK, 0) + heads)
    refused = (RST, number(ErrorCode.REFUSED_STREAM))
    assert frames_of(b"".join(connection.output(1))).count(refused) == 5
    assert len(connection.calls) == MAX_CONCURRENT_STREAMS
    # Such a call may be on its way as a whole.
    connection.receive(frame(DATA, END_STREAM, 2 * MAX_CONCURRENT_STREAMS + 1, message(b"x")))
    assert not connection.output(1)


def test_what_runs_is_finished_after_goodbye() -> None:
    silents = Silents()
    client = Client(silents.accept)
    running = client.begin(b"a")
    client.pass_on()
    client.server.go_away()
    late = frame(HEADER, END_HEADERS, 3, HEAD) + frame(DATA, 0, 3, message(b"late"))
    client.server.receive(late)
    assert not client.server.is_over
    silents[0].call.send(b"b")
    silents[0].call.finish()
    assert client.server.is_over
    out = b"".join(client.server.output(1))
    assert (RST, number(ErrorCode.REFUSED_STREAM)) in frames_of(out)
    client.h2.receive_data(out[: out.index(number(3)) - 5])
    goodbye = frames_of(out)[0]
    assert goodbye == (GOAWAY, number(running) + number(ErrorCode.NO_ERROR))
    assert [one.got for one in silents] == [[b"a"]]


def test_what_has_crossed_the_announcement_of_the_end_is_taken() -> None:
    silents = Silents()
    connection = begun(silents.accept)
    connection.announce_end()
    assert (GOAWAY, number((1 << 31) - 1) + number(0)) in frames_of(b"".join(connection.output(1)))
    connection.receive(OPENED + frame(DATA, 0, 1, message(b"a")))
    connection.go_away()
    assert frames_of(b"".join(connection.output(1))) == [(GOAWAY, number(1) + number(0))]
    assert [one.got for one in silents] == [[b"a"]]
    assert not connection.is_over
    silents[0].call.finish()
    assert connection.is_over


def test_a_lost_connection_ends_all_calls() -> None:
    silents = Silents()
    client = Client(silents.accept)
    for _ in range(3):
        client.begin(b"a")
    client.begin()  # nobody has heard of this one
    client.pass_on()
    client.server.lost()
    assert [one.ends for one in silents] == [["cancelled"]] * 3
    silents[0].call.send(b"x")
    assert client.server.output(1) == []
    client.server.receive(b"x")


# -- any bytes

_FRAMES = st.builds(
    frame,
    st.integers(0, 10),
    st.integers(0, 255) | st.sampled_from([0, 1, 4, 5]),
    st.sampled_from([0, 1, 1, 3, 3, 5, 2, (1 << 31) - 1, (1 << 31) | 1]),
    st.binary(max_size=30)
    | st.builds(message, st.binary(max_size=20))
    | st.builds(number, st.integers(0, (1 << 32) - 1) | st.integers(0, 100))
    | st.builds(setting, st.integers(0, 8), st.integers(0, 100) | st.just((1 << 31) - 1)),
)
_SESSION = (
    PREFACE
    + frame(SETTINGS, 0, 0, setting(4, 40))
    + OPENED
    + frame(DATA, 0, 1, message(b"one" * 20) + message(b"two"))
    + frame(HEADER, END_HEADERS | END_STREAM, 3, HEAD)
    + frame(DATA, END_STREAM, 1)
    + frame(WINDOW, 0, 1, number(500))
    + frame(SETTINGS, 0, 0, setting(4, 0))
    + frame(HEADER, 0, 5, HEAD)
    + frame(CONTINUATION, END_HEADERS, 5, HEAD)
    + frame(DATA, 0, 5, message(b"three"))
    + frame(RST, 0, 5, number(8))
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A good session with some bytes changed, left out or put in."""
    data = bytearray(_SESSION)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(len(PREFACE), len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at : at + draw(st.integers(1, 12))]
            case 2:
                data[at:at] = draw(st.binary(max_size=12))
            case _:
                data[at:at] = draw(_FRAMES)
        if len(data) <= len(PREFACE):
            break
    return bytes(data)


_ANY = (
    _mutated()
    | st.lists(_FRAMES, max_size=12).map(
        lambda some: PREFACE + frame(SETTINGS, 0, 0) + b"".join(some)
    )
    | st.binary(max_size=200)
)


def played(data: bytes, cuts: list[int]) -> tuple[list[list[bytes]], bytes]:
    """What the receivers got of it, and what was answered, in pieces cut there."""
    echoes = Echoes()
    connection = Connection(echoes.accept, max_message=1 << 20)
    at, out = 0, b""
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        connection.receive(data[at:cut])
        at = cut
        out += b"".join(connection.output(1 << 20))
        assert len(connection.calls) <= 10
    open_calls = list(connection.calls)
    connection.lost()
    assert not connection.calls
    for call in open_calls:
        assert not call.is_open
    for echo in echoes:
        assert echo.ends.count("cancelled") <= 1
        assert echo.ends[-1:] in (["cancelled"], ["half-closed"])
    frames_of(out)
    return [echo.got for echo in echoes], out


@settings(max_examples=400, derandomize=True, deadline=None)
@given(_ANY, st.lists(st.integers(0, 2_000), max_size=6))
@example(_SESSION, [])
def test_any_bytes_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    played(data, cuts)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=12))
def test_how_a_session_is_cut_does_not_matter(cuts: list[int]) -> None:
    session = _SESSION[: -len(frame(RST, 0, 5, number(8)))]
    assert sorted(played(session, cuts)[0]) == sorted(played(session, [])[0])
