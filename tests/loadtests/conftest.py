"""A simulated replica on a free port, in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest

from loadtests.sim.model.profile import built_in
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.answers import AnswerLengths
from loadtests.sim.serving.engine import EngineSettings
from loadtests.sim.serving.replica import ReplicaSettings, SimulatedReplica
from loadtests.sim.serving.server import ReplicaServer

CONSTANT_STEP = built_in("constant-step")
FAST = EngineSettings(CONSTANT_STEP, EngineLimits(16384, max_model_len=4096), time_scale=0.0)
STALLED = EngineSettings(replace(CONSTANT_STEP, overhead_s=3600.0), FAST.limits)
"""Its first step never ends within a test."""


async def until(check: Callable[[], object]) -> None:
    """Look again and again; the test's own time limit ends it."""
    while not check():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.001)


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
            engine=replace(base, limits=replace(base.limits, max_loras=max_loras)),
            lengths=AnswerLengths(median_tokens=24, shortest_tokens=12),
        )
        server = ReplicaServer(SimulatedReplica(settings))
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
