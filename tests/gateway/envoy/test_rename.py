"""Envoy's Lua filter puts the client's own model name back as the standard port does."""

from __future__ import annotations

import orjson
import pytest

from tests.gateway.envoy.lua import Ends, LuaFilter
from tests.picker.server.renames import ASKED, CASES, SERVED, Case, cuts

CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
DECISION: dict[str, str | bool] = {
    "id": "p0-1",
    "served_model": orjson.dumps(SERVED).decode(),
    "asked_model": orjson.dumps(ASKED).decode(),
}


@pytest.fixture(scope="module")
def lua() -> LuaFilter:
    return LuaFilter()


def kind(case: Case) -> str:
    return "text/event-stream; charset=utf-8" if case.streamed else "Application/JSON"


@CASE
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("ends", ["empty", "data"])
def test_at_every_cut(lua: LuaFilter, case: Case, strip: bool, ends: Ends) -> None:
    decision = {**DECISION, "strip_usage": strip}
    for pieces in cuts(case.given):
        got = lua.respond(pieces, kind(case), decision, ends=ends)
        assert b"".join(got) == case.wanted, pieces


@pytest.mark.parametrize("case", [one for one in CASES if "broken" not in one.name])
def test_with_trailers(lua: LuaFilter, case: Case) -> None:
    for pieces in cuts(case.given):
        got = lua.respond(pieces, kind(case), DECISION, ends="trailers")
        assert b"".join(got) == case.wanted, pieces


def test_a_long_answer_is_not_held(lua: LuaFilter) -> None:
    pieces = [b'{"data":["x', b"x" * 5000, b'",', b"[0.25]," * 700, b'0],"model":"org', b'"}']
    sized = {"content-length": "9"}
    got = lua.respond(pieces, "application/json", DECISION, headers=sized)
    assert got == [*pieces[:-2], b'0],"model":"', b'org"}', b""]
    assert lua.headers[b"content-length"] is None


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        ("text/plain", {}),
        ("application/json", {"content-encoding": "gzip"}),
        ("text/event-stream", {"content-encoding": "br"}),
    ],
)
def test_what_cannot_be_read_passes(lua: LuaFilter, kind: str, headers: dict[str, str]) -> None:
    body = [b'data: {"model":%s}\n\n' % orjson.dumps(SERVED)]
    sized = {**headers, "content-length": "9"}
    assert lua.respond(body, kind, DECISION, headers=sized) == [*body, b""]
    assert lua.headers[b"content-length"] == b"9"


def test_without_an_alias_nothing_is_touched(lua: LuaFilter) -> None:
    body = [b'data: {"model":%s}\n\n' % orjson.dumps(SERVED)]
    assert lua.respond(body, "text/event-stream", {"id": "p0-1"}) == [*body, b""]
