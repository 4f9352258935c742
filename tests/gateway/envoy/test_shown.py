"""What responses say of the decision, as the standard port says it."""

from __future__ import annotations

import pytest
from msgspec import structs

from picker.request.answer import Shown
from tests.gateway.envoy.lua import LuaFilter

FIRST, SECOND = "10.0.0.1:8000", "[fd00::1]:8000"
MINE = "x-penstock-endpoint", "x-penstock-predicted-ttft-ms"


@pytest.fixture(scope="module")
def lua() -> LuaFilter:
    return LuaFilter()


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json", "text/plain"])
@pytest.mark.parametrize("ttft_ms", ["31.4", ""])
@pytest.mark.parametrize("served", [FIRST, SECOND])
def test_the_replica_and_its_predicted_time(
    lua: LuaFilter, kind: str, ttft_ms: str, served: str
) -> None:
    shown = Shown(FIRST, ttft_ms)
    lua.respond(
        [b"{}"],
        kind,
        {"id": "p0-1", "shown": structs.asdict(shown)},
        headers=dict.fromkeys(MINE, "of the replica"),
        served=served,
    )
    headers = {name: lua.headers[name.encode()] for name in MINE}
    wanted = {name: value.encode() for name, value in shown.headers(served)}
    assert headers == dict.fromkeys(MINE) | wanted


def test_nothing_unless_it_is_allowed(lua: LuaFilter) -> None:
    lua.respond([b"{}"], "application/json", {"id": "p0-1"}, served=FIRST)
    assert all(lua.headers[name.encode()] is None for name in MINE)
