"""/api/decisions and ``penstock explain``: pickers in this process, asked over their sockets."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gateway.admin.api import application
from gateway.control.decisions import DecisionsClient, DecisionsServer
from picker.decisions.ring import Decisions
from picker.explain.selection import DecisionsOfPicker
from tests.gateway.admin.source import OPEN, NoTenants, Source, get, serve
from tests.gateway.commands.terminal import Shell
from tests.picker.fleet import Fleet, address, chat, decided, end_of, fleet, head, refused


@asynccontextmanager
async def asked(*pickers: Fleet, gone: Sequence[str] = ()) -> AsyncIterator[DecisionsClient]:
    """A client of these pickers, and of some that do not answer."""
    async with AsyncExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="pk"))
        sockets = [Path(name) / f"{one}.sock" for one in gone]
        for made in pickers:
            sockets.append(Path(name) / f"{made.picker.id}.sock")
            server = DecisionsServer(
                DecisionsOfPicker(made.picker.id, made.picker.decisions, made.clock)
            )
            await server.start(sockets[-1])
            stack.push_async_callback(server.stop)
        yield DecisionsClient(lambda: sockets)


@asynccontextmanager
async def api(decisions: DecisionsClient, folder: Path) -> AsyncIterator[ClientSession]:
    source = Source()
    source.decisions = decisions
    async for client in serve(application(source, NoTenants(), OPEN, folder)):
        yield client


async def error(client: ClientSession, path: str) -> tuple[int, str, str]:
    status, body = await get(client, path)
    return status, body["error"]["code"], body["error"]["message"]


def ids(body: dict[str, Any]) -> list[str]:
    return [one["request_id"] for one in body["decisions"]]


async def test_decisions_of_all_pickers_in_order(tmp_path: Path) -> None:
    one, other = fleet(name="p0"), fleet(name="p1")
    for number in range(120):
        made = (one, other)[number % 2]
        one.clock.now_s = other.clock.now_s = 1000.0 + number
        await decided(made, chat(), head(x_request_id=f"r{number}"))
    other.clock.now_s += 1
    one.clock.now_s += 1
    await refused(other, chat(model="no"), head(x_request_id="odd/é ?"))
    async with asked(one, other) as decisions, api(decisions, tmp_path) as client:
        status, body = await get(client, "/api/decisions")
        assert status == 200
        assert ids(body) == ["odd/é ?", *(f"r{number}" for number in range(119, 20, -1))]
        assert "choices" not in body["decisions"][0]
        assert {one["picker"]: one["decided_total"] for one in body["pickers"]} == {
            "p0": 60,
            "p1": 60,
        }
        _, body = await get(client, "/api/decisions?limit=3&state=under_way")
        assert ids(body) == ["r119", "r118", "r117"]
        _, body = await get(client, "/api/decisions/odd%2F%C3%A9%20%3F")
        assert ids(body) == ["odd/é ?"]
        _, body = await get(client, "/api/decisions/r7")
        assert body["decisions"][0]["picker"] == "p1"
        assert len(body["decisions"][0]["choices"][0]["candidates"]) == 3


async def test_what_cannot_be_answered(tmp_path: Path) -> None:
    made = fleet(name="p0")
    await decided(made, chat(), head(x_request_id="known"))
    async with (
        asked(made, gone=["picker-7"]) as decisions,
        api(decisions, tmp_path) as client,
    ):
        status, body = await get(client, "/api/decisions/known")
        assert (status, ids(body)) == (200, ["known"])
        assert "picker-7 does not answer" in body["silent"][0]
        status, code, message = await error(client, "/api/decisions/other")
        assert (status, code) == (404, "unknown_request")
        assert "since the pickers were started" in message
        assert "Not all could be asked: picker-7" in message
        for path, code, words in (
            ("/api/decisions/%0A", "bad_request", "printable"),
            ("/api/decisions?request_id=", "bad_request", "at least one character"),
            ("/api/decisions?limit=0", "bad_request", "from 1 to 1000"),
            ("/api/decisions?color=red", "bad_request", "unknown parameter 'color'"),
            ("/api/decisions/known?whole=1", "bad_request", "unknown parameter"),
        ):
            status, found, message = await error(client, path)
            assert (status, found) == (400, code)
            assert words in message


async def test_older_than_what_is_remembered(tmp_path: Path) -> None:
    made = fleet(name="p0")
    made.picker.flights._decisions = made.picker.decisions = Decisions(made.clock, kept=2)
    for name in ("a", "b", "c"):
        await decided(made, chat(), head(x_request_id=name))
    async with asked(made) as decisions, api(decisions, tmp_path) as client:
        status, _, message = await error(client, "/api/decisions/a")
    assert status == 404
    assert "they go back to 20" in message


async def test_no_picker(tmp_path: Path) -> None:
    async with asked(gone=["picker-0"]) as decisions, api(decisions, tmp_path) as client:
        status, code, message = await error(client, "/api/decisions/a")
        assert (status, code) == (503, "decisions_unavailable")
        assert "picker-0 does not answer" in message
        status, body = await get(client, "/api/decisions")
        assert (status, body["decisions"]) == (200, [])


async def test_a_header_that_is_no_utf_8(tmp_path: Path) -> None:
    made = fleet(name="p0")
    await decided(made, chat(), head(x_request_id="a\udcff"))
    async with asked(made) as decisions, api(decisions, tmp_path) as client:
        status, body = await get(client, "/api/decisions")
    assert (status, ids(body)) == (200, ["a?"])


@pytest.fixture
async def explained(tmp_path: Path) -> AsyncIterator[tuple[Fleet, Shell]]:
    made = fleet(name="p0")
    async with asked(made) as decisions, api(decisions, tmp_path) as client:
        yield made, Shell(str(client._base_url))


async def test_the_command(explained: tuple[Fleet, Shell]) -> None:
    made, penstock = explained
    made.sync([1, 2, 3, 4], draining=[4])
    decision = await decided(made, chat(stream=True), head(x_request_id="mine"))
    printed = await penstock("explain", "mine")
    assert "It is still under way." in printed.out
    first, second, _ = decision.addresses
    made.picker.complete(end_of(decision, address=second, tries=("503",)))
    printed = await penstock("explain", "mine")
    lines = printed.out.splitlines()
    assert lines[0].startswith("mine: tenant anonymous, model llama, pool main, 20")
    assert f"weighted chose {first}. " in printed.out
    assert any(line.startswith(f"1.  {first} ") for line in lines)
    assert any(line.split() == [address(4), "draining", "draining"] for line in lines)
    assert f"It was tried at 2 replicas: {first}: status 503; {second}: status 200." in lines
    assert "First token after 100 ms." in lines
    assert "Tokens: 10 in, unknown of them cached, 5 out." in lines
    as_json = await penstock("explain", "mine", "--json")
    assert as_json.json["decisions"][0]["result"]["endpoint"] == second


async def test_the_command_for_what_was_refused(explained: tuple[Fleet, Shell]) -> None:
    made, penstock = explained
    made.sync([1, 2, 3], draining=[1, 2, 3])
    await refused(made, chat(), head(x_request_id="no"))
    printed = await penstock("explain", "no")
    assert "Refused with 503 no_endpoints: Pool 'main' has no replica to serve." in printed.out
    assert printed.out.count("draining") == 6
    assert "no picker remembers" in await penstock.refused("explain", "other")
