"""However a stream ends, what it took is given back and its end is observed exactly once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    ProcessingRequest,
    ProcessingResponse,
)

from picker.flight.aftermath import SUSPECT_S
from picker.flight.quiet import DOUBT_S
from picker.server.exchange import StandardExchange
from picker.server.ext_proc import Context
from picker.server.listen import Address, Listeners, Servers
from policies.limits.prices import Usage
from tests.picker.accounts import Accounts
from tests.picker.fleet import address, chat, fleet
from tests.picker.server.conftest import Served
from tests.picker.server.edge import SSE, Call, Edge, header_map

POST = header_map({":method": "POST", ":path": "/v1/chat/completions"})
HEAD = ProcessingRequest(request_headers=HttpHeaders(headers=POST))
BODY = ProcessingRequest(request_body=HttpBody(body=chat(stream=True), end_of_stream=True))
HALF = ProcessingRequest(request_body=HttpBody(body=chat()[:9]))
RESPONSE = ProcessingRequest(response_headers=HttpHeaders(headers=header_map(SSE)))
TOKEN = b'data: {"choices":[{}]}\n\n'
CHUNK = ProcessingRequest(response_body=HttpBody(body=TOKEN))
LAST = ProcessingRequest(response_body=HttpBody(body=b"data: [DONE]\n\n", end_of_stream=True))

LEFT = "client_aborted"
STAGES = {
    "before anything": [],
    "after the headers": [HEAD],
    "in the body": [HEAD, HALF],
    "after the body": [HEAD, BODY],
    "after the decision": [HEAD, BODY, None, None],
    "after response headers": [HEAD, BODY, None, None, RESPONSE, None],
    "in the response": [HEAD, BODY, None, None, RESPONSE, None, CHUNK, None, CHUNK],
    "after the response": [HEAD, BODY, None, None, RESPONSE, None, CHUNK, None, LAST, None],
}
"""Messages written, and None for each one read."""


async def play(call: Call, messages: list[ProcessingRequest | None]) -> None:
    for message in messages:
        if message is None:
            assert isinstance(await call.read(), ProcessingResponse)
        else:
            await call.write(message)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - many things may make it true
            await asyncio.sleep(0)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["cancel", "half-close"])
async def test_the_gateway_leaves(edge: Edge, served: Served, stage: str, how: str) -> None:
    call = edge.call()
    await play(call, STAGES[stage])
    if how == "cancel":
        call.cancel()
    else:
        await call.done_writing()
        while isinstance(await call.read(), ProcessingResponse):
            pass
    # One more request over the same connection, then nothing may be left of the first.
    await edge.ask(chat())
    await until(lambda: not served.servers._busy)
    assert edge.fleet.is_settled
    seen = edge.fleet.seen
    completed = [str(one.reason) for one in seen.completions[:-1]]
    ends = [*completed, *(one.reason for one in seen.rejections)]
    assert ends in ([], [{"after the response": "ok"}.get(stage, LEFT)])
    if list(STAGES).index(stage) >= list(STAGES).index("after the decision"):
        assert not seen.rejections
    may_be_unseen = how == "cancel" and not any(one is None for one in STAGES[stage])
    assert len(ends) == 1 or may_be_unseen or not STAGES[stage]


@pytest.mark.parametrize("transport", ["fast"], indirect=True)
@pytest.mark.parametrize("stage", ["before anything", "after the headers"])
async def test_the_fast_path_before_the_decision(edge: Edge, served: Served, stage: str) -> None:
    call = edge.call()
    if STAGES[stage]:
        await call.write(edge.first(POST, Metadata(), ends=False))
        await call.read()
    call.cancel()
    await edge.ask(chat())
    await until(lambda: not served.servers._busy)
    assert edge.fleet.is_settled
    assert len(edge.fleet.seen.completions) == 1


@pytest.mark.parametrize("transport", ["standard"], indirect=True)
async def test_a_running_response_is_waited_for_at_the_end(edge: Edge, served: Served) -> None:
    call = edge.call()
    await play(call, STAGES["in the response"])
    edge.fleet.picker.drain()
    stopping = asyncio.create_task(served.servers.stop(0, standard_grace_s=60))
    refused = await edge.ask(chat())
    assert refused.status == 503, "nothing new is begun"
    assert not stopping.done()
    call.cancel()
    await stopping


@pytest.mark.parametrize("transport", ["standard"], indirect=True)
async def test_who_is_in_a_hurry_waits_for_no_response(edge: Edge, served: Served) -> None:
    call = edge.call()
    await play(call, STAGES["in the response"])
    edge.fleet.picker.drain()
    stopping = asyncio.create_task(served.servers.stop(60, standard_grace_s=60))
    served.servers.hurry()
    await stopping
    call.cancel()


class Broken:
    """A gateway's side of a standard stream, gone at the write of a number."""

    def __init__(self, fails_at: int) -> None:
        self._left = fails_at
        self._messages: list[object] = [BODY, grpc.aio.EOF]

    async def read(self) -> object:
        return self._messages.pop(0)

    async def write(self, _: bytes) -> None:
        self._left -= 1
        if self._left == 0:
            raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("fails_at", "charged"),
    [(1, []), (2, []), (99, [Usage(3, 0)])],
    ids=["decision", "body", "whole request sent"],
)
async def test_what_no_replica_can_have_seen_is_not_charged(
    fails_at: int, charged: list[Usage]
) -> None:
    accounts = Accounts()
    made = fleet(limiter=accounts)
    context = cast("Context", Broken(fails_at))
    with contextlib.suppress(asyncio.CancelledError):
        await StandardExchange(made.picker, context, HEAD).run()
    assert made.is_settled
    assert [done.reason for done in made.seen.completions] == ["client_aborted"]
    assert accounts.settled == charged
    assert accounts.released == 1 - len(charged)


@pytest.mark.parametrize("transport", ["fast"], indirect=True)
async def test_an_end_is_observed_once_however_often_it_is_logged(edge: Edge) -> None:
    async with edge.open(chat()) as exchange:
        assert edge.fleet.in_flight() == 1
        for _ in range(3):
            await exchange.finish()
    assert edge.fleet.is_settled
    assert len(edge.fleet.seen.completions) == 1


async def test_a_response_that_its_engine_does_not_show_is_followed_to_its_end(edge: Edge) -> None:
    """No access log shows that it goes on, and no other picker is told its end."""
    made = edge.fleet
    async with edge.open(chat(stream=True)) as exchange:
        made.clock.now_s += 6.0
        for number in (1, 2, 3):
            made.report(number)
        assert made.in_flight() == 0
        made.picker.flights.picker_died()
        made.clock.now_s += SUSPECT_S + DOUBT_S
        made.picker.flights.tick()
        assert len(made.picker.flights) == 1
        assert not made.seen.completions
        await exchange.finish()
        await until(lambda: made.is_settled)
    assert [done.reason for done in made.seen.completions] == ["ok"]


async def test_16_drain(edge: Edge, served: Served) -> None:
    async with edge.open(chat(stream=True)) as running:
        await running.begin_response(SSE)
        edge.fleet.picker.drain()
        stopping = asyncio.create_task(served.servers.stop(30))
        await asyncio.sleep(0)
        refused = await edge.ask(chat())
        assert (refused.status, refused.error["code"]) == (503, "shutting_down")
        assert await running.response_chunk(TOKEN) == TOKEN
        assert not stopping.done()
        await running.response_chunk(b"data: [DONE]\n\n", end=True)
        await running.close()
        await stopping
    assert edge.fleet.is_settled
    assert [done.reason for done in edge.fleet.seen.completions] == ["ok"]


async def test_streams_that_outlast_the_grace_are_ended(edge: Edge, served: Served) -> None:
    async with edge.open(chat(stream=True)) as running:
        await running.begin_response(SSE)
        edge.fleet.picker.drain()
        await served.servers.stop(0.01)
    await until(lambda: edge.fleet.is_settled)
    assert [done.reason for done in edge.fleet.seen.completions] == ["client_aborted"]


@pytest.mark.parametrize("transport", ["fast"], indirect=True)
async def test_a_drain_waits_for_the_ends_that_come_in_access_logs(
    edge: Edge, served: Served
) -> None:
    async with edge.open(chat()) as exchange:
        edge.fleet.picker.drain()
        stopping = asyncio.create_task(served.servers.stop(30))
        await asyncio.sleep(0)
        await exchange.finish(address=address(1))
        await stopping
    assert edge.fleet.is_settled


async def test_an_address_that_is_taken(served: Served) -> None:
    listeners = Listeners(None, None, Address("127.0.0.1", served.port), Address("203.0.113.1", 1))
    servers = Servers(served.fleet.picker, served.health, listeners)
    with pytest.raises(RuntimeError):
        await servers.start()
    assert not servers._running
