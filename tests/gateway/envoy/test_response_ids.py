"""Ids of stored responses in streams that Envoy passes, as the standard port writes them."""

from __future__ import annotations

import pytest

from picker.pipeline.decide import _for_filter
from picker.request.answer import ResponseNames
from picker.request.response_ids import ResponseIds, given_id
from tests.gateway.envoy.lua import Ends, LuaFilter
from tests.picker.server.renames import cuts
from tests.picker.server.streams import response

ADDRESSES = ("10.0.0.1:8000", "10.0.0.2:8000")
OWN, HELD, GIVEN = "resp_0123456789abcdef", "resp_of_the_replica", "resp_of_the_client"
ISSUE = ResponseIds(b"a key").issue("acme", ADDRESSES)
NAMES = {
    "new": ResponseNames(issue=ISSUE),
    "known": ResponseNames(known=(HELD, GIVEN)),
    "both": ResponseNames(known=(HELD, GIVEN), issue=ISSUE),
}


def stream(own: str, held: str) -> bytes:
    about = {"id": own, "previous_response_id": held, "model": "big", "usage": None}
    events = (
        response("response.created", response=about),
        response("response.output_text.delta", delta="resp_ is no id", item_id="msg_1"),
        b": keep-alive\n\n",
        response("response.output_text.delta", delta="x", item_id="msg_1"),
        response("response.completed", response={**about, "usage": {"output_tokens": 2}}),
    )
    return b"".join(events)


@pytest.fixture(scope="module")
def lua() -> LuaFilter:
    return LuaFilter()


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("ends", ["empty", "data"])
@pytest.mark.parametrize("whole", [True, False])
def test_at_every_cut(lua: LuaFilter, names: str, ends: Ends, whole: bool) -> None:
    """``whole``: the last event has its empty line."""
    served = ADDRESSES[1]
    given = given_id(ISSUE, served, OWN) if names != "known" else OWN
    body, wanted = stream(OWN, HELD), stream(given, GIVEN if names != "new" else HELD)
    if not whole:
        body, wanted = body.rstrip(), wanted.rstrip()
    decision = {
        "id": "p0-1",
        "responses": _for_filter(NAMES[names]),
        "served_model": '"big"',
        "asked_model": '"small"',
    }
    for pieces in cuts(body)[1 if whole else 7 :: 5 if whole else 7]:
        got = lua.respond(
            [piece for piece in pieces if piece],
            "text/event-stream",
            decision,
            ends=ends,
            served=served,
        )
        assert b"".join(got) == wanted.replace(b'"big"', b'"small"'), pieces
        assert lua.events == 2
