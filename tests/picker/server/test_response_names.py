"""Ids of stored responses in answers, over the standard transport."""

from __future__ import annotations

import orjson
import pytest

from picker.request.response_ids import given_id
from tests.picker.fleet import MODEL, address
from tests.picker.server.edge import JSON, SSE, Edge

OWN = "resp_0123456789abcdef0123456789abcdef"
ANSWER = orjson.dumps(
    {"id": OWN, "object": "response", "previous_response_id": None, "output": [{"id": "msg_1"}]}
)
BODY = orjson.dumps({"model": MODEL, "input": "x"})


def read(edge: Edge, text: bytes) -> str:
    """The id that a client gets, and that it is good for."""
    document = orjson.loads(text)
    given = str(document["id"])
    held = edge.fleet.picker.response_ids.read(given, "anonymous")
    assert held is not None
    assert held.id == OWN
    return given


@pytest.mark.parametrize("cut", [1, 7, 20, 60, len(ANSWER) - 1, len(ANSWER)])
async def test_a_json_answer_cut_anywhere(edge: Edge, cut: int) -> None:
    async with edge.open(BODY, path="/v1/responses") as exchange:
        out = await exchange.respond([ANSWER[:cut], ANSWER[cut:]], JSON)
    read(edge, b"".join(out))
    assert "content-length" in exchange.response_removed


async def test_the_replica_that_served_is_the_one_in_the_id(edge: Edge) -> None:
    async with edge.open(BODY, path="/v1/responses") as exchange:
        served = exchange.reply.addresses[1]
        out = await exchange.respond([ANSWER], JSON, served=served)
    ids = edge.fleet.picker.response_ids
    held = ids.read(read(edge, b"".join(out)), "anonymous")
    assert held is not None
    assert held.tag == ids.tag(served)


@pytest.mark.parametrize("cut", [1, 30, 44, 70, 100])
@pytest.mark.parametrize("trailers", [False, True])
async def test_every_event_of_a_stream(edge: Edge, cut: int, trailers: bool) -> None:
    created = b'event: response.created\r\ndata: {"response":' + ANSWER + b"}\r\n\r\n"
    delta = b'data: {"type":"response.output_text.delta","delta":"resp_ is no id"}\n\n'
    stream = created + delta + b'data: {"response":' + ANSWER + b"}"
    async with edge.open(BODY, path="/v1/responses") as exchange:
        out = await exchange.respond([stream[:cut], stream[cut:]], SSE, trailers=trailers)
    text = b"".join(out)
    assert delta in text
    assert OWN.encode() not in text
    last = text.rpartition(b"data: ")[2]
    read(edge, orjson.dumps(orjson.loads(last)["response"]))


async def test_an_answer_about_a_stored_response_has_the_id_that_was_asked_for(edge: Edge) -> None:
    picker = edge.fleet.picker
    issue = picker.response_ids.issue("anonymous", (address(2),))
    given = given_id(issue, address(2), OWN)
    async with edge.open(None, path=f"/v1/responses/{given}?stream=false") as exchange:
        assert exchange.reply.headers[":path"] == f"/v1/responses/{OWN}?stream=false"
        assert exchange.reply.addresses == [address(2)]
        out = await exchange.respond([ANSWER], JSON)
    assert orjson.loads(b"".join(out))["id"] == given


async def test_other_answers_pass_as_they_are(edge: Edge) -> None:
    body = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}]})
    async with edge.open(body) as exchange:
        assert await exchange.respond([ANSWER[:9], ANSWER[9:]], JSON) == [ANSWER[:9], ANSWER[9:]]


async def test_a_content_type_in_capital_letters(edge: Edge) -> None:
    async with edge.open(BODY, path="/v1/responses") as exchange:
        out = await exchange.respond([ANSWER], {"content-type": "Application/JSON"})
    read(edge, b"".join(out))


async def test_an_error_names_a_response_as_its_client_knows_it(edge: Edge) -> None:
    issue = edge.fleet.picker.response_ids.issue("anonymous", (address(1),))
    given = given_id(issue, address(1), OWN)
    body = orjson.dumps({"model": MODEL, "input": "x", "previous_response_id": given})
    error = '{"error":{"message":"Response with id \'%s\' not found."}}'
    async with edge.open(body, path="/v1/responses") as exchange:
        out = await exchange.respond([(error % OWN).encode()], JSON)
    assert b"".join(out).decode() == error % given
