"""Exact knowledge of caches, end to end: simulated replicas with real sockets, and the picker."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from loadtests.sim.model.profile import built_in
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.engine import EngineSettings
from loadtests.sim.serving.kv_publisher import PublisherOptions
from loadtests.sim.serving.replica import ReplicaSettings, SimulatedReplica
from loadtests.sim.serving.server import ReplicaServer
from picker.state.spec import EndpointSpec, KvPorts
from tests.picker.signals.exact_fleet import Fleet, fleet, right_predictions, text

MODEL = "m"
BLOCK = 16
LIMITS = EngineLimits(num_blocks=120, block_size_tokens=BLOCK, max_model_len=1024)


async def server(*, endpoint: str = "tcp://*:0", replay: str = "tcp://*:0") -> ReplicaServer:
    settings = ReplicaSettings(
        models=(MODEL,),
        engine=EngineSettings(built_in("constant-step"), LIMITS, time_scale=0.0),
        kv_events=PublisherOptions(endpoint, replay),
    )
    started = ReplicaServer(SimulatedReplica(settings, host="127.0.0.1"))
    await started.start()
    return started


@dataclass
class Servers:
    fleet: Fleet
    servers: list[ReplicaServer]

    def sync(self) -> None:
        self.fleet.sync([spec_of(one) for one in self.servers], 120 * BLOCK)

    async def settled(self) -> None:
        """What the replicas have published has arrived."""

        def there() -> bool:
            journals = [one.replica.kv_events for one in self.servers]
            done = sum(one.publisher._next for one in journals if one is not None)
            streams = self.fleet.events._streams.values()
            return sum(stream._next or 0 for stream in streams) == done

        await self.fleet.until(there)


def spec_of(server: ReplicaServer) -> EndpointSpec:
    events = server.replica.kv_events
    assert events is not None
    assert events.publisher.replay_endpoint is not None
    endpoints = events.publisher.endpoint, events.publisher.replay_endpoint
    ports = [int(one.rpartition(":")[2]) for one in endpoints]
    return EndpointSpec(server.address, kv_events=KvPorts(*ports))


@asynccontextmanager
async def simulated(replicas: int) -> AsyncIterator[Servers]:
    async with fleet(MODEL) as made:
        servers = Servers(made, [await server() for _ in range(replicas)])
        try:
            servers.sync()
            yield servers
        finally:
            for one in servers.servers:
                await one.stop()


async def test_predicted_cached_tokens_are_those_that_the_engines_report() -> None:
    async with simulated(2) as made:
        right = await right_predictions(made.fleet, 300, words=10, settled=made.settled)
        pools = [one.replica.engine._model.scheduler.pool for one in made.servers]
        assert sum(pool.evicted_blocks for pool in pools) > 500
        assert right >= 285, right


async def test_without_events_the_picker_goes_by_what_it_sent_and_comes_back() -> None:
    rng = random.Random(3)
    prompt = text(rng, 60)
    body: dict[str, object] = {"model": MODEL, "max_tokens": 4, "prompt": prompt}
    async with simulated(1) as made:
        await made.fleet.ask(body)
        await made.settled()
        await made.fleet.until(lambda: made.fleet.exact == 1)
        whole = await made.fleet.ask(body)
        assert round(whole[0]) == whole[1] > 0
        (first,) = made.servers
        spec = spec_of(first)
        port, replay = spec.kv_events.port, spec.kv_events.replay_port  # type: ignore[union-attr]
        events = first.replica.kv_events
        assert events is not None
        events.flush = lambda: None  # type: ignore[method-assign]
        await asyncio.to_thread(events.publisher.close)  # the stream dies; the replica does not
        started_s = time.monotonic()
        await made.fleet.until(lambda: made.fleet.exact == 0)
        assert time.monotonic() - started_s < 10
        predicted, reported, _ = await made.fleet.ask(body)
        assert predicted > reported / 2  # what was sent there is known all the same
        await first.stop()
        again = await server(endpoint=f"tcp://*:{port}", replay=f"tcp://*:{replay}")
        made.servers[:] = [again]
        made.sync()
        predicted, reported, _ = await made.fleet.ask(body)
        assert (predicted, reported) == (0, 0)
        await made.fleet.until(lambda: made.fleet.exact == 1)
        predicted, reported, _ = await made.fleet.ask(body)
        assert round(predicted) == reported > 0


async def test_events_that_stop_while_the_engine_works_are_missed() -> None:
    rng = random.Random(5)
    async with simulated(1) as made:
        await made.fleet.ask({"model": MODEL, "max_tokens": 4, "prompt": text(rng, 60)})
        await made.settled()
        assert made.fleet.exact == 1
        (one,) = made.servers
        events = one.replica.kv_events
        assert events is not None
        flush, events.flush = events.flush, lambda: None  # type: ignore[method-assign]
        await made.fleet.ask({"model": MODEL, "max_tokens": 4, "prompt": text(rng, 60)})
        await made.fleet.until(lambda: made.fleet.exact == 0)
        events.flush = flush  # type: ignore[method-assign]
        await made.fleet.ask({"model": MODEL, "max_tokens": 4, "prompt": text(rng, 60)})
        await made.fleet.until(lambda: made.fleet.exact == 1)


async def test_a_prompt_counts_as_cached_between_its_decision_and_its_events() -> None:
    rng = random.Random(9)
    async with simulated(2) as made:
        for _ in range(6):
            await made.fleet.ask({"model": MODEL, "max_tokens": 1, "prompt": text(rng, 40)})
        await made.settled()
        await made.fleet.until(lambda: made.fleet.exact == 2)
        body: dict[str, object] = {"model": MODEL, "max_tokens": 1, "prompt": text(rng, 80)}
        first, second = await made.fleet.decided(body), await made.fleet.decided(body)
        assert first.picks[0].matched_tokens < BLOCK
        assert second.addresses[0] == first.addresses[0]
        assert second.picks[0].matched_tokens > 0
        made.fleet.picker.abandon(first)
        made.fleet.picker.abandon(second)


async def test_token_ids_need_no_tokenizer() -> None:
    async with simulated(1) as made:
        ids: Sequence[int] = range(5_000, 5_200)
        body: dict[str, object] = {"model": MODEL, "max_tokens": 1, "prompt": list(ids)}
        await made.fleet.ask(body)
        await made.settled()
        predicted, reported, _ = await made.fleet.ask(body)
        assert predicted == reported == 199 // BLOCK * BLOCK
