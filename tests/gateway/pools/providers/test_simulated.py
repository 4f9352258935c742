"""Simulated pools: the command of the simulator, and real simulators."""

from __future__ import annotations

import asyncio
import sys

import aiohttp

from gateway.config.schema.pools import SimulatedPool
from gateway.pools.providers.simulated import simulated_plan
from gateway.run.compose import provider_of


def test_the_simulators_command_has_the_settings() -> None:
    given = SimulatedPool(
        name="s",
        type="simulated",
        model="qwen",
        adapters=("sql", "law"),
        max_loras=2,
        engine_profile="qwen3-32b-tp2-h100",
        max_num_batched_tokens=2048,
        seed=7,
    )
    command = simulated_plan(given).launch.command
    assert {"--profile=qwen3-32b-tp2-h100", "--max-num-batched-tokens=2048"} <= set(command)
    assert not [each for each in command if each.startswith("--num-blocks")]  # the profile's
    assert command[:3] == (sys.executable, "-m", "loadtests.sim")
    assert {"--model=qwen", "--lora=sql", "--lora=law", "--max-loras=2", "--port={port}"} <= set(
        command
    )


async def test_a_simulated_pool_serves() -> None:
    given = SimulatedPool(name="s", type="simulated", replicas=2, model="qwen", adapters=("sql",))
    pool = provider_of(given, lambda: None)
    await pool.start()
    try:
        async with asyncio.timeout(60):
            while len(pool.endpoints()) < 2:  # noqa: ASYNC110 - processes start
                await asyncio.sleep(0.01)
        address = pool.endpoints()[0].address
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://{address}/v1/models") as response,
        ):
            models = (await response.json())["data"]
        assert {model["id"] for model in models} == {"qwen", "sql"}
    finally:
        await pool.stop()
