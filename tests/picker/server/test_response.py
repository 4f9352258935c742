"""Tokens of output in streams that pass: what a broken-off one is charged."""

from __future__ import annotations

import orjson
import pytest

from picker.server.response import ResponseReader
from picker.server.usage import ReportedUsage, produced
from tests.picker.server.edge import SSE
from tests.picker.server.streams import STREAMS, Stream


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_tokens_in_each_event(stream: Stream) -> None:
    reader = ResponseReader(SSE, rename=None, strip_usage=False)
    for event, tokens in stream.events:
        before = reader.events
        reader.feed(event, end=False)
        assert reader.events - before == tokens, event


@pytest.mark.parametrize("cut_bytes", [1, 7, 100])
@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_tokens_however_the_stream_is_cut(stream: Stream, cut_bytes: int) -> None:
    reader = ResponseReader(SSE, rename=None, strip_usage=False)
    body = stream.body
    for start in range(0, len(body), cut_bytes):
        reader.feed(body[start : start + cut_bytes], end=False)
    assert reader.events == stream.tokens


def test_half_an_event_is_not_counted() -> None:
    reader = ResponseReader(SSE, rename=None, strip_usage=False)
    body = STREAMS[0].body
    reader.feed(body[:-20], end=False)
    reader.finish()
    assert reader.events == STREAMS[0].tokens - 1


@pytest.mark.parametrize(
    ("document", "usage"),
    [
        (
            {
                "usage": {
                    "prompt_tokens": 7,
                    "completion_tokens": 5,
                    "completion_tokens_details": {"reasoning_tokens": 3},
                }
            },
            ReportedUsage(7, 5, None, 3),
        ),
        (
            {
                "response": {
                    "usage": {
                        "input_tokens": 7,
                        "output_tokens": 5,
                        "output_tokens_details": {"reasoning_tokens": 0},
                    }
                }
            },
            ReportedUsage(7, 5, None, 0),
        ),
        (
            {"usage": {"completion_tokens": 5, "completion_tokens_details": None}},
            ReportedUsage(None, 5),
        ),
        (
            {"usage": {"completion_tokens_details": {"reasoning_tokens": None}}},
            ReportedUsage(),
        ),
        ({"usage": {"completion_tokens_details": {"reasoning_tokens": -1}}}, ReportedUsage()),
        ({"message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}, ReportedUsage(7)),
        (
            {"usage": {"prompt_tokens": 100, "cache_read_input_tokens": 80}},
            ReportedUsage(100, None, 80),
        ),
        (
            {"usage": {"prompt_tokens": 2**31, "completion_tokens": 2**31 - 1}},
            ReportedUsage(None, 2**31 - 1),
        ),
        (
            {"meta_info": {"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 3}},
            ReportedUsage(9, 4, 3),
        ),
        ({"meta_info": []}, ReportedUsage()),
        ([], ReportedUsage()),
        (None, ReportedUsage()),
    ],
)
def test_usage(document: object, usage: ReportedUsage) -> None:
    read = ReportedUsage()
    read.take(orjson.loads(orjson.dumps(document)))
    assert read == usage


@pytest.mark.parametrize(
    ("reported", "streamed", "whole", "tokens"),
    [
        (5, 7, True, 5),
        (None, 7, True, None),
        (5, 7, False, 7),
        (7, 5, False, 7),
        (None, 7, False, None),
        (None, 0, False, None),
        (0, 0, False, 0),
    ],
)
def test_output_of_a_stream_that_broke_off(
    reported: int | None, streamed: int, whole: bool, tokens: int | None
) -> None:
    assert produced(reported, streamed, whole=whole) == tokens
