"""Tokens of output in streams that pass: what a broken-off one is charged."""

from __future__ import annotations

import orjson
import pytest

from picker.request.report import Ending
from picker.server.response import ResponseReader
from picker.server.usage import ReportedUsage, produced
from tests.picker.server.edge import JSON, SSE
from tests.picker.server.failures import BLAMES, DONE, FAILURES, HARMLESS, Failure
from tests.picker.server.streams import STREAMS, Stream, chat


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
    ("failure", "reason"),
    [
        *((failure, Ending.ENGINE_ERROR) for failure in FAILURES),
        *((failure, Ending.OK) for failure in HARMLESS),
        (Failure("nothing but its end", DONE), Ending.NO_OUTPUT),
        (Failure("nothing at all", b""), Ending.NO_OUTPUT),
        (Failure("comments", b": hello\n\n"), Ending.NO_OUTPUT),
        (Failure("a role", chat({"role": "assistant", "content": ""})), Ending.NO_OUTPUT),
    ],
    ids=lambda value: value.name if isinstance(value, Failure) else "",
)
def test_failures_with_status_200(failure: Failure, reason: Ending) -> None:
    reader = ResponseReader(SSE, rename=None, strip_usage=False)
    reader.feed(failure.body, end=True)
    assert (reader.ending(Ending.OK, 200), reader.events) == (reason, failure.tokens)
    if reason is Ending.ENGINE_ERROR:
        assert reader.ending(Ending.CLIENT_ABORTED, 200) is reason, "it left because of the error"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"error":{"message":"no"}}', 200, Ending.ENGINE_ERROR),
        (b'{"error":null,"choices":[]}', 200, Ending.OK),
        (b"", 200, Ending.NO_OUTPUT),
        (b"", 204, Ending.OK),
        (b"no json", 200, Ending.OK),
    ],
)
def test_whole_answers_with_status_200(body: bytes, status: int, reason: Ending) -> None:
    reader = ResponseReader(JSON, rename=None, strip_usage=False)
    reader.feed(body, end=True)
    assert reader.ending(Ending.OK, status) is reason


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


def test_output_after_the_usage_of_an_answer_under_way() -> None:
    assert produced(50, 20, whole=True, later=3) == 53


def test_a_0_after_more_is_not_believed() -> None:
    read = ReportedUsage()
    read.take({"message": {"usage": {"input_tokens": 9, "output_tokens": 0}}})
    read.take({"usage": {"input_tokens": 0, "output_tokens": 5}})
    assert read == ReportedUsage(9, 5)


@pytest.mark.parametrize("failure", [*BLAMES, *FAILURES], ids=lambda failure: failure.name)
def test_who_is_to_blame(failure: Failure) -> None:
    reader = ResponseReader(SSE, rename=None, strip_usage=False)
    reader.feed(failure.body, end=True)
    assert reader.failed
    assert reader.blames_request == (failure in BLAMES)
    odds: list[object] = [[], {}, {"code": [400]}, {"type": {}}, 400, {"code": True}, "x"]
    for odd in odds:
        reader = ResponseReader(JSON, rename=None, strip_usage=False)
        reader.feed(orjson.dumps({"error": odd}), end=True)
        assert not reader.blames_request
