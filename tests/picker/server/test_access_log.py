"""Access log entries to ends of requests."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogType, HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.json_format import ParseDict

from picker import names
from picker.request.report import Ending, Report
from picker.server.access_log import (
    FLUSH_S,
    AccessLogs,
    Sign,
    read_entry,
    read_refusal,
    read_sign,
)
from tests.picker.fleet import chat, fleet
from tests.picker.server.conftest import Served
from tests.picker.server.edge import Edge, entry_of
from tests.picker.server.test_ends import until

DECISION = {"id": "p0-1", "picker": "p0"}


def entry(
    *,
    decision: Mapping[str, object] | None = DECISION,
    usage: Mapping[str, object] | None = None,
    lua: Mapping[str, object] | None = None,
    tries: Mapping[str, object] | None = None,
    status: int = 200,
    flags: tuple[str, ...] = (),
    remote: tuple[str, int] | None = ("10.0.0.1", 8000),
    common: Mapping[str, object] | None = None,
    body_bytes: int = 100,
) -> HTTPAccessLogEntry:
    if usage is not None:
        lua = {**(lua or {}), "usage": dict(usage)}
    metadata = {
        names.PENSTOCK_NAMESPACE: decision,
        names.LUA_NAMESPACE: lua,
        names.TRIES_NAMESPACE: tries,
    }
    socket = {} if remote is None else {"address": remote[0], "portValue": remote[1]}
    made = {
        "commonProperties": {
            "metadata": {
                "filterMetadata": {k: dict(v) for k, v in metadata.items() if v is not None}
            },
            "startTime": "2026-01-01T00:00:00Z",
            "duration": "9s",
            "timeToFirstUpstreamRxByte": "0.050s",
            "timeToLastDownstreamTxByte": "2s",
            "upstreamRemoteAddress": {"socketAddress": socket},
            "responseFlags": dict.fromkeys(flags, True),
            **(common or {}),
        },
        "response": {"responseCode": status, "responseBodyBytes": body_bytes},
    }
    return ParseDict(made, HTTPAccessLogEntry())


def progress(events: float, sent_bytes: float = 100, rate: float = 0.0) -> dict[str, float]:
    return {"events": events, "bytes": sent_bytes, "rate": rate}


def read(given: HTTPAccessLogEntry) -> Report:
    report = read_entry(given)
    assert report is not None
    return report


def test_a_good_end() -> None:
    lua = {"first_byte_us": "1767225600250000", "progress": progress(12)}
    usage = {"input": 100, "output": 12, "cached": 64, "reasoning": 5}
    decision = {**DECISION, "ticket": "t-1", "response_headers": {"x-ratelimit-limit": "1"}}
    assert read(entry(decision=decision, usage=usage, lua=lua)) == Report(
        id="p0-1",
        owner="p0",
        address="10.0.0.1:8000",
        status=200,
        reason=Ending.OK,
        input_tokens=100,
        output_tokens=12,
        cached_tokens=64,
        streamed_events=12,
        ttft_s=0.25,
        duration_s=2.0,
        reasoning_tokens=5,
        ticket="t-1",
        tries=(),
    )


@pytest.mark.parametrize(
    ("status", "flags", "reason", "upstream_failed"),
    [
        (200, (), "ok", False),
        (404, (), "http_error", False),
        (500, (), "http_error", False),
        (0, (), "http_error", False),
        (200, ("downstreamConnectionTermination",), "client_aborted", False),
        (0, ("downstreamConnectionTermination",), "client_aborted", False),
        (200, ("downstreamRemoteReset",), "client_aborted", False),
        (503, ("upstreamConnectionFailure",), "upstream_error", True),
        (503, ("upstreamConnectionFailure", "upstreamRetryLimitExceeded"), "upstream_error", True),
        (200, ("upstreamConnectionTermination",), "upstream_error", True),
        (200, ("upstreamRemoteReset",), "upstream_error", True),
        (502, ("upstreamProtocolError",), "upstream_error", True),
        (503, ("upstreamRemoteReset", "downstreamConnectionTermination"), "client_aborted", True),
        (504, ("streamIdleTimeout",), "http_error", False),
    ],
)
def test_reasons(status: int, flags: tuple[str, ...], reason: str, upstream_failed: bool) -> None:
    report = read(entry(status=status, flags=flags))
    assert (report.status, report.reason) == (status, reason)
    assert report.upstream_failed == upstream_failed


@pytest.mark.parametrize(
    ("noted", "flags", "tries", "last_try"),
    [
        (None, (), (), "answered"),
        ({"tries": "refused 500 "}, (), ("refused", "500"), "answered"),
        ({"status": "400"}, (), (), "answered"),
        ({"tries": "reset reset ", "given_up": True}, (), ("reset", "reset"), "none"),
        (None, ("upstreamConnectionFailure",), (), "refused"),
        (None, ("upstreamConnectionTermination",), (), "reset"),
        ({"tries": "500 "}, ("streamIdleTimeout",), ("500",), "timeout"),
    ],
)
def test_tries(
    noted: dict[str, object] | None,
    flags: tuple[str, ...],
    tries: tuple[str, ...],
    last_try: str,
) -> None:
    report = read(entry(status=503, flags=flags, tries=noted))
    assert (report.tries, report.last_try) == (tries, last_try)


def test_a_client_that_left_before_the_decision_reached_envoy() -> None:
    asked = {names.ASKED: "p0-1", "picker": "p0"}
    report = read(entry(decision=asked, status=0, flags=("downstreamRemoteReset",), remote=None))
    assert (report.id, report.owner, report.reason) == ("p0-1", "p0", "client_aborted")
    assert (report.address, report.input_tokens, report.streamed_events) == ("", None, 0)


@pytest.mark.parametrize(
    ("status", "details", "code"),
    [
        (0, "downstream_remote_disconnect", "client_aborted"),
        (503, "ext_proc_error_message_timeout", "picker_unavailable"),
        (503, "cluster_not_found", "picker_unavailable"),
        (408, "stream_idle_timeout", "request_timeout"),
        (413, "request_payload_too_large", "request_too_large"),
    ],
)
def test_why_a_request_has_ended_undecided(status: int, details: str, code: str) -> None:
    given = entry(decision={names.ASKED: "p0-1", "picker": "p0"}, status=status, remote=None)
    given.response.response_code_details = details
    assert read(given).code == code
    assert read_refusal(given) is None, "its picker knows more of it"
    assert read(entry()).code == ""


def test_the_end_of_a_request_of_another_picker_says_what_envoy_knows_of_it() -> None:
    given = entry(decision={"id": "p9-1", "picker": "p9"})
    given.request.path, given.request.request_id = "/v1/chat/completions?a=b", "r"
    given.common_properties.upstream_cluster = names.cluster_name("main")
    made = fleet()
    made.picker.flights.pickers_live(["p0"])
    AccessLogs(made.picker)._take(given)
    made.clock.now_s += 3
    made.picker.flights.tick()
    (done,) = made.seen.completions
    assert (done.labels.request_id, done.labels.path) == ("r", "/v1/chat/completions")
    assert (done.labels.pool, done.endpoint, done.status) == ("main", "10.0.0.1:8000", 200)


def test_what_the_picker_answered_itself_is_no_end() -> None:
    answered = entry(decision={names.ASKED: "p0-1", "picker": "p0"}, status=404)
    answered.response.response_code_details = names.ANSWER_DETAILS
    assert read_entry(answered) is None


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, (None, None, None)),
        ({}, (None, None, None)),
        ({"input": 7}, (7, None, None)),
        ({"input": 80, "output": 4, "cached": 64}, (80, 4, 64)),
        ({"input": 0, "output": 0}, (0, 0, None)),
        ({"input": 2**31 - 1, "output": 2**31}, (2**31 - 1, None, None)),
        ({"input": -1, "output": 1e300}, (None, None, None)),
        ({"input": "many", "output": 3}, (None, 3, None)),
        ({"cached": 3}, (None, None, 3)),
    ],
    ids=[
        *("absent", "empty", "only input", "all", "zero", "huge"),
        *("absurd", "text", "cache only"),
    ],
)
def test_usage(
    usage: Mapping[str, object] | None, counts: tuple[int | None, int | None, int | None]
) -> None:
    report = read(entry(usage=usage))
    assert (report.input_tokens, report.output_tokens, report.cached_tokens) == counts


@pytest.mark.parametrize(
    ("reported", "events", "flags", "output_tokens"),
    [
        (5, 7, (), 5),
        (None, 7, (), None),
        (5, 7, ("downstreamRemoteReset",), 7),
        (7, 5, ("downstreamRemoteReset",), 7),
        (None, 7, ("upstreamRemoteReset",), None),
    ],
)
def test_output_of_a_stream_that_broke_off(
    reported: int | None, events: int, flags: tuple[str, ...], output_tokens: int | None
) -> None:
    """What was reported in its middle may be of one choice of several."""
    usage = {} if reported is None else {"output": reported}
    report = read(entry(usage=usage, lua={"progress": progress(events)}, flags=flags))
    assert (report.output_tokens, report.streamed_events) == (output_tokens, events)


def test_signs_of_life() -> None:
    assert read_sign(entry()) == Sign("p0-1", "p0")
    for decision in (None, {}, {"picker": "p0"}, {names.ASKED: "p0-1", "picker": "p0"}):
        assert read_sign(entry(decision=decision)) is None


@pytest.mark.parametrize("transport", ["fast"], indirect=True)
async def test_an_entry_of_a_request_under_way_is_no_end_and_no_refusal(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived: list[tuple[str, str]] = []
    lives = edge.fleet.picker.lives

    def note(id: str, *, owner: str) -> None:  # noqa: A002 - the request's id
        lived.append((id, owner))
        lives(id, owner=owner)

    monkeypatch.setattr(edge.fleet.picker, "lives", note)
    async with edge.open(chat()) as exchange:
        end = entry_of(exchange.reply, (1, 1, 0), exchange.reply.addresses[0])
        periodic = [entry(decision=None, status=status) for status in (0, 200, 503)]
        periodic += [entry(decision={names.ASKED: "p0-7", "picker": "p0"}, status=0)]
        periodic += [entry(decision={"id": "p1-1", "picker": "p1"})] + [copy.copy(end)] * 2
        for one in periodic:
            one.common_properties.access_log_type = AccessLogType.DownstreamPeriodic
        await edge.log(periodic)
        seen = edge.fleet.seen
        assert len(edge.fleet.picker.flights) == 1
        assert (len(seen.completions), len(seen.rejections), len(seen.answers)) == (0, 0, 0)
        end.common_properties.access_log_type = AccessLogType.DownstreamEnd
        await edge.log([end, periodic[-1]])
    id_ = exchange.reply.metadata[names.PENSTOCK_NAMESPACE]["id"]
    assert lived == [("p1-1", "p1"), *[(id_, "p0")] * 3]
    assert edge.fleet.is_settled
    assert (len(seen.completions), len(seen.rejections)) == (1, 0)


@pytest.mark.parametrize("ticket", [None, 5, ""])
def test_no_ticket(ticket: object) -> None:
    decision = DECISION if ticket is None else {**DECISION, "ticket": ticket}
    assert read(entry(decision=decision)).ticket == ""


@pytest.mark.parametrize(
    ("lua", "status", "flags", "ttft_s"),
    [
        ({"first_byte_us": "1767225600250000"}, 200, (), 0.25),
        ({"first_byte_us": "1767225599000000"}, 200, (), 0.0),
        ({"first_byte_us": "soon"}, 200, (), 0.05),
        ({"first_byte_us": 5}, 200, (), 0.05),
        ({"progress": progress(3)}, 200, (), 0.05),
        (None, 200, (), 0.05),
        (None, 500, (), None),
        (None, 200, ("upstreamRemoteReset",), None),
    ],
)
def test_time_to_first_token(
    lua: Mapping[str, object] | None, status: int, flags: tuple[str, ...], ttft_s: float | None
) -> None:
    assert read(entry(lua=lua, status=status, flags=flags)).ttft_s == ttft_s


def test_other_fields() -> None:
    assert read(entry(remote=None)).address == ""
    assert read(entry(remote=("fd00::1", 80))).address == "[fd00::1]:80"
    assert read(entry(common={"timeToLastDownstreamTxByte": "0s"})).duration_s == 9.0
    assert read(entry(lua={"progress": progress(1e99)})).streamed_events == 0


@pytest.mark.parametrize(
    "decision", [None, {}, {"picker": "p0"}], ids=["not ours", "empty", "without id"]
)
def test_requests_that_never_got_a_decision(decision: Mapping[str, object] | None) -> None:
    assert read_entry(entry(decision=decision)) is None


@pytest.mark.parametrize("transport", ["fast"], indirect=True)
async def test_one_bad_entry_does_not_lose_the_others(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge.open(chat()) as exchange:
        good = entry_of(exchange.reply, (1, 1, 0), exchange.reply.addresses[0])
        bad = entry(common={"startTime": None})
        bad.common_properties.upstream_remote_address.pipe.path = "/x"
        complete = edge.fleet.picker.complete

        def fail_on_foreign(report: Report) -> None:
            if report.id == "p0-1" and report.address == "":
                raise RuntimeError("boom")
            complete(report)

        monkeypatch.setattr(edge.fleet.picker, "complete", fail_on_foreign)
        await edge.log([bad, good, entry(decision=None)])
    assert edge.fleet.is_settled
    assert len(edge.fleet.seen.completions) == 1


@pytest.mark.parametrize("transport", ["fast"], indirect=True)
async def test_ends_that_are_on_their_way_while_a_picker_stops_are_not_lost(
    edge: Edge, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends of other pickers' requests: this one has nothing under way and could go at once."""
    told: list[str] = []
    monkeypatch.setattr(edge.fleet.picker, "complete", lambda report: told.append(report.id))
    async with edge.log_stream() as stream:
        await stream.write(logged("p1-1"))
        await until(lambda: told == ["p1-1"])
        edge.fleet.picker.drain()
        stopping = asyncio.create_task(served.servers.stop(0))
        await asyncio.sleep(FLUSH_S)  # so long Envoy may hold an entry back
        await stream.write(logged("p1-2"))
        await stopping
    assert told == ["p1-1", "p1-2"]


@pytest.mark.parametrize("cut", [False, True])
async def test_others_get_a_turn_within_a_long_message_and_no_end_is_lost(
    monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """``cut``: the stream ends while its message is read."""
    picker = fleet().picker
    told: list[str] = []
    monkeypatch.setattr(picker, "complete", lambda report: told.append(report.id))
    message, ids = StreamAccessLogsMessage(), [f"p1-{number}" for number in range(300)]
    message.http_logs.log_entry.extend(entry(decision={"id": id_, "picker": "p1"}) for id_ in ids)

    async def messages() -> AsyncIterator[bytes]:
        yield message.SerializeToString()

    reading = asyncio.ensure_future(AccessLogs(picker)._receive(messages(), None))  # type: ignore[arg-type]
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
        if cut and turns == 3:
            assert 0 < len(told) < 300
            reading.cancel()
    assert reading.cancelled() == cut
    assert told == ids
    assert cut or turns > 10


def logged(id: str) -> StreamAccessLogsMessage:  # noqa: A002 - the request's id
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.append(entry(decision={"id": id, "picker": "p1"}))
    return message
