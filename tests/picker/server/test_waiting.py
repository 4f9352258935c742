"""A request that waits for its pool keeps its gateway waiting, on both transports."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    ProcessingRequest,
    ProcessingResponse,
)

from picker.names import DROPPED_REASON
from picker.settings import FlowSettings, ForeignWait, PickerSettings, PoolSettings
from tests.picker.fleet import IDLE, POOL, chat, head, policy
from tests.picker.saturation import empty, fill, until, until_waiting
from tests.picker.server.edge import Edge, next_message
from tests.picker.server.test_fast import BODY, HEAD, POST, Place, answers

SETTINGS = PickerSettings(
    pools=(PoolSettings(POOL, policy(), queue=True),),
    flow=FlowSettings(ttl_s=30),
    decision_timeout_s=2,
)


async def test_our_envoy_waits_as_long_as_the_request_may() -> None:
    place = Place()
    place.fleet.picker.configure(SETTINGS)
    taken = await fill(place.fleet, head())
    stream = place.ask(HEAD, BODY)
    await until(lambda: len(stream.messages) == 2)
    asked = ProcessingResponse.FromString(stream.messages[1])
    assert asked.override_message_timeout.ToMilliseconds() == 32_000
    assert not stream.ended
    place.fleet.clock.now_s += 1.0
    place.fleet.report(2, IDLE)
    await until(lambda: stream.ended)
    assert answers(stream)[2] == "request_body"
    place.fleet.picker.flights.abandon("p0-7")
    empty(place.fleet, taken)
    await place.over()


async def test_without_a_wait_no_time_is_asked_for() -> None:
    place = Place()
    stream = place.ask(HEAD, BODY)
    assert answers(stream) == ["request_headers", "request_body"]
    place.fleet.picker.flights.abandon("p0-1")
    await place.over()


@pytest.mark.parametrize("how", ["reset", "lost"])
async def test_who_leaves_while_it_waits_for_its_pool_gets_everything_back(how: str) -> None:
    place = Place()
    place.fleet.picker.configure(SETTINGS)
    taken = await fill(place.fleet, head())
    stream, other = place.ask(HEAD, BODY), place.ask(HEAD, BODY)
    await until_waiting(place.fleet, 2)
    if how == "reset":
        place.reset(stream)
        place.reset(other)
    else:
        place.client.server.lost()
    await until_waiting(place.fleet, 0)
    empty(place.fleet, taken)
    await place.over()
    assert place.accounts.released == 2


@pytest.mark.parametrize("asked_s", [None, 8.0])
async def test_a_foreign_gateway_is_asked_only_where_it_can_be(
    edge: Edge, asked_s: float | None
) -> None:
    edge.fleet.picker.configure(replace(SETTINGS, foreign_wait=ForeignWait(2.0, asked_s)))
    await fill(edge.fleet, head())
    call = edge.call()
    await call.write(edge.first(POST, Metadata(), ends=False))
    await call.write(ProcessingRequest(request_body=HttpBody(body=chat(), end_of_stream=True)))
    if asked_s is not None:
        asked = await next_message(call)
        assert asked.override_message_timeout.ToMilliseconds() == 8_000
    answer = asyncio.ensure_future(next_message(call))
    await until_waiting(edge.fleet)
    edge.fleet.clock.now_s += 0.89 * (asked_s or 2.0)
    edge.fleet.picker.admission.freed(POOL)  # it looks at what waits
    assert edge.fleet.picker.admission.waiting == 1
    edge.fleet.clock.now_s += 0.02 * (asked_s or 2.0)
    refused = (await answer).immediate_response
    assert refused.status.code == 429
    headers = {one.header.key: one.header.raw_value for one in refused.headers.set_headers}
    assert headers[DROPPED_REASON] == b"rejected-ttl-expired"
    assert int(headers["retry-after"]) >= 1
    call.cancel()
