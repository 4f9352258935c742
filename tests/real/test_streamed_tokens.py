"""Streams that break off: charged for the tokens that have passed, on every API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

import aiohttp
import pytest
import pytest_asyncio

from gateway.envoy.plan import EnvoyPlan
from picker.flight.entry import State
from policies.health.breaker import DEFAULT_RULES
from policies.limits.prices import Usage
from tests.picker.fleet import MODEL, POOL
from tests.picker.server.failures import BLAMES, FAILURES, Failure
from tests.picker.server.streams import (
    CHAT,
    MESSAGES,
    RESPONSES,
    STREAMS,
    TEXT,
    Stream,
    chat,
    data,
    response,
)
from tests.real.edge import ALIAS, Edge
from tests.real.gateway import Json, eventually
from tests.real.scripted import Engine, Script

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

TURNS: Final = [{"role": "user", "content": "hello"}]
BODIES: Final[dict[str, Json]] = {
    CHAT: {"messages": TURNS},
    TEXT: {"prompt": "hello"},
    MESSAGES: {"messages": TURNS, "max_tokens": 100},
    RESPONSES: {"input": "hello"},
}
ASKED: Final[Json] = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
DONE: Final = b"data: [DONE]\n\n"


@dataclass
class Setting:
    """A gateway, and the replica behind it."""

    edge: Edge
    engine: Engine
    http: aiohttp.ClientSession

    async def read(self, path: str, size: int | None = None, **more: object) -> bytes:
        """The answer to a streaming request: all of it, or its first ``size`` bytes and then the
        client leaves."""
        sent = {"model": MODEL, "stream": True, **BODIES[path], **more}
        answer = await self.http.post(path, json=sent)
        try:
            return await (answer.content.readexactly(size) if size else answer.read())
        finally:
            answer.close()

    async def charged(self) -> Usage:
        """What the request was charged."""
        (usage,) = await self.edge.settled()
        return usage


def signs_often(plan: EnvoyPlan) -> EnvoyPlan:
    """Envoy shows all the time that a request is under way: nothing is counted twice for that."""
    return replace(plan, sign_s=0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def setting() -> AsyncIterator[Setting]:
    async with (
        Engine() as engine,
        Edge([engine.address], plan=signs_often) as edge,
        aiohttp.ClientSession(edge.url) as http,
    ):
        yield Setting(edge, engine, http)


@pytest.mark.parametrize("model", [MODEL, ALIAS])
@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
async def test_a_client_that_leaves(setting: Setting, stream: Stream, model: str) -> None:
    setting.engine.script = Script([event for event, _ in stream.events], "hang")
    await setting.read(stream.path, len(stream.body), model=model)
    assert (await setting.charged()).output_tokens == stream.tokens


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
async def test_a_client_that_leaves_after_any_event(setting: Setting, path: str) -> None:
    stream = next(stream for stream in STREAMS if stream.path == path)
    for count in range(1, len(stream.events)):
        passed = stream.events[:count]
        setting.engine.script = Script([event for event, _ in passed], "hang")
        await setting.read(path, sum(len(event) for event, _ in passed))
        assert (await setting.charged()).output_tokens == sum(tokens for _, tokens in passed)


@pytest.mark.parametrize("model", [MODEL, ALIAS])
async def test_a_client_that_leaves_late(setting: Setting, model: str) -> None:
    """How far a stream has come is not noted with each event."""
    events = [chat({"content": "x" * (n * n % 13)}) for n in range(150)]
    events = [event.replace(b'"llama"', b'"%b"' % MODEL.encode()) for event in events]
    setting.engine.script = Script(events, "hang")
    renamed = len(events) * (len(model) - len(MODEL))
    await setting.read(CHAT, sum(map(len, events)) + renamed, model=model)
    assert (await setting.charged()).output_tokens == len(events)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
async def test_an_engine_that_dies(setting: Setting, stream: Stream) -> None:
    setting.engine.script = Script([event for event, _ in stream.events], "break")
    with pytest.raises(aiohttp.ClientPayloadError):
        await setting.read(stream.path)
    assert (await setting.charged()).output_tokens == stream.tokens
    assert setting.edge.seen.completions[-1].reason == "upstream_error"
    setting.edge.replicas_are_well()


@pytest.mark.parametrize("cut_bytes", [3, 50, 1000])
async def test_however_the_stream_is_cut(setting: Setting, cut_bytes: int) -> None:
    stream = STREAMS[0]
    body = stream.body
    chunks = [body[i : i + cut_bytes] for i in range(0, len(body), cut_bytes)]
    setting.engine.script = Script(chunks, "hang")
    await setting.read(stream.path, len(body))
    assert (await setting.charged()).output_tokens == stream.tokens


async def test_a_last_event_without_its_empty_line(setting: Setting) -> None:
    setting.engine.script = Script([chat({"content": "a"}), chat({"content": "b"}).rstrip()])
    text = await setting.read(CHAT)
    assert text == chat({"content": "a"}) + chat({"content": "b"}).rstrip()
    assert (await setting.charged()).output_tokens == 2


# -- usage that is told


def usage(output: int, **more: object) -> Json:
    return {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output, **more}


async def test_continuous_usage_is_exact_where_chunks_are_not(setting: Setting) -> None:
    """A chunk may hold several tokens."""
    chunks = [
        chat({"role": "assistant", "content": ""}, usage=usage(0)),
        chat({"content": "several"}, usage=usage(4)),
        chat({"content": "several more"}, usage=usage(11)),
    ]
    setting.engine.script = Script(chunks, "hang")
    await setting.read(CHAT, sum(map(len, chunks)), **ASKED)
    assert await setting.charged() == Usage(9, 11)


async def test_the_last_usage_counts_not_the_chunks(setting: Setting) -> None:
    details: Json = {"completion_tokens_details": {"reasoning_tokens": 5}}
    last = data({"choices": [], "usage": usage(7, **details)})
    setting.engine.script = Script([chat({"content": "several"}), last, DONE])
    assert last not in await setting.read(CHAT)
    assert await setting.charged() == Usage(9, 7, 0, 5)


async def test_reasoning_of_responses(setting: Setting) -> None:
    told = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 8},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 6},
    }
    done = response("response.completed", response={"usage": told})
    setting.engine.script = Script([done])
    await setting.read(RESPONSES)
    assert await setting.charged() == Usage(9, 7, 8, 6)


@pytest.mark.parametrize("details", [None, {}, {"reasoning_tokens": None}])
async def test_no_reasoning(setting: Setting, details: object) -> None:
    last = data({"choices": [], "usage": usage(7, completion_tokens_details=details)})
    setting.engine.script = Script([chat({"content": "a"}), last, DONE])
    await setting.read(CHAT)
    assert await setting.charged() == Usage(9, 7)


async def test_reasoning_of_an_answer_that_is_not_streamed(setting: Setting) -> None:
    details = {"reasoning_tokens": 5}
    whole = b'{"usage": {"prompt_tokens": 9, "completion_tokens": 7, "completion_tokens_details": '
    setting.engine.script = Script(
        [whole + str(details).replace("'", '"').encode() + b"}}"],
        headers={"content-type": "application/json"},
    )
    async with setting.http.post(CHAT, json={"model": MODEL, "messages": TURNS}) as answer:
        await answer.read()
    assert await setting.charged() == Usage(9, 7, 0, 5)


async def test_input_of_messages_is_known_when_they_break_off(setting: Setting) -> None:
    stream = next(stream for stream in STREAMS if stream.path == MESSAGES)
    setting.engine.script = Script([event for event, _ in stream.events], "hang")
    await setting.read(MESSAGES, len(stream.body))
    assert await setting.charged() == Usage(9, stream.tokens)


async def test_nothing_has_come_yet(setting: Setting) -> None:
    setting.engine.script = Script([chat({"role": "assistant", "content": ""})], "hang")
    await setting.read(CHAT, len(setting.engine.script.chunks[0]))
    charged = await setting.charged()
    assert charged.output_tokens == 0
    assert charged.input_tokens > 0, "the engine has begun with it"


async def test_many_at_once(setting: Setting) -> None:
    stream = STREAMS[0]
    setting.engine.script = Script([event for event, _ in stream.events], "hang")
    await asyncio.gather(*(setting.read(stream.path, len(stream.body)) for _ in range(50)))
    charged = await setting.edge.settled(50)
    assert [usage.output_tokens for usage in charged] == [stream.tokens] * 50


async def test_envoy_shows_that_a_stream_goes_on_of_which_its_engine_shows_nothing(
    setting: Setting,
) -> None:
    stream, edge = STREAMS[0], setting.edge
    before = (len(edge.seen.completions), len(edge.seen.rejections))
    setting.engine.script = Script([event for event, _ in stream.events], "hang")
    sent = {"model": MODEL, "stream": True, **BODIES[stream.path]}
    async with setting.http.post(stream.path, json=sent) as answer:
        await answer.content.readexactly(len(stream.body))
        flights = edge.picker.flights
        (entry,) = flights._entries.values()
        flights.engine_idle(POOL, entry.answering.address, since_s=edge.picker.now() + 60)
        assert entry.state is State.QUIET

        async def lives() -> bool:
            return flights._quiet.has_lived(entry)

        await eventually(lives, "Envoy shows that it goes on")
        assert (len(edge.seen.completions), len(edge.seen.rejections)) == before
        assert not edge.accounts.settled
    assert (await setting.charged()).output_tokens == stream.tokens
    assert (len(edge.seen.completions), len(edge.seen.rejections)) == (before[0] + 1, before[1])
    assert not flights._entries


# -- streams that fail although their status is 200


@pytest.mark.parametrize(
    "failure",
    [*FAILURES[:7], Failure("nothing at all", DONE), Failure("no output", chat({"role": "a"}))],
    ids=lambda failure: failure.name,
)
async def test_a_failure_with_status_200(setting: Setting, failure: Failure) -> None:
    setting.engine.script = Script([failure.body])
    await setting.read(CHAT)
    charged = await setting.edge.settled()
    assert [usage.output_tokens for usage in charged] == (
        [failure.tokens] if failure.tokens else []
    )
    assert setting.edge.seen.completions[-1].reason in ("engine_error", "no_output")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"error":{"message":"no"}}', "engine_error"),
        (b'{"error":"no"}', "engine_error"),
        (b"", "no_output"),
    ],
)
async def test_a_whole_answer_that_is_an_error(
    setting: Setting, answer: bytes, reason: str
) -> None:
    setting.engine.script = Script([answer], headers={"content-type": "application/json"})
    async with setting.http.post(CHAT, json={"model": MODEL, "messages": TURNS}) as got:
        assert (got.status, await got.read()) == (200, answer)
    assert await setting.edge.settled() == []
    assert setting.edge.seen.completions[-1].reason == reason


@pytest.mark.parametrize("failure", [*BLAMES, *FAILURES[:2]], ids=lambda failure: failure.name)
async def test_who_is_to_blame(setting: Setting, failure: Failure) -> None:
    """One client's bad requests do not have a replica left out."""
    setting.engine.script = Script([failure.body])
    edge = setting.edge
    pool = edge.picker.pools[POOL]
    pool.reset(0)
    for _ in range(DEFAULT_RULES.consecutive_failures):
        await setting.read(CHAT)
        await edge.settled()
    assert pool.breakers.tripped(edge.picker.now()) == (set() if failure in BLAMES else {0})
    pool.reset(0)


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
async def test_usage_in_an_odd_framing(setting: Setting, end: bytes) -> None:
    lines = (
        b"\xef\xbb\xbf: hello",
        b"",
        b'data: {"choices":[{"delta":{"content":"a"}}]}',
        b"",
        b'data: {"choices":[],',
        b'data: "usage":{"prompt_tokens":9,"completion_tokens":7}}',
        b"",
        b"data: [DONE]",
    )
    body = end.join(lines)
    setting.engine.script = Script([body[at : at + 20] for at in range(0, len(body), 20)])
    assert await setting.read(CHAT, stream_options={"include_usage": True}) == body
    assert await setting.charged() == Usage(9, 7)
