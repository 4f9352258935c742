"""The exact prefix index: events in, lookups out, and memory, in this process.

Times are CPU time of this process on one core.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

import msgspec
import numpy as np

from loadtests.bench.figures.measurement import Effort
from loadtests.bench.rows import Row, below
from picker.prompt.token_blocks import PromptTokens
from picker.signals.kv_wire import pieces, read_batch
from picker.state.cache.events import BlockRemoved, BlockStored, Event
from picker.state.cache.feed import Feed, FeedState
from picker.state.cache.held import HeldBlocks

_REPLICAS: Final = 100
_BLOCK: Final = 16
_EVENT_BLOCKS: Final = 64
_PROMPT_TOKENS: Final = 100_000
_NAME_BYTES: Final = 32


class _Engine:
    """Makes the events of a replica that stores prompts of its own and evicts the oldest."""

    def __init__(self, seed: int, capacity_blocks: int) -> None:
        self._rng = random.Random(seed)
        self._capacity = capacity_blocks // _EVENT_BLOCKS
        self._held: list[Sequence[bytes]] = []

    def step(self) -> list[Event]:
        """A prompt of some blocks, and as many blocks evicted where there is no more room."""
        rng, count = self._rng, _EVENT_BLOCKS
        names = [rng.randbytes(_NAME_BYTES) for _ in range(count)]
        tokens = [rng.randrange(150_000) for _ in range(count * _BLOCK)]
        events: list[Event] = []
        if len(self._held) >= self._capacity:
            events = [BlockRemoved([name], "GPU", 0) for name in reversed(self._held.pop(0))]
        self._held.append(names)
        events.append(BlockStored([*names], None, tokens, _BLOCK, medium="GPU", group_idx=0))
        return events


def rows(effort: Effort) -> list[Row]:
    """All of them."""
    return [*_events(effort), *_lookups(effort)]


def _events(effort: Effort) -> Iterator[Row]:
    capacity = effort.of(10_240, 2_560)
    held = HeldBlocks()
    feeds = [Feed(held, lambda: None) for _ in range(_REPLICAS)]
    engines = [_Engine(seed, capacity) for seed in range(_REPLICAS)]
    for name, steps in (("filling", capacity // _EVENT_BLOCKS), ("evicting as many", 32)):
        operations, index_s, wire_s = 0, 0.0, 0.0
        for _ in range(steps):
            effort.say(f"block events of {_REPLICAS} replicas, {name}")
            payloads = [msgspec.msgpack.encode((0.0, one.step(), 0)) for one in engines]
            started_s = time.process_time()
            batches = [read_batch(payload)[0] for payload in payloads]
            wire_s += time.process_time() - started_s
            operations += sum(
                len(event.block_hashes)
                for events in batches
                for event in events
                if isinstance(event, BlockStored | BlockRemoved)
            )
            started_s = time.process_time()
            for feed, events in zip(feeds, batches, strict=True):
                feed.apply(pieces(events), 0.0)
            index_s += time.process_time() - started_s
        rate, with_wire = operations / index_s, operations / (index_s + wire_s)
        aim, met = "> 400,000 /s", rate > 400_000
        how = f"{len(held):,} blocks; {with_wire:,.0f} /s with decoding"
        yield Row(f"exact index, block operations, {name}", rate, "/s", how, aim=aim, met=met)
    tables = held.size_bytes + sum(feed.holder.table.size_bytes for feed in feeds)
    each = tables / sum(len(feed.holder) for feed in feeds)
    aim, met = below(each, 64, "B")
    how = "of tables; no block is held by two"
    yield Row("exact index, memory per block and replica", each, "B", how, aim=aim, met=met)


def _lookups(effort: Effort) -> Iterator[Row]:
    effort.say("lookups of a long prompt")
    ids = np.random.default_rng(1).integers(0, 150_000, _PROMPT_TOKENS, dtype=np.uint32)
    tokens = PromptTokens(ids.tobytes())
    started_s = time.process_time()
    chain = tokens.chain(_BLOCK)
    hash_us = (time.process_time() - started_s) * 1e6
    held, token_ids = HeldBlocks(), ids.tolist()
    others = random.Random(2)
    for replica in range(_REPLICAS):
        feed = Feed(held, lambda: None)
        feed.forget(FeedState.WHOLE)
        blocks = (replica + 1) * chain.size // _REPLICAS
        names: list[int | bytes] = [others.randbytes(_NAME_BYTES) for _ in range(blocks)]
        event = BlockStored(names, None, token_ids[: blocks * _BLOCK], _BLOCK, medium="GPU")
        feed.apply([event, *_Engine(replica, 1 << 20).step()], 0.0)
    times_us = []
    for _ in range(effort.of(400, 100)):
        started_s = time.process_time()
        held.match(chain)
        times_us.append((time.process_time() - started_s) * 1e6)
    lookup_us = median(times_us)
    aim, met = below(lookup_us, 500, "us")
    how = f"{chain.size:,} blocks; {_REPLICAS} replicas hold each another part of it"
    name = "exact index, lookup of 100k tokens"
    yield Row(name, lookup_us, "us", how, aim=aim, met=met)
    yield Row("100k tokens: hash their blocks", hash_us, "us", f"{chain.size:,} blocks")
