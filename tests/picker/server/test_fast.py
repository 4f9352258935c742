"""The fast path's exchange: what waits, what is cut off and what is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)

from picker import names
from picker.names import OBJECTIVE as OBJECTIVES
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.request.report import Ending, Report
from picker.server.fast import FastPath
from picker.server.http2.frames import Status
from picker.settings import FlowSettings, Objective, PickerSettings, PoolSettings
from tests.picker.accounts import Accounts
from tests.picker.fleet import POOL, Fleet, chat, fleet, policy
from tests.picker.server.edge import header_map
from tests.picker.server.h2_client import Client, Stream, message

POST = header_map({":method": "POST", ":path": "/v1/chat/completions"})
HEAD = ProcessingRequest(request_headers=HttpHeaders(headers=POST)).SerializeToString()
BODY = ProcessingRequest(request_body=HttpBody(body=chat(), end_of_stream=True)).SerializeToString()


@dataclass
class Slow:
    """A step that waits until it is let go on."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    waits: int = 0
    fails: bool = False

    async def __call__(self, _: RequestContext) -> None:
        self.waits += 1
        async with asyncio.timeout(30):  # needs the task that it runs in
            await self.go.wait()
        if self.fails:
            raise ValueError("broken")


class Place:
    """A picker behind an `h2` client, in memory. ``slow``: name of the step before which each
    request waits."""

    def __init__(self, slow: str | None = None) -> None:
        self.accounts = Accounts()
        self.fleet: Fleet = fleet(limiter=self.accounts)
        self.slow = Slow()
        if slow is not None:
            way = self.fleet.picker._way
            for part in ("head", "body"):
                steps = [
                    pair
                    for name, step in getattr(way, part)
                    for pair in ([("slow", self.slow)] if name == slow else []) + [(name, step)]
                ]
                object.__setattr__(way, part, tuple(steps))
        self.path = FastPath(self.fleet.picker)
        self.flushed = 0
        self.client = Client(lambda call: self.path.exchange(call, self._flush))
        self.client.pass_on()

    def _flush(self) -> None:
        self.flushed += 1
        self.client.pass_on()

    def ask(self, *messages: bytes, end: bool = False) -> Stream:
        stream = self.client.begin(*messages, end=end)
        self.client.pass_on()
        return self.client.streams[stream]

    def reset(self, stream: Stream) -> None:
        (number,) = [n for n, one in self.client.streams.items() if one is stream]
        self.client.h2.reset_stream(number)
        self.client.pass_on()

    async def over(self) -> None:
        """Nothing is left, and everything was given back."""
        await self.path.close()
        self.client.server.lost()
        assert asyncio.all_tasks() - {asyncio.current_task()} == set()
        assert self.fleet.is_settled
        assert self.accounts.reserved == self.accounts.released + len(self.accounts.settled)


def answers(stream: Stream) -> list[str]:
    return [
        str(ProcessingResponse.FromString(one).WhichOneof("response")) for one in stream.messages
    ]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - many things may make it true
            await asyncio.sleep(0)


async def test_what_waits_for_nothing_is_decided_at_once() -> None:
    place = Place()
    tasks = asyncio.all_tasks()
    streams = [place.ask(HEAD, BODY) for _ in range(3)]
    for stream in streams:
        assert answers(stream) == ["request_headers", "request_body"]
        assert stream.status == "0"
    assert place.flushed == 0
    assert len(asyncio.all_tasks() - tasks) <= 1, "the one in reserve"
    assert place.fleet.in_flight() == 3
    for request in range(1, 4):
        place.fleet.picker.flights.abandon(f"p0-{request}")
    await place.over()


@pytest.mark.parametrize("slow", ["identify", "reserve"])
@pytest.mark.parametrize("early", [True, False])
async def test_what_waits_is_decided_later(slow: str, *, early: bool) -> None:
    place = Place(slow)
    streams = [place.ask(HEAD, BODY, end=True) if early else place.ask(HEAD) for _ in range(3)]
    if not early and slow == "reserve":
        for number in place.client.streams:
            place.client.send(number, message(BODY))
        place.client.pass_on()
    await until(lambda: place.slow.waits == 3)
    place.slow.go.set()
    await until(lambda: all(one.messages for one in streams))
    if not early and slow == "identify":
        for number in place.client.streams:
            place.client.send(number, message(BODY))
        place.client.pass_on()
    await until(lambda: all(one.ended for one in streams))
    assert [answers(one) for one in streams] == [["request_headers", "request_body"]] * 3
    for request in range(1, 4):
        place.fleet.picker.flights.abandon(f"p0-{request}")
    await place.over()


@pytest.mark.parametrize("slow", ["door", "identify", "reserve", "schedule", "dispatch", "decide"])
@pytest.mark.parametrize("how", ["reset", "lost", "server"])
async def test_who_leaves_while_a_step_waits_gets_everything_back(slow: str, how: str) -> None:
    place = Place(slow)
    stream = place.ask(HEAD, BODY)
    await until(lambda: place.slow.waits == 1)
    if how == "reset":
        place.reset(stream)
    elif how == "lost":
        place.client.server.lost()
    else:
        for call in list(place.client.server.calls):
            call.cancel()
    await place.over()
    assert place.accounts.settled == []


async def test_who_leaves_before_the_task_has_run() -> None:
    """Cancelled in the turn of the loop in which it began to wait, and when it could go on."""
    for goes_on in (False, True):
        place = Place("schedule")
        stream = place.ask(HEAD, BODY)
        if goes_on:
            await asyncio.sleep(0)
            place.slow.go.set()
        place.reset(stream)
        await place.over()


async def test_a_decision_that_is_not_sent_as_a_whole_is_given_back() -> None:
    place = Place()
    place.client.takes = False
    place.fleet.picker.abandon = lambda decision: given.append(decision.id)  # type: ignore[method-assign]
    given: list[str] = []
    place.client.h2.update_settings({4: 150})
    place.client.pass_on()
    stream = place.ask(HEAD, BODY)
    assert len(stream.data) == 150
    place.reset(stream)
    assert given == ["p0-1"]
    place.fleet.picker.flights.abandon("p0-1")
    await place.over()


async def test_a_decision_is_given_back_in_the_turn_in_which_it_was_made() -> None:
    """Its task has ended, and nobody has heard of it yet."""
    place = Place("decide")
    place.client.takes = False
    place.client.h2.update_settings({4: 150})
    place.client.pass_on()
    stream = place.ask(HEAD, BODY)
    await until(lambda: place.slow.waits == 1)
    (task,) = place.path._tasks
    place.slow.go.set()
    await until(task.done)
    place.reset(stream)
    assert [done.reason for done in place.fleet.seen.completions] == ["client_aborted"]
    await place.over()


async def test_a_decision_that_was_sent_stays() -> None:
    """Its end comes in the access log, also when the client has left meanwhile."""
    place = Place()
    stream = place.client.begin(HEAD)
    place.client.pass_on()
    place.client.send(stream, message(BODY))
    place.client.server.receive(place.client.h2.data_to_send())
    place.client.h2.reset_stream(stream)
    place.client.pass_on()
    assert place.fleet.in_flight() == 1
    place.fleet.picker.flights.abandon("p0-1")
    await place.over()


async def test_an_unread_reset_of_the_same_piece_comes_before_its_request() -> None:
    place = Place()
    stream = place.client.begin(HEAD)
    place.client.pass_on()
    place.client.send(stream, message(BODY))
    place.client.h2.reset_stream(stream)
    place.client.pass_on()
    assert place.accounts.reserved == 0
    await place.over()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\xff\xff", Status.INTERNAL),
        (b"", Status.OK),
        (BODY, Status.OK),
        (
            ProcessingRequest(
                request_headers=HttpHeaders(headers=POST),
                protocol_config=ProtocolConfiguration(
                    request_body_mode=ProcessingMode.FULL_DUPLEX_STREAMED
                ),
            ).SerializeToString(),
            Status.FAILED_PRECONDITION,
        ),
    ],
)
@pytest.mark.parametrize("slow", [None, "identify"])
async def test_another_first_message(sent: bytes, status: Status, slow: str | None) -> None:
    place = Place(slow)
    stream = place.ask(sent, BODY, end=True)
    assert (stream.messages, stream.status) == ([], str(int(status)))
    await place.over()


@pytest.mark.parametrize("second", [b"\xff\xff", b"", HEAD])
@pytest.mark.parametrize("slow", [None, "identify"])
async def test_another_second_message(second: bytes, slow: str | None) -> None:
    place = Place(slow)
    stream = place.ask(HEAD, second, BODY)
    place.slow.go.set()
    await until(lambda: stream.ended)
    assert answers(stream) == ["request_headers"]
    assert stream.status == ("13" if second == b"\xff\xff" else "0")
    await place.over()


@pytest.mark.parametrize("slow", [None, "identify"])
async def test_who_sends_no_body(slow: str | None) -> None:
    place = Place(slow)
    stream = place.ask(HEAD, end=True)
    place.slow.go.set()
    await until(lambda: stream.ended)
    assert answers(stream) == ["request_headers"]
    assert stream.status == "0"
    assert place.ask(end=True).status == "0"
    await place.over()


async def test_a_failing_step_is_answered_as_any_error() -> None:
    place = Place("reserve")
    place.slow.fails = True
    stream = place.ask(HEAD, BODY)
    place.slow.go.set()
    await until(lambda: stream.ended)
    answer = ProcessingResponse.FromString(stream.messages[-1]).immediate_response
    assert (answer.status.code, answer.details) == (500, names.ANSWER_DETAILS)
    await place.over()


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_step_whose_work_was_cancelled_ends_its_request_alone(
    monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    """A thread pool that is shut down cancels what waits for it."""
    place = Place("reserve")
    work = asyncio.get_running_loop().create_future()
    if at_once:
        work.cancel()
    monkeypatch.setattr(place.slow.go, "wait", lambda: work)
    stream = place.ask(HEAD, BODY)
    work.cancel()
    await until(lambda: stream.ended)
    assert stream.status == "13"
    assert place.client.closed is None
    await place.over()


@pytest.mark.parametrize("slow", [None, "reserve"])
async def test_a_decision_that_cannot_be_written_is_given_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, slow: str | None
) -> None:
    def broken(*_: object, **__: object) -> bytes:
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    monkeypatch.setattr("picker.server.wire.decided_fast", broken)
    place = Place(slow)
    stream = place.ask(HEAD, BODY)
    place.slow.go.set()
    await until(lambda: stream.ended)
    assert (answers(stream), stream.status) == (["request_headers"], "13")
    assert "an exchange with Envoy failed" in caplog.text
    await place.over()


@pytest.mark.parametrize("slow", [None, "schedule", "decide"])
async def test_a_log_that_comes_before_its_request_is_decided(slow: str | None) -> None:
    """Envoy writes both at once, to two sockets, when a client leaves."""
    place = Place(slow)
    stream = place.ask(HEAD)
    if slow is not None:
        place.client.send(1, message(BODY))
        place.client.pass_on()
        await until(lambda: place.slow.waits == 1)
    left = Report("p0-1", "p0", "", 0, Ending.CLIENT_ABORTED, 0.5)
    place.fleet.picker.complete(left)
    if slow is None:
        place.client.send(1, message(BODY))
        place.client.pass_on()
    place.slow.go.set()
    await until(lambda: stream.ended)
    assert place.fleet.is_settled
    assert [done.reason for done in place.fleet.seen.completions] == ["client_aborted"]
    await place.over()


@pytest.mark.parametrize("logged_first", [True, False])
@pytest.mark.parametrize(
    ("slow", "sent"),
    [
        (None, (HEAD,)),
        ("identify", (HEAD,)),
        ("identify", (HEAD, BODY)),
        ("reserve", (HEAD, BODY)),
    ],
)
async def test_of_a_request_that_is_never_decided_nothing_is_kept(
    slow: str | None, sent: tuple[bytes, ...], *, logged_first: bool
) -> None:
    """Whatever its client had sent when it left, and whenever its log comes."""
    place = Place(slow)
    stream = place.ask(*sent)
    left = Report("p0-1", "p0", "", 0, Ending.CLIENT_ABORTED, 0.5)
    if logged_first:
        place.fleet.picker.complete(left)
    place.reset(stream)
    await place.over()
    place.fleet.picker.complete(left)
    assert place.fleet.is_settled


async def test_the_log_of_a_refused_request_is_not_kept() -> None:
    place = Place()
    stream = place.ask(HEAD, b"no JSON")
    assert stream.ended
    for _ in range(2):
        place.fleet.picker.complete(Report("p0-1", "p0", "", 0, Ending.CLIENT_ABORTED, 0.5))
    assert place.fleet.is_settled
    await place.over()


OBJECTIVE = header_map({":method": "POST", ":path": "/v1/chat/completions", OBJECTIVES[0]: "low"})
LOW = ProcessingRequest(request_headers=HttpHeaders(headers=OBJECTIVE)).SerializeToString()
ANSWERED = ProcessingRequest(response_headers=HttpHeaders()).SerializeToString()


def evicting() -> Place:
    place = Place()
    flow = FlowSettings(objectives=(Objective("low", -1),), trust_headers=True, evict_for=0)
    pool = PoolSettings(POOL, policy(), queue=True)
    place.fleet.picker.configure(PickerSettings(pools=(pool,), flow=flow))
    return place


def evict(place: Place) -> bool:
    found = place.fleet.picker.admission._evictions.take(POOL, "")
    if found is not None:
        found.evict(Rejection(Reason.EVICTED, "for others"))
    return found is not None


async def test_envoy_tells_when_the_answer_begins_of_what_may_be_evicted_alone() -> None:
    place = evicting()
    low, other = place.ask(LOW, BODY), place.ask(HEAD, BODY)
    modes = [ProcessingResponse.FromString(one.messages[0]) for one in (low, other)]
    assert [one.HasField("mode_override") for one in modes] == [True, False]
    assert modes[0].mode_override.response_header_mode == ProcessingMode.SEND
    assert modes[0].mode_override.request_body_mode == ProcessingMode.BUFFERED
    assert (low.ended, other.ended) == (False, True)
    (number,) = [n for n, one in place.client.streams.items() if one is low]
    place.client.send(number, message(ANSWERED))
    place.client.pass_on()
    assert answers(low) == ["request_headers", "request_body", "response_headers"]
    assert low.status == "0"
    assert not evict(place)


async def test_what_is_evicted_gets_its_answer_and_has_ended() -> None:
    place = evicting()
    low = place.ask(LOW, BODY)
    assert evict(place)
    await until(lambda: place.flushed > 0)
    assert answers(low) == ["request_headers", "request_body", "immediate_response"]
    assert low.status == "0"
    assert place.fleet.in_flight() == 0
    assert [one.reason for one in place.fleet.seen.completions] == ["evicted"]
    await place.over()


@pytest.mark.parametrize("how", ["release", "reset", "half-close"])
async def test_what_might_have_been_evicted_goes_on_without_its_stream(how: str) -> None:
    place = evicting()
    low = place.ask(LOW, BODY, end=how == "half-close")
    if how == "release":
        place.path.release()
        assert low.status == "0"
    elif how == "reset":
        place.reset(low)
    assert not evict(place)
    assert place.fleet.in_flight() == 1, "Envoy reports its end"
    place.fleet.picker.flights.abandon("p0-1")
    await place.over()
