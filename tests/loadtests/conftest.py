"""A simulated replica on a free port, in the test's own event loop."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest

from loadtests.sim.answers import AnswerLengths
from loadtests.sim.replica import Replica, ReplicaSettings
from loadtests.sim.scheduler import EngineSettings
from loadtests.sim.server import ReplicaServer

FAST = EngineSettings(time_scale=0.0, max_model_tokens=4096)
STALLED = replace(FAST, step_fixed_s=3600.0, time_scale=1.0)
"""Its first step never ends within a test."""

Serve = Callable[..., Awaitable[ReplicaServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a replica; `stalled=True` gives one that never produces a token."""
    servers: list[ReplicaServer] = []

    async def start(
        *,
        stalled: bool = False,
        engine: EngineSettings | None = None,
        adapters: tuple[str, ...] = (),
        max_loras: int = 0,
    ) -> ReplicaServer:
        base = engine or (STALLED if stalled else FAST)
        settings = ReplicaSettings(
            models=("sim-model", "sim-alias"),
            adapters=adapters,
            engine=replace(base, max_loras=max_loras),
            lengths=AnswerLengths(median_tokens=24, shortest_tokens=12),
        )
        server = ReplicaServer(Replica(settings))
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
