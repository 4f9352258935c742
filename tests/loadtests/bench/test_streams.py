"""Streams that are held: what counts as whole, and when each event came."""

import pytest

from loadtests.bench.streams import read_stream
from loadtests.bench.upstream import token_text

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def event(number: int) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (
        token_text(number).encode()
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_each_token_came_with_the_last_byte_of_its_event() -> None:
    cut = len(event(1)) - 1
    pieces = [
        (1.0, HEAD + chunk(b": comment\n\n" + event(0))),
        (2.0, chunk(event(1)[:cut])),
        (3.0, chunk(event(1)[cut:] + event(2))[:-9]),
        (4.0, chunk(event(1)[cut:] + event(2))[-9:] + chunk(DONE) + END),
    ]
    assert read_stream(pieces, 3) == ([1.0, 3.0, 4.0], "")


def test_a_stream_is_read_alike_wherever_it_is_cut() -> None:
    raw = HEAD + chunk(event(0)) + chunk(event(1) + event(2)) + chunk(DONE) + END
    for cut in range(1, len(raw)):
        arrivals_s, problem = read_stream([(1.0, raw[:cut]), (2.0, raw[cut:])], 3)
        assert (len(arrivals_s), problem) == (3, "")
        assert arrivals_s == sorted(arrivals_s)


@pytest.mark.parametrize(
    ("events", "good"),
    [
        ([event(0), event(2), event(3)], 1),  # lost
        ([event(0), event(1), event(1)], 2),  # twice
        ([event(1), event(0), event(2)], 0),  # out of order
        ([event(0), event(1), event(2), event(3)], 3),  # too many
        ([event(0), event(1)], 2),  # too few
    ],
)
def test_a_stream_with_another_event_than_was_sent_is_not_whole(
    events: list[bytes], good: int
) -> None:
    raw = HEAD + b"".join(chunk(each) for each in events) + chunk(DONE) + END
    arrivals_s, problem = read_stream([(1.0, raw)], 3)
    assert (len(arrivals_s), problem) == (good, "an event is missing or changed")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "no answer"),
        (b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}", "status 429"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "no stream"),
        (HEAD + chunk(event(0)), "not over in time"),
        (HEAD + chunk(event(0) + event(1)) + END, "no end"),
        (HEAD + chunk(event(0) + event(1)) + chunk(DONE), "not over in time"),
    ],
)
def test_what_is_wrong_with_a_stream_is_said(raw: bytes, problem: str) -> None:
    assert read_stream([(1.0, raw)] if raw else [], 2)[1] == problem
