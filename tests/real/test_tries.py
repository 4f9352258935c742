"""What becomes of a request whose replica fails, through the real Envoy: it is tried again where
that is safe, and the picker hears how each try ended."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from picker.request.caller import Caller
from picker.request.head import RequestHead
from policies.limits.plan import TenantPolicy
from tests.picker.fleet import MODEL, POOL
from tests.real.edge import Edge
from tests.real.gateway import Json, eventually
from tests.real.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

GOOD: Final = "good"
BREAKS: Final = "breaks"
"""It takes the request and breaks the connection off."""


@dataclass(slots=True)
class Engine:
    """A replica that does as it is told: serve, answer with a status, or break off. It stores the
    responses that it makes."""

    does: str | int = GOOD
    port: int = field(default_factory=free_port)
    seen: list[tuple[str, str, Json]] = field(default_factory=list)
    """Method, path and body of each request."""
    stored: dict[str, Json] = field(default_factory=dict)
    _runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """``ip:port``."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else {}
        self.seen.append((request.method, request.path_qs, body))
        inner = ("x-envoy-attempt", "x-envoy-retriable", "x-envoy-max", "x-penstock")
        assert not [name for name in request.headers if name.lower().startswith(inner)]
        if self.does == BREAKS:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(self.does, int):
            return web.json_response({"error": {"message": "mine"}}, status=self.does)
        if request.path.startswith("/v1/responses"):
            return await self._responses(request, body)
        return web.json_response({"choices": [], "usage": {"prompt_tokens": 3}})

    async def _responses(self, request: web.Request, body: Json) -> web.StreamResponse:
        previous = body.get("previous_response_id")
        wanted = request.path.removeprefix("/v1/responses").strip("/").partition("/")[0]
        asked = wanted or previous
        if asked and asked not in self.stored:
            message = {"error": {"message": f"Response with id '{asked}' not found."}}
            return web.json_response(message, status=404)
        if wanted:
            return web.json_response(self.stored[wanted])
        own = f"resp_{uuid.uuid4().hex}"
        made: Json = {
            "id": own,
            "object": "response",
            "previous_response_id": previous,
            "output": [{"type": "message", "id": f"msg_{own[5:]}", "content": "text"}],
        }
        self.stored[own] = made
        if not body.get("stream"):
            return web.json_response(made)
        answer = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        for kind in ("response.created", "response.output_text.delta", "response.completed"):
            event: Json = {"type": kind, "response": made}
            if kind.endswith("delta"):
                event = {"type": kind, "delta": "resp_ and more", "item_id": f"msg_{own[5:]}"}
            sent = f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode()
            for cut in (sent[:40], sent[40:]):
                await answer.write(cut)
                await asyncio.sleep(0.002)
        await answer.write_eof()
        return answer


class Door:
    """The tenant is the one that a header names."""

    def identify(self, head: RequestHead) -> Caller:
        return Caller(TenantPolicy(head.headers.get("x-tenant", "anonymous")))


@dataclass(slots=True)
class Stage:
    """Three replicas behind one Envoy."""

    edge: Edge
    http: aiohttp.ClientSession
    engines: list[Engine]
    may_repeat: bool = True
    """Clients may send the last request again by themselves."""

    def reset(self) -> None:
        """All serve, and nothing is held against any of them."""
        for engine in self.engines:
            engine.does = GOOD
            engine.seen.clear()
        pool = self.edge.picker.pools[POOL]
        for slot in range(pool.state.slots):
            pool.reset(slot)
        self.edge.replicas_are_well()
        self.edge.seen.completions.clear()

    async def chat(self, path: str = "/v1/chat/completions") -> tuple[int, Json]:
        """Status and answer of a request."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": uuid.uuid4().hex * 90}]}
        async with self.http.post(path, json=body) as answer:
            assert answer.content_type == "application/json"
            self.may_repeat = answer.headers.get("x-should-retry") != "false"
            return answer.status, await answer.json()

    async def ended(self, count: int) -> None:
        """The picker has heard how so many requests ended."""

        async def so() -> bool:
            return len(self.edge.seen.completions) >= count

        await eventually(so, f"{count} ends were reported")

    def tripped(self) -> set[str]:
        """Replicas whose breakers are open."""
        pool, now_s = self.edge.picker.pools[POOL], self.edge.picker.now()
        return {pool.state.address_of(slot) for slot in pool.breakers.tripped(now_s)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    async with Engine() as one, Engine() as two, Engine() as three:
        engines = [one, two, three]
        async with (
            Edge([engine.address for engine in engines], gate=Door()) as edge,
            aiohttp.ClientSession(edge.url) as http,
        ):
            yield Stage(edge, http, engines)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(running: Stage) -> Stage:
    """All replicas serve, and nothing is under way."""

    async def idle() -> bool:
        return len(running.edge.picker.flights) == 0

    await eventually(idle, "all requests have ended")
    running.reset()
    return running


@pytest.mark.parametrize("does", [500, 502, 503, 429, 404, BREAKS])
async def test_another_one_serves_and_what_fails_is_left_out(stage: Stage, does: str | int) -> None:
    broken = stage.engines[1]
    broken.does = does
    sent = 0
    while len(broken.seen) < 5:
        status, _ = await stage.chat()
        assert status == 200
        sent += 1
        await stage.ended(sent)
        stage.edge.replicas_are_well()
    assert stage.tripped() == {broken.address}
    assert stage.may_repeat
    answers = await asyncio.gather(*(stage.chat() for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert len(broken.seen) == 5


@pytest.mark.parametrize("does", [400, 401, 403, 413, 422, 501])
async def test_what_is_wrong_with_a_request_is_answered_at_once(stage: Stage, does: int) -> None:
    for engine in stage.engines:
        engine.does = does
    for _ in range(6):
        assert (await stage.chat()) == (does, {"error": {"message": "mine"}})
    assert sum(len(engine.seen) for engine in stage.engines) == 6
    await stage.ended(6)
    assert stage.tripped() == set()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/chat/completions", lambda error: error["error"]["message"]),
        ("/v1/messages", lambda error: error["error"]["message"]),
    ],
)
async def test_a_request_that_breaks_replicas_is_tried_on_two(
    stage: Stage, path: str, message: Callable[[Json], str]
) -> None:
    for engine in stage.engines:
        engine.does = BREAKS
    status, answer = await stage.chat(path)
    assert status == 502
    assert "Two replicas broke the connection off" in message(answer)
    assert not stage.may_repeat, "a client would break two more replicas with it"
    assert ("type" in answer) == (path == "/v1/messages")
    assert [len(engine.seen) for engine in stage.engines if engine.seen] == [1, 1]
    await stage.ended(1)
    stage.edge.replicas_are_well()
    untouched = next(engine for engine in stage.engines if not engine.seen)
    untouched.does = GOOD
    assert untouched.address not in stage.tripped()
    assert (await stage.chat())[0] in (200, 502)


async def test_refused_connections_may_go_on_to_the_last_choice(stage: Stage) -> None:
    gone = stage.engines[:2]
    for engine in gone:
        await engine.__aexit__(None, None, None)
    try:
        for number in range(6):
            assert (await stage.chat())[0] == 200
            await stage.ended(number + 1)
            stage.edge.replicas_are_well()
    finally:
        for engine in gone:
            await engine.__aenter__()


async def test_what_may_not_be_done_twice_is_tried_once(stage: Stage) -> None:
    for engine in stage.engines:
        engine.does = 500
    async with stage.http.post("/v1/images/generations", json={"model": MODEL}) as answer:
        assert answer.status == 500
    assert sum(len(engine.seen) for engine in stage.engines) == 1


@pytest.mark.parametrize(
    "base",
    [
        "/v1/responses",
        "/openai/responses",
        "/openai/v1/responses",
        f"/openai/deployments/{MODEL}/responses",
    ],
)
async def test_a_stored_response_is_where_it_was_made(stage: Stage, base: str) -> None:
    for number in range(9 if base.startswith("/v1") else 2):
        streaming = number % 3 == 0
        async with stage.http.post(
            base, json={"model": MODEL, "input": f"{number}", "stream": streaming}
        ) as answer:
            text = await answer.text()
        own = next(one for engine in stage.engines for one in reversed(engine.stored))
        owner = next(e for e in stage.engines if any(i[5:] in text for i in e.stored))
        own = next(i for i in owner.stored if f"msg_{i[5:]}" in text)
        assert f'"{own}"' not in text, "the replica's own id is not for the client"
        if streaming:
            events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
            ids = {json.loads(one)["response"]["id"] for one in (events[0], events[-1])}
            (given,) = ids
            assert "resp_ and more" in events[1]
        else:
            given = json.loads(text)["id"]
        for engine in stage.engines:
            engine.seen.clear()
        for method, rest in (("GET", "?include=all"), ("GET", "/input_items"), ("POST", "/cancel")):
            path = f"/v1/responses/{given}{rest}"
            async with stage.http.request(method, path) as answer:
                assert answer.status == 200
                assert (await answer.json())["id"] == given
            assert owner.seen[-1][:2] == (method, f"/v1/responses/{own}{rest}")
        follow = {"model": MODEL, "input": "go on", "previous_response_id": given}
        async with stage.http.post("/v1/responses", json=follow) as answer:
            assert answer.status == 200
            told = await answer.json()
            assert told["previous_response_id"] == given
            assert told["id"] not in (given, own)
        assert owner.seen[-1][2]["previous_response_id"] == own
        async with stage.http.delete(f"/v1/responses/{given}") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("base", ["/openai/v1", "/openai"])
async def test_a_stored_response_in_azures_spelling(stage: Stage, base: str) -> None:
    made = {"model": MODEL, "input": "a"}
    async with stage.http.post(f"{base}/responses?api-version=1", json=made) as answer:
        text = await answer.text()
    owner = next(engine for engine in stage.engines if engine.stored and engine.seen)
    assert f'"{next(reversed(owner.stored))}"' not in text, (
        "the replica's own id is not for the client"
    )
    given = json.loads(text)["id"]
    async with stage.http.get(f"{base}/responses/{given}?api-version=1") as answer:
        assert (answer.status, (await answer.json())["id"]) == (200, given)


async def test_a_stored_response_is_its_tenants_alone(stage: Stage) -> None:
    made = {"model": MODEL, "input": "mine"}
    ours, others = {"x-tenant": "a"}, {"x-tenant": "b"}
    async with stage.http.post("/v1/responses", json=made, headers=ours) as answer:
        given = (await answer.json())["id"]
    async with stage.http.post("/v1/responses", json=made, headers=others) as answer:
        theirs = (await answer.json())["id"]
    own = next(i for engine in stage.engines for i in engine.stored if len(i) == 37)
    forged = given[:-24] + theirs[-24:]
    for engine in stage.engines:
        engine.seen.clear()
    for bad in (given, own, "resp_x"):
        async with stage.http.get(f"/v1/responses/{bad}", headers=others) as answer:
            assert answer.status == 404
            error = (await answer.json())["error"]
            assert (error["code"], error["type"]) == ("response_not_found", "invalid_request_error")
        follow = {**made, "previous_response_id": bad}
        async with stage.http.post("/v1/responses", json=follow, headers=others) as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["param"] == "previous_response_id"
    assert not any(engine.seen for engine in stage.engines)
    async with stage.http.get(f"/v1/responses/{forged}", headers=others) as answer:
        assert answer.status == 404
    async with stage.http.get(f"/v1/responses/{given}", headers=ours) as answer:
        assert answer.status == 200


async def test_an_id_may_hold_any_character(stage: Stage) -> None:
    """What is no letter of ids stays as it is, and the replica may name it."""
    async with stage.http.post("/v1/responses", json={"model": MODEL, "input": "x"}) as answer:
        given = (await answer.json())["id"]
    odd = f"{given[:9]}%9%d$1{given[9:]}"
    body = {"model": MODEL, "input": "x", "previous_response_id": odd}
    async with stage.http.post("/v1/responses", json=body) as answer:
        assert answer.status == 404
        assert f"'{odd}'" in (await answer.json())["error"]["message"]


async def test_a_stored_response_that_is_gone(stage: Stage) -> None:
    async with stage.http.post("/v1/responses", json={"model": MODEL, "input": "x"}) as answer:
        given = (await answer.json())["id"]
    owner = next(e for e in stage.engines if e.stored and e.seen)
    owner.stored.clear()  # it was started again
    async with stage.http.get(f"/v1/responses/{given}") as answer:
        assert answer.status == 404
        told = (await answer.json())["error"]["message"]
        assert told == f"Response with id '{given}' not found.", "under the id that the client has"
    assert sum(len(e.seen) for e in stage.engines) == 2, "no other one is asked"
    stage.edge.picker.pools.sync_endpoints(POOL, [])
    async with stage.http.get(f"/v1/responses/{given}") as answer:
        assert answer.status == 404
        assert "gone with the replica" in (await answer.json())["error"]["message"]
