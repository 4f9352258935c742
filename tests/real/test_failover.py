"""Replicas that die: clients notice nothing as long as nothing was sent, and the rest goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.real.gateway import Gateway, Json, eventually
from tests.real.replicas import STEADY, Recorder, Replica

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

CHAT: Json = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
POET: Json = {**CHAT, "model": "poet"}


@dataclass(slots=True)
class Unlucky(Recorder):
    """Takes requests and then breaks off, or says that it is overloaded."""

    answer: int | None = None
    """Status of its answer; None: the connection is reset."""

    async def _record(self, request: web.Request) -> web.Response:
        await Recorder._record(self, request)  # a slotted dataclass breaks super()
        if self.answer is not None:
            return web.json_response({"error": "mine"}, status=self.answer)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


@dataclass(frozen=True, slots=True)
class Stage:
    """What the tests play on."""

    gateway: Gateway
    http: aiohttp.ClientSession
    replicas: list[Replica]
    """Three of model ``m``; only the first has the adapter ``poet``."""
    unlucky: Unlucky

    async def all_up(self) -> None:
        """Start again who was killed."""
        await asyncio.gather(*(one.start() for one in self.replicas if not one.alive))
        await self.healthy(*self.replicas)

    async def healthy(self, *replicas: Replica) -> None:
        """Returns when these replicas, and no others of theirs, get requests."""
        await self.gateway.healthy(self.unlucky.address, *(replica.address for replica in replicas))

    async def busy(self) -> Replica:
        """The replica that runs most, once any runs something."""
        running: list[float] = []

        async def any_runs() -> bool:
            running[:] = await asyncio.gather(*(one.running() for one in self.replicas))
            return any(running)

        await eventually(any_runs, "a replica runs requests")
        return self.replicas[running.index(max(running))]

    async def chat(self, body: Json = CHAT, **options: object) -> tuple[int, Json]:
        """Status and JSON of an answer that is not streamed."""
        sent = {"max_tokens": 3, **body, **options}
        async with self.http.post("/v1/chat/completions", json=sent) as answer:
            assert answer.content_type == "application/json"
            return answer.status, await answer.json()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("failover")
    lora = ("--lora=poet", "--max-loras=1")
    replicas = [Replica(folder, *STEADY, *options) for options in (lora, (), ())]
    async with Unlucky(model="unlucky") as unlucky:
        await asyncio.gather(*(replica.start() for replica in replicas))
        endpoints = [replica.address for replica in replicas]
        config: Json = {
            "pools": [
                {"name": "chat", "type": "static", "endpoints": endpoints},
                {"name": "unlucky", "type": "static", "endpoints": [unlucky.address]},
            ]
        }
        async with Gateway(folder, config) as gateway, aiohttp.ClientSession(gateway.url) as http:
            yield Stage(gateway, http, replicas, unlucky)
        for replica in replicas:
            replica.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(running_stage: Stage) -> Stage:
    """All replicas up."""
    await running_stage.all_up()
    return running_stage


async def test_connection_refused_and_the_second_choice_serves(stage: Stage) -> None:
    stage.replicas[1].kill()
    asked = [stage.chat(messages=[{"role": "user", "content": f"{n}"}]) for n in range(30)]
    answers = await asyncio.gather(*asked)
    assert {status for status, _ in answers} == {200}


@pytest.mark.parametrize("stream", [False, True])
async def test_killed_before_the_answer_and_the_second_choice_serves(
    stage: Stage, stream: bool
) -> None:
    """Not streamed, vLLM sends nothing before the last token; streamed, its headers at once."""
    asked = [asyncio.create_task(stage.chat(max_tokens=100)) for _ in range(12)]
    victim = await stage.busy()
    victim.kill()
    if stream:
        async with stage.http.post(
            "/v1/chat/completions", json={**CHAT, "max_tokens": 3, "stream": True}
        ) as answer:
            assert (await answer.text()).endswith("data: [DONE]\n\n")
    answers = await asyncio.gather(*asked)
    assert {status for status, _ in answers} == {200}
    assert {answer["usage"]["completion_tokens"] for _, answer in answers} == {100}  # type: ignore[index]


async def test_a_prompt_of_5_mb_moves_on_too(stage: Stage) -> None:
    words = [{"role": "user", "content": "word " * 1_000_000}]
    # Too long for these replicas, so the answer is a 400: from a replica, not from us.
    stage.replicas[0].kill()
    stage.replicas[1].kill()
    status, answer = await stage.chat(messages=words)
    assert status == 400
    assert "context length" in str(answer)


async def test_killed_in_mid_stream_only_its_own_streams_end(stage: Stage) -> None:
    begun = asyncio.Semaphore(0)

    async def read(number: int) -> str:
        body = {"max_tokens": 150, "stream": True, "model": "m"}
        messages = [{"role": "user", "content": f"{number} hello"}]
        async with stage.http.post(
            "/v1/chat/completions", json={**body, "messages": messages}
        ) as answer:
            assert answer.status == 200
            text = (await answer.content.readline()).decode()
            begun.release()
            return text + (await answer.text())

    reading = [asyncio.create_task(read(number)) for number in range(12)]
    for _ in reading:
        await begun.acquire()
    victim = await stage.busy()
    cut_off = await victim.running()
    victim.kill()
    answers = await asyncio.gather(*(stage.chat() for _ in range(10)))
    assert {status for status, _ in answers} == {200}
    ends = await asyncio.gather(*reading, return_exceptions=True)
    broken = [end for end in ends if not isinstance(end, str)]
    assert 0 < len(broken) == cut_off < 12
    assert all(isinstance(end, aiohttp.ClientPayloadError) for end in broken)
    whole = [end for end in ends if isinstance(end, str)]
    assert all(end.endswith("data: [DONE]\n\n") for end in whole)

    async def nothing_in_flight() -> bool:
        return await stage.gateway.in_flight() == 0

    await eventually(nothing_in_flight, "nothing is in flight")


async def test_all_gone_is_503_and_back_is_200(stage: Stage) -> None:
    for replica in stage.replicas:
        replica.kill()
    for _ in range(5):  # before anybody has noticed, and after
        status, answer = await stage.chat()
        error = answer["error"]
        assert isinstance(error, dict)
        assert (status, error["type"], error["code"]) == (503, "server_error", "no_endpoints")
    await stage.replicas[2].start()
    await stage.healthy(stage.replicas[2])
    answers = await asyncio.gather(*(stage.chat() for _ in range(20)))
    assert {status for status, _ in answers} == {200}


async def test_an_adapter_never_falls_back_to_a_replica_without_it(stage: Stage) -> None:
    waiting = [asyncio.create_task(stage.chat(POET, max_tokens=1000)) for _ in range(5)]
    assert await stage.busy() is stage.replicas[0]
    stage.replicas[0].kill()
    assert {status for status, _ in await asyncio.gather(*waiting)} == {502}
    statuses = []
    for _ in range(10):
        answers = await asyncio.gather(*(stage.chat(POET) for _ in range(4)))
        statuses += [status for status, _ in answers]
    assert set(statuses) == {503}
    assert (await stage.chat())[0] == 200
    await stage.all_up()
    assert (await stage.chat(POET))[0] == 200


@pytest.mark.parametrize("answer", [503, None])
async def test_a_lone_replica_that_always_fails(stage: Stage, answer: int | None) -> None:
    """One choice, so one try: nothing is sent twice. Last it resets the connection, after which
    it gets nothing until it is read again."""
    stage.unlucky.answer = answer
    stage.unlucky.seen.clear()
    status, told = await stage.chat(model="unlucky")
    assert len(stage.unlucky.seen) == 1
    if answer is None:
        error = told["error"]
        assert isinstance(error, dict)
        assert (status, error["code"]) == (502, "upstream_error")
        assert "broke the connection off" in error["message"]
    else:
        assert (status, told) == (503, {"error": "mine"})
