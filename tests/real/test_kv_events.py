"""KV events of the simulated replica are those of real vLLM: the bytes, and what is told when.

Hashes differ: what is compared is which blocks have the same one. The simulated replica is given
the answers that vLLM generated, so that the blocks of answers are compared as well.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.kv_events import KvEvents
from loadtests.sim.serving.kv_publisher import PublisherOptions
from tests.loadtests.sim.serving.kv_replica import Replica as Simulated
from tests.loadtests.sim.serving.kv_subscriber import Batch, listening, replay
from tests.real.ports import free_port
from tests.real.vllm.install import interpreter
from tests.real.vllm.model import make
from tests.real.vllm.needed import need_vllm
from tests.real.vllm.scheduling import Scenario, kv_events
from tests.real.vllm.server import Replica, ReplicaOptions

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

BLOCK: Final = 32
BLOCKS: Final = 24
ADAPTER: Final = "tiny-poet"
TOPIC: Final = "kv@test"
LIMITS: Final = EngineLimits(
    num_blocks=BLOCKS - 1,  # vLLM keeps one as a placeholder
    block_size_tokens=BLOCK,
    max_num_seqs=16,
    max_num_batched_tokens=128,
    max_model_len=512,
    max_loras=2,
    async_scheduling=False,  # as on the CPU
)
SIMULATED: Final = PublisherOptions(endpoint="tcp://*:0", replay_endpoint="tcp://*:0", topic=TOPIC)

DECODER: Final = """
import sys, msgspec
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch
decoder, encoder = msgspec.msgpack.Decoder(KVEventBatch), msgspec.msgpack.Encoder()
for line in sys.stdin:
    batch = decoder.decode(bytes.fromhex(line))
    print(msgspec.json.encode([encoder.encode(batch).hex(), msgspec.to_builtins(batch)]).decode())
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; None stands for the end of everything cached (`/reset_prefix_cache`)."""

    prompt: tuple[int, ...]
    max_tokens: int = 1
    adapter: str | None = None
    cache_salt: str = ""
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A request and the tokens that real vLLM generated for it; None as above."""

    ask: Ask
    answer: tuple[int, ...]


class RealVllm:
    """A replica with KV events."""

    def __init__(self, replica: Replica, endpoint: str, replay_endpoint: str) -> None:
        self.replica = replica
        self.endpoint = endpoint
        self.replay_endpoint = replay_endpoint
        self._http = aiohttp.ClientSession(replica.url)

    async def close(self) -> None:
        await self._http.close()

    async def ask(self, ask: Ask) -> Answered:
        body = {
            "model": ask.adapter or self.replica.options.served_name,
            "prompt": list(ask.prompt),
            "max_tokens": ask.max_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "return_token_ids": True,
        }
        if ask.cache_salt:
            body["cache_salt"] = ask.cache_salt
        if ask.session_id:
            body["session_id"] = ask.session_id
        async with self._http.post("/v1/completions", json=body) as response:
            told = await response.json()
            assert response.status == 200, told
        return Answered(ask, tuple(told["choices"][0]["token_ids"]))

    async def forget(self) -> None:
        async with self._http.post("/reset_prefix_cache") as response:
            assert (await response.json()) == {"success": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_vllm()
    return tmp_path_factory.mktemp("kv")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(folder: Path) -> AsyncIterator[RealVllm]:
    tiny = make(folder, interpreter())
    endpoint, replay_endpoint = f"ipc://{folder}/kv", f"tcp://127.0.0.1:{free_port()}"
    config = {
        "enable_kv_cache_events": True,
        "endpoint": endpoint,
        "replay_endpoint": replay_endpoint,
        "topic": TOPIC,
    }
    options = ReplicaOptions(
        model=tiny.base,
        adapters={ADAPTER: tiny.adapter},
        max_loras=LIMITS.max_loras,
        block_tokens=BLOCK,
        kv_blocks=BLOCKS,
        max_model_tokens=LIMITS.max_model_len,
        max_running=LIMITS.max_num_seqs,
        development_endpoints=True,
        extra_arguments=(
            *("--max-num-batched-tokens", str(LIMITS.max_num_batched_tokens)),
            *("--kv-events-config", json.dumps(config)),
        ),
    )
    async with Replica(options, log_folder=folder) as replica:
        real = RealVllm(replica, endpoint, replay_endpoint)
        yield real
        await real.close()


def asks() -> list[Ask | None]:
    """Prompts with common beginnings, some asked again, in more blocks than there are."""
    rng = random.Random(4)

    def text(length: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(300, 1500), k=length))

    systems = [text(length) for length in (70, 160, 256)]
    whole = text(2 * BLOCK)
    first: list[Ask | None] = [Ask(systems[n % 3] + text(20 + 13 * n), 1) for n in range(8)]
    return [
        *first,
        Ask(whole),
        Ask(whole),  # its last block is computed again and is there twice
        Ask(systems[0] + text(30), 70),
        Ask(systems[0] + text(2), 33, adapter=ADAPTER, session_id="one"),
        Ask(systems[0] + text(9), 1, adapter=ADAPTER, cache_salt="mine"),
        Ask(systems[1], 40, cache_salt="mine"),
        None,
        Ask(whole),
        Ask(text(17), 1, session_id="two"),
        Ask(systems[2] + text(200), 50),
        Ask(systems[1] + text(200), 100),
        Ask(whole, 65),
        Ask(text(480), 32),
        Ask(systems[0] + text(5), 20),
        Ask(text(5), 1),
    ]


def simulate(script: Sequence[Answered | None], events: KvEvents) -> None:
    """What real vLLM was asked, with the answers that it gave."""
    replica = Simulated(events, LIMITS)
    for turn in script:
        if turn is None:
            assert replica.engine.scheduler.pool.forget_free()
            continue
        ask = turn.ask
        replica.send(
            ask.prompt,
            turn.answer,
            adapter=ask.adapter,
            cache_salt=ask.cache_salt,
            session_id=ask.session_id,
        )
        replica.run()


def without_hashes(batches: Sequence[Sequence[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Events by batch; a hash is the number of hashes seen before it."""
    numbers: dict[int, int] = {}

    def number(block_hash: int | None) -> int | None:
        assert block_hash is None or isinstance(block_hash, int)
        return None if block_hash is None else numbers.setdefault(block_hash, len(numbers))

    told: list[list[dict[str, Any]]] = []
    for batch in batches:
        told.append([])
        for event in batch:
            plain = dict(event)
            if "block_hashes" in event:
                plain["block_hashes"] = [number(each) for each in event["block_hashes"]]
            if "parent_block_hash" in event:
                plain["parent_block_hash"] = number(event["parent_block_hash"])
            told[-1].append(plain)
    return told


def replayed(endpoint: str | None) -> list[Batch]:
    assert endpoint is not None
    return replay(endpoint)


async def settled(endpoint: str, least: int) -> list[Batch]:
    """All batches, once there are so many and no more come."""
    deadline_s = time.monotonic() + 20
    before: list[Batch] = []
    while time.monotonic() < deadline_s:
        now = await asyncio.to_thread(replay, endpoint)
        if len(now) >= least and now == before:
            return now
        before = now
        await asyncio.sleep(0.3)
    return before


async def test_the_same_requests_give_the_same_events(vllm: RealVllm) -> None:
    script: list[Answered | None] = []
    with listening(vllm.endpoint, topic=TOPIC) as subscriber:
        for ask in asks():
            if ask is None:
                await vllm.forget()
            script.append(await vllm.ask(ask) if ask else None)
        with closing(
            KvEvents(SIMULATED, block_size_tokens=BLOCK, adapters=[ADAPTER], host="127.0.0.1")
        ) as events:
            simulate(script, events)
            simulated = replayed(events.publisher.replay_endpoint)
        real = await settled(vllm.replay_endpoint, len(simulated))
        live: list[Batch] = []
        while subscriber.waiting(500):
            live.append(subscriber.take())
    assert live
    assert live == real[-len(live) :]  # a subscriber may join a little late
    assert [batch.number for batch in simulated] == [batch.number for batch in real]
    assert {batch.topic for batch in simulated} == {batch.topic for batch in real}
    assert [batch.content[2] for batch in simulated] == [batch.content[2] for batch in real]
    told = without_hashes([batch.events for batch in real])
    assert without_hashes([batch.events for batch in simulated]) == told
    kinds = [event["type"] for batch in told for event in batch]
    assert kinds.count("BlockStored") > 30
    assert kinds.count("BlockRemoved") > 50
    assert kinds.count("AllBlocksCleared") == 1


def scenario(seed: int, *, ahead: bool, together: int) -> Scenario:
    """So many requests at once, in far fewer blocks than they would like."""
    rng = random.Random(seed)

    def text(least: int, most: int) -> list[int]:
        return rng.choices(range(300, 1500), k=rng.randint(least, most))

    systems = [text(40, 40) for _ in range(3)]

    def request() -> tuple[list[int], list[int]]:
        return rng.choice(systems)[: rng.randint(10, 40)] + text(0, 60), text(1, 50)

    return Scenario(
        ahead=ahead,
        block_tokens=16,
        blocks=31,
        max_running=8,
        max_batched_tokens=64,
        max_model_tokens=256,
        rounds=[[request() for _ in range(together)] for _ in range(24 // together)],
    )


async def test_many_requests_at_once_give_the_events_of_vllms_schedulers(folder: Path) -> None:
    tiny = await asyncio.to_thread(make, folder, interpreter())
    scenarios = [
        scenario(seed, ahead=ahead, together=together)
        for seed, together in ((1, 1), (2, 3), (3, 8), (4, 12))
        for ahead in (False, True)
    ]
    expected = await asyncio.to_thread(kv_events, scenarios, tiny.base, interpreter())
    preemptions = 0
    for one, real in zip(scenarios, expected, strict=True):
        limits = EngineLimits(
            num_blocks=one.blocks - 1,
            block_size_tokens=one.block_tokens,
            max_num_seqs=one.max_running,
            max_num_batched_tokens=one.max_batched_tokens,
            max_model_len=one.max_model_tokens,
            async_scheduling=one.ahead,
        )
        with closing(
            KvEvents(SIMULATED, block_size_tokens=one.block_tokens, host="127.0.0.1")
        ) as events:
            replica = Simulated(events, limits)
            for requests in one.rounds:
                for prompt, answer in requests:
                    replica.send(prompt, answer)
                replica.run()
            preemptions += replica.engine.scheduler.preemptions
            told = [batch.events for batch in replayed(events.publisher.replay_endpoint)]
        assert without_hashes(told) == without_hashes(real), one
    assert preemptions > 10


async def test_vllm_decodes_every_field_and_would_write_the_same_bytes(folder: Path) -> None:
    script = [Answered(ask, tuple(range(ask.max_tokens))) if ask else None for ask in asks()]
    with closing(
        KvEvents(SIMULATED, block_size_tokens=BLOCK, adapters=[ADAPTER], host="127.0.0.1")
    ) as events:
        simulate(script, events)
        batches = replayed(events.publisher.replay_endpoint)
    lines = [batch.payload.hex() for batch in batches]
    done = await asyncio.to_thread(
        subprocess.run,
        [str(interpreter()), "-c", DECODER],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    decoded = [json.loads(line) for line in done.stdout.splitlines()[-len(lines) :]]
    assert [written for written, _ in decoded] == lines
    assert [content for _, content in decoded] == [batch.content for batch in batches]
    seen = {event["type"] for batch in batches for event in batch.events}
    assert seen == {"BlockStored", "BlockRemoved", "AllBlocksCleared"}
