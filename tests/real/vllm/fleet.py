"""Two real vLLM replicas, one of them with a LoRA adapter, behind one gateway."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.real.gateway import Gateway, Json, eventually
from tests.real.vllm.install import interpreter
from tests.real.vllm.model import TinyModel, make
from tests.real.vllm.server import Counters, Replica, ReplicaOptions

BASE: Final = "tiny"
ADAPTER: Final = "tiny-poet"
ALIAS: Final = "any-chat"
ADAPTER_ALIAS: Final = "any-poet"
_QUIET_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts, whoever counted."""

    input: int = 0
    output: int = 0
    cached: int = 0
    """Of the input."""

    @classmethod
    def counted_by(cls, vllm: Counters) -> Self:
        """vLLM's own account."""
        return cls(vllm.prompt_tokens, vllm.generation_tokens, vllm.prefix_cache_hits)

    @classmethod
    def logged(cls, lines: Iterable[Json]) -> Self:
        """The sum over lines of the request log."""
        keys = ("input_tokens", "output_tokens", "cached_tokens")
        rows = [[int(str(line.get(key, 0))) for key in keys] for line in lines]
        return cls(*(sum(column) for column in zip(*rows, strict=True)))

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.input + other.input, self.output + other.output, self.cached + other.cached
        )

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.input - other.input, self.output - other.output, self.cached - other.cached
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the tests of real vLLM share."""

    model: TinyModel
    poet: Replica
    """Has the adapter."""
    plain: Replica
    gateway: Gateway

    @property
    def replicas(self) -> tuple[Replica, Replica]:
        return self.poet, self.plain

    async def counted(self) -> dict[str, Tokens]:
        """vLLM's account by replica address, once nothing is under way any more."""
        await eventually(self._idle, "nothing is in flight, nothing runs")
        before: dict[str, Tokens] = {}
        while True:  # a replica publishes its last step a little after the answer
            now = {one.address: Tokens.counted_by(await one.counters()) for one in self.replicas}
            if now == before:
                return now
            before = now
            await asyncio.sleep(_QUIET_S)

    async def growth(self, since: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """What vLLM has counted since then, by replica address."""
        return {address: now - since[address] for address, now in (await self.counted()).items()}

    async def metric(self, name: str, **labels: str) -> int:
        """Sum of a metric of the gateway over the samples with these labels."""
        families = text_string_to_metric_families(await self.gateway.metrics())
        return int(
            sum(
                sample.value
                for family in families
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )
        )

    async def lines(self, ids: Iterable[str]) -> dict[str, Json]:
        """The request log's line of each request, as soon as all are there. AssertionError when
        one has two."""
        wanted = set(ids)
        found: list[Json] = []

        async def all_there() -> bool:
            log = self.gateway.request_log()
            found[:] = [line for line in log if line["request_id"] in wanted]
            return len(found) >= len(wanted)

        await eventually(all_there, f"a log line for each of {len(wanted)} requests")
        by_id = {str(line["request_id"]): line for line in found}
        assert len(by_id) == len(found) == len(wanted)
        return by_id

    async def line(self, request_id: str) -> Json:
        """The request log's line of one request, as soon as it is there."""
        return (await self.lines([request_id]))[request_id]

    async def listed(self) -> list[str]:
        """Names under the gateway's /v1/models, sorted."""
        async with aiohttp.ClientSession(self.gateway.url) as session:
            answer = await session.get("/v1/models")
            return sorted(model["id"] for model in (await answer.json())["data"])

    async def _idle(self) -> bool:
        counters = [await one.counters() for one in self.replicas]
        busy = sum(one.running + one.waiting for one in counters)
        return busy == 0 and await self.gateway.in_flight() == 0


def pinned_to(replica: Replica) -> dict[str, str]:
    """Headers of a request that belongs to a session on this replica."""
    return {"x-session-token": base64.b64encode(replica.address.encode()).decode()}


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Fleet]:
    """Starts the fleet, both replicas at the same time; leaves nothing behind."""
    model = await asyncio.to_thread(make, folder, interpreter())
    poet, plain = (
        Replica(
            ReplicaOptions(
                model=model.base,
                adapters=adapters,
                runtime_lora_updates=True,
                development_endpoints=True,
            ),
            log_folder=folder,
        )
        for adapters in ({ADAPTER: model.adapter}, {})
    )
    config: Json = {
        "pools": [{"name": "chat", "type": "static", "endpoints": [poet.address, plain.address]}],
        "models": [
            {"name": ALIAS, "targets": [{"model": BASE}]},
            {"name": ADAPTER_ALIAS, "targets": [{"model": ADAPTER}]},
        ],
        # `auto` moves a session where that is cheaper; tests pin requests to a replica.
        "scheduling": {"default_profile": "weighted"},
    }
    async with AsyncExitStack() as stack:
        for replica in (poet, plain):
            stack.push_async_callback(replica.stop)
        async with asyncio.TaskGroup() as starting:
            for replica in (poet, plain):
                starting.create_task(replica.start())
        print(f"vLLM ready after {poet.ready_after_s:.0f} and {plain.ready_after_s:.0f} s")
        gateway = await stack.enter_async_context(Gateway(folder / "gateway", config))
        await gateway.healthy(poet.address, plain.address)
        yield Fleet(model, poet, plain, gateway)
