"""The client against a real simulated replica."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from loadtests.lab.live.client import LoadClient
from loadtests.lab.live.replicas import ReplicaFleet
from loadtests.lab.outcome import REFUSED, UNKNOWN
from loadtests.lab.replica_metrics import ReplicaCounters, ReplicaGauges
from loadtests.sim.serving.server import ReplicaServer
from loadtests.workloads.bodies import Api
from loadtests.workloads.prompts import Role, Segment
from loadtests.workloads.sessions import Ask, Request, Session, Turn
from loadtests.workloads.traffic import ClosedLoop, OpenLoop, Traffic
from tests.loadtests.conftest import Serve

SYSTEM_TOKENS, ASK_TOKENS, ANSWER_TOKENS = 64, 32, 16


@dataclass(frozen=True)
class Chats:
    """Conversations of some turns."""

    turns: int = 1
    name: str = "chats"

    def session(self, index: int) -> Session:
        steps = tuple(
            Turn((Ask((Segment(f"{index}/{turn}", ASK_TOKENS),), ANSWER_TOKENS, ANSWER_TOKENS),))
            for turn in range(self.turns)
        )
        return Session(f"s{index}", (Segment("system", SYSTEM_TOKENS, Role.SYSTEM),), steps)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with LoadClient.session() as session:
        yield session


def client(
    session: aiohttp.ClientSession,
    server: ReplicaServer,
    traffic: Traffic,
    *,
    model: str = "sim-model",
    api: Api = "chat",
    timeout_s: float | None = None,
) -> LoadClient:
    return LoadClient(
        session,
        f"http://{server.address}",
        traffic,
        model=model,
        api=api,
        time_scale=0.01,
        timeout_s=timeout_s,
    )


async def counters(session: aiohttp.ClientSession, server: ReplicaServer) -> ReplicaCounters:
    [found] = await ReplicaFleet(session, [server.address]).counters()
    return found


@pytest.mark.parametrize("api", ["chat", "completions"])
async def test_every_request_of_an_open_loop_is_answered_and_counted(
    serve: Serve, session: aiohttp.ClientSession, api: Api
) -> None:
    server = await serve()
    traffic = OpenLoop(Chats(), [0.0, 0.0, 1.0, 2.0, 5.0])
    sent = await client(session, server, traffic, api=api).run()
    assert (len(sent.served), sent.uncounted) == (5, 0)
    assert sent.errors == {}
    assert sorted(served.arrival_s for served in sent.served) == [0.0, 0.0, 1.0, 2.0, 5.0]
    for served in sent.served:
        assert served.output_tokens == ANSWER_TOKENS
        assert served.first_token_s is not None
        assert served.arrival_s < served.first_token_s <= served.finished_s
        assert served.replica == UNKNOWN
    told = await counters(session, server)
    assert told.prompt_tokens == sum(served.input_tokens for served in sent.served)
    assert told.generation_tokens == 5 * ANSWER_TOKENS
    assert told.cached_tokens == sum(served.cached_tokens or 0 for served in sent.served) > 0
    assert told.finished == 5


async def test_the_next_turn_repeats_the_answer_that_came(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    traffic = ClosedLoop(Chats(turns=3), 1, max_requests=3)
    asked: list[Request] = []
    take = traffic.take

    def recorded(now_s: float) -> list[Request]:
        taken = take(now_s)
        asked.extend(taken)
        return taken

    traffic.take = recorded  # type: ignore[method-assign]
    sent = await client(session, server, traffic).run()
    first, second, third = sent.served
    answers = [
        segment.literal
        for segment in asked[2].prompt.segments
        if segment.role is Role.ASSISTANT and segment.literal
    ]
    assert len(answers) == 2
    assert all(len(answer) == 4 * ANSWER_TOKENS for answer in answers)
    # What was asked and answered before is cached, up to a block: were the answers others than
    # those that the replica gave, nothing after them would be.
    for before, after in ((first, second), (second, third)):
        assert after.cached_tokens is not None
        assert after.cached_tokens > before.input_tokens


async def test_a_closed_loop_keeps_to_its_clients(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    traffic = ClosedLoop(Chats(), 2, max_requests=10)
    most, take = 0, traffic.take

    def watched(now_s: float) -> list[Request]:
        nonlocal most
        taken = take(now_s)
        most = max(most, traffic.in_flight)
        return taken

    traffic.take = watched  # type: ignore[method-assign]
    sent = await client(session, server, traffic).run()
    assert (len(sent.served), most) == (10, 2)


async def test_refusals_are_told_from_other_failures(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    sent = await client(session, server, OpenLoop(Chats(), [0.0, 0.0]), model="other").run()
    assert sent.errors == {"status 404": 2}
    assert "`other` does not exist" in sent.said["status 404"]
    assert all(served.failed and served.replica == REFUSED for served in sent.served)


async def test_streams_that_break_off_are_failures(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    fault = {"kind": "reset", "after_tokens": 0, "count": 1}
    async with session.post(f"http://{server.address}/sim/faults", json=fault) as response:
        assert response.status == 200
    traffic = ClosedLoop(Chats(), 1, max_requests=2)
    sent = await client(session, server, traffic).run()
    assert [served.failed for served in sent.served] == [True, False]
    [kind] = sent.errors
    assert kind.startswith(("stream", "connection"))


async def test_a_server_that_is_gone_ends_the_run_with_failures(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    await server.stop()
    sent = await client(session, server, OpenLoop(Chats(turns=2), [0.0, 1.0])).run()
    assert sent.errors == {"connection: ClientConnectorError": 2}


async def test_a_client_that_gives_up_leaves_nothing_behind(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve(stalled=True)
    sent = await client(session, server, OpenLoop(Chats(), [0.0]), timeout_s=20.0).run()
    assert sent.errors == {"the client went away": 1}
    [served] = sent.served
    assert served.first_token_s is None
    assert served.latency_s >= 20.0
    fleet = ReplicaFleet(session, [server.address])
    await fleet.idle()
    assert await fleet.gauges() == [ReplicaGauges()]


async def test_a_run_that_is_cancelled_leaves_nothing_behind(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve(stalled=True)
    fleet = ReplicaFleet(session, [server.address])
    running = asyncio.create_task(client(session, server, OpenLoop(Chats(), [0.0])).run())
    while (await fleet.gauges())[0].idle:
        pass
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await fleet.idle()


async def test_replicas_are_made_equal_again(serve: Serve, session: aiohttp.ClientSession) -> None:
    server = await serve()
    fleet = ReplicaFleet(session, [server.address])
    cached: list[int | None] = []
    for _ in range(2):
        sent = await client(session, server, OpenLoop(Chats(), [0.0])).run()
        cached.append(sent.served[0].cached_tokens)
    assert await fleet.forget()
    sent = await client(session, server, OpenLoop(Chats(), [0.0])).run()
    cached.append(sent.served[0].cached_tokens)
    assert cached[0] == cached[2] == 0
    assert cached[1]
    assert await fleet.models() == ["sim-model", "sim-alias"]
