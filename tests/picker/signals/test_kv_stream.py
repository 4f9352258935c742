"""KV events over real sockets: gaps, replay, restart, garbage; what is lost is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
import pytest_asyncio
import zmq

from loadtests.sim.serving.kv_publisher import Publisher, PublisherOptions
from picker.prompt.token_blocks import PromptTokens, token_bytes
from picker.signals.kv_replays import Replays
from picker.signals.kv_stream import KvEndpoint, KvStats, KvStream
from picker.signals.turns import Turns
from picker.state.cache.events import AllBlocksCleared, BlockRemoved, BlockStored, Event
from picker.state.cache.feed import Feed, FeedState
from picker.state.cache.held import HeldBlocks

SIZE = 4
NUMBER = 8
Context = zmq.Context[zmq.Socket[bytes]]


def tokens_of(blocks: int) -> list[int]:
    return list(range(1_000, 1_000 + blocks * SIZE))


def stored(first: int, count: int) -> BlockStored:
    """Blocks of one long prompt; the engine names them 10 and up."""
    return BlockStored(
        block_hashes=list(range(10 + first, 10 + first + count)),
        parent_block_hash=9 + first if first else None,
        token_ids=list(range(1_000 + first * SIZE, 1_000 + (first + count) * SIZE)),
        block_size=SIZE,
        medium="GPU",
        group_idx=0,
    )


def batch(*events: Event) -> tuple[float, tuple[Event, ...], int]:
    return 0.0, events, 0


class Listening:
    """A stream and the index that it feeds."""

    def __init__(self, context: Context, endpoint: KvEndpoint) -> None:
        self.held, self.stats = HeldBlocks(), KvStats()
        self.feed = Feed(self.held, lambda: None)
        self.stream = KvStream(endpoint, self.feed, context, Turns(), Replays(), self.stats)
        self.stream.open()

    def depth(self, blocks: int = 50) -> int:
        """Blocks of the long prompt that the engine has."""
        prompt = PromptTokens(token_bytes(tokens_of(blocks)))
        return int(self.held.match(prompt.chain(SIZE))[0][self.feed.holder.number])

    async def until(self, depth: int, state: FeedState) -> None:
        async with asyncio.timeout(20):
            while (self.depth(), self.feed.state) != (depth, state):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def context() -> AsyncIterator[Context]:
    made: Context = zmq.Context()
    yield made
    made.destroy(linger=0)


@contextmanager
def publishing(
    endpoint: str = "tcp://*:0", replay: str | None = "tcp://*:0", *, buffer_steps: int = 1000
) -> Iterator[Publisher]:
    options = PublisherOptions(endpoint, replay, "kv", buffer_steps=buffer_steps)
    publisher = Publisher(options, host="127.0.0.1")
    try:
        yield publisher
    finally:
        publisher.close()


@contextmanager
def listening(
    context: Context, publisher: Publisher, *, replays: bool = True
) -> Iterator[Listening]:
    replay = publisher.replay_endpoint if replays else None
    one = Listening(context, KvEndpoint(publisher.endpoint, replay, "kv"))
    try:
        yield one
    finally:
        one.stream.close()


async def test_who_comes_late_asks_for_what_was_before(context: Context) -> None:
    with publishing() as publisher:
        publisher.publish(batch(stored(0, 3)))
        publisher.publish(batch(stored(3, 2)))
        with listening(context, publisher) as one:
            await one.until(5, FeedState.WHOLE)
            publisher.publish(batch(stored(5, 1), BlockRemoved([14], "GPU", 0)))
            await one.until(4, FeedState.WHOLE)
            publisher.publish(batch(AllBlocksCleared()))
            await one.until(0, FeedState.WHOLE)


async def test_what_is_no_longer_kept_is_unknown(context: Context) -> None:
    with publishing(buffer_steps=2) as publisher:
        for first in range(3):
            publisher.publish(batch(stored(first, 1)))
        publisher.publish(batch(AllBlocksCleared(), stored(0, 2)))
        with listening(context, publisher) as one:
            await one.until(2, FeedState.WHOLE)  # but then all was cleared
    with publishing(buffer_steps=1) as publisher:
        publisher.publish(batch(stored(0, 1)))
        publisher.publish(batch(BlockStored([99], None, tokens_of(1), SIZE, group_idx=0)))
        with listening(context, publisher) as one:
            await one.until(1, FeedState.PARTIAL)
            assert one.stats.lost == 1


async def test_without_a_replay_only_what_comes_is_known(context: Context) -> None:
    with publishing(replay=None) as publisher:
        publisher.publish(batch(stored(0, 1)))
        with listening(context, publisher, replays=False) as one:
            async with asyncio.timeout(20):
                while one.feed.state is FeedState.SILENT:  # until the subscription is in force
                    publisher.publish(batch())
                    await asyncio.sleep(0.005)
            publisher.publish(batch(stored(1, 1), stored(0, 2)))  # the first one has no parent here
            await one.until(2, FeedState.PARTIAL)
            assert one.feed.orphans == 1


class Raw:
    """A publisher whose every frame is the test's own."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.pub, self.router = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
        self.ports = [one.bind_to_random_port("tcp://127.0.0.1") for one in (self.pub, self.router)]
        self.asked: list[int] = []

    @property
    def endpoint(self) -> KvEndpoint:
        events, replay = (f"tcp://127.0.0.1:{port}" for port in self.ports)
        return KvEndpoint(events, replay)

    def send(self, number: int, payload: bytes) -> None:
        self.pub.send_multipart([b"", number.to_bytes(NUMBER, "big"), payload])

    async def replay(self, *batches: tuple[int, bytes]) -> int:
        """Answer the next request; the number that it asks for."""
        async with asyncio.timeout(20):
            while not self.router.poll(0):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        client, _, first = self.router.recv_multipart()
        for number, payload in batches:
            sent = [client, b"", b"", number.to_bytes(NUMBER, "big"), payload]
            self.router.send_multipart(sent)
        self.router.send_multipart(
            [client, b"", b"", (-1).to_bytes(NUMBER, "big", signed=True), b""]
        )
        return int.from_bytes(first, "big")

    def close(self) -> None:
        self.pub.close(linger=0)
        self.router.close(linger=0)


@pytest.fixture
def raw(context: Context) -> Iterator[Raw]:
    made = Raw(context)
    yield made
    made.close()


def packed(*events: Event) -> bytes:
    return msgspec.msgpack.encode(batch(*events))


@contextmanager
def heard(context: Context, raw: Raw) -> Iterator[Listening]:
    one = Listening(context, raw.endpoint)
    try:
        yield one
    finally:
        one.stream.close()


async def test_a_gap_is_filled_and_what_came_meanwhile_follows(context: Context, raw: Raw) -> None:
    first, second, third, fourth = (packed(stored(at, 1)) for at in range(4))
    with heard(context, raw) as one:
        assert await raw.replay() == 0
        await one.until(0, FeedState.WHOLE)
        raw.send(0, first)
        await one.until(1, FeedState.WHOLE)
        raw.send(2, third)
        raw.send(3, fourth)
        assert await raw.replay((1, second), (2, third)) == 1
        await one.until(4, FeedState.WHOLE)
        assert (one.stats.gaps, one.stats.lost, one.feed.orphans) == (1, 0, 0)


async def test_a_replay_that_loses_some_is_asked_again(context: Context, raw: Raw) -> None:
    batches = [(at, packed(stored(at, 1))) for at in range(6)]
    with heard(context, raw) as one:
        assert await raw.replay(*batches[:2], *batches[4:]) == 0
        assert await raw.replay(*batches[2:]) == 2
        await one.until(6, FeedState.WHOLE)


async def test_a_gap_that_cannot_be_filled_is_the_end_of_what_was_known(
    context: Context, raw: Raw
) -> None:
    with heard(context, raw) as one:
        await raw.replay((0, packed(stored(0, 5))))
        await one.until(5, FeedState.WHOLE)
        raw.send(7, packed(stored(0, 2)))
        assert await raw.replay() == 1
        await one.until(2, FeedState.PARTIAL)
        assert one.stats.lost == 1


async def test_numbers_that_go_back_are_another_engine(context: Context, raw: Raw) -> None:
    with heard(context, raw) as one:
        await raw.replay((0, packed(stored(0, 5))))
        raw.send(1, packed(stored(5, 1)))
        await one.until(6, FeedState.WHOLE)
        raw.send(0, packed(stored(0, 2)))
        await one.until(2, FeedState.WHOLE)
        raw.send(1, packed(stored(2, 1)))
        await one.until(3, FeedState.WHOLE)
        assert one.stats.restarts == 1


async def test_garbage_is_counted_and_skipped(context: Context, raw: Raw) -> None:
    strange = [
        b"",
        b"\xc1",
        b"\x93\x01\x02\x03",
        packed()[:-3],
        packed(BlockStored([1], None, [1, 2, 3], SIZE)),  # too few tokens
        packed(BlockStored([1, 2], 77, tokens_of(2), SIZE)),  # a parent that nobody knows
        packed(BlockStored([1], None, [-5] * SIZE, SIZE)),
        packed(BlockStored([1], None, tokens_of(1), SIZE, extra_keys=[["a"], ["b"]])),
        packed(BlockRemoved([5_555], "DISK", 3)),
    ]
    with heard(context, raw) as one:
        await raw.replay()
        await one.until(0, FeedState.WHOLE)
        raw.pub.send_multipart([b"", b"short", packed()])
        raw.pub.send_multipart([b"alone"])
        for number, payload in enumerate(strange):
            raw.send(number, payload)
        raw.send(len(strange), packed(stored(0, 4)))
        await one.until(4, FeedState.WHOLE)
        assert one.stats.malformed == 6
        assert (one.feed.mistakes, one.feed.orphans) == (3, 2)


async def test_nesting_without_end_is_garbage_too(context: Context, raw: Raw) -> None:
    def nested(depth: int) -> msgspec.Raw:
        return msgspec.Raw(b"\x91" * depth + b"\xc0")

    def within(event: object) -> bytes:
        return msgspec.msgpack.encode([0.0, [event]])

    extras = [[nested(800)]]
    stored_event = {"type": "BlockStored", "block_hashes": [1], "token_ids": tokens_of(1)}
    with heard(context, raw) as one:
        await raw.replay()
        await one.until(0, FeedState.WHOLE)
        raw.send(0, within(nested(100_000)))
        raw.send(1, within({**stored_event, "block_size": SIZE, "extra_keys": extras}))
        raw.send(2, packed(stored(0, 2)))
        await one.until(2, FeedState.WHOLE)
        assert one.stats.malformed == 1


async def test_a_turn_that_fails_ends_neither_itself_nor_the_others() -> None:
    turns, done = Turns(), asyncio.Event()
    failures: list[float] = []

    def failing(until_s: float) -> bool:
        failures.append(until_s)
        raise RuntimeError("a mistake")

    def working(until_s: float) -> bool:
        done.set()
        return False

    turns.add(failing)
    turns.add(working)
    async with asyncio.timeout(20):
        await done.wait()
        while len(failures) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    turns.drop(failing)


async def test_one_bad_event_does_not_take_the_others_of_its_batch(
    context: Context, raw: Raw
) -> None:
    good = msgspec.to_builtins(stored(0, 2))
    old = ["BlockStored", [12], 11, tokens_of(3)[2 * SIZE :], SIZE, None, "GPU"]
    events = [{"type": "BlockMelted"}, good, 7, old, [], {"type": "BlockRemoved"}]
    with heard(context, raw) as one:
        await raw.replay((0, msgspec.msgpack.encode([0.0, events, None, "more"])))
        await one.until(3, FeedState.WHOLE)
        assert one.stats.malformed == 4


async def test_a_connection_that_is_lost_is_the_end_until_it_is_back(context: Context) -> None:
    with publishing() as publisher:
        publisher.publish(batch(stored(0, 3)))
        endpoint, replay = publisher.endpoint, publisher.replay_endpoint
        one = Listening(context, KvEndpoint(endpoint, replay, "kv"))
        await one.until(3, FeedState.WHOLE)
    try:
        await one.until(0, FeedState.SILENT)
        with publishing(endpoint.replace("127.0.0.1", "*"), replay) as publisher:
            publisher.publish(batch(stored(0, 2)))
            await one.until(2, FeedState.WHOLE)
    finally:
        one.stream.close()


async def test_a_burst_leaves_the_loop_to_others(context: Context, raw: Raw) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with heard(context, raw) as one:
        await raw.replay()
        await one.until(0, FeedState.WHOLE)
        beside = asyncio.create_task(other())
        raw.send(0, packed(*(stored(at, 20) for at in range(0, 40_000, 20))))
        async with asyncio.timeout(60):
            while len(one.feed.holder) < 40_000:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        beside.cancel()
        assert turns > 10
        assert one.depth(40_000) == 40_000


def test_blocks_of_adapters_salts_and_images_are_different_blocks() -> None:
    held = HeldBlocks()
    feed = Feed(held, lambda: None)
    ids = tokens_of(2)
    told: list[tuple[str | None, list[list[object] | None] | None]] = [
        (None, None),
        ("poet", [["poet"], ["poet"]]),
        ("poet", [["poet", "salt"], ["poet"]]),
        (None, [["salt"], None]),
        (None, [None, [["image", 0]]]),
    ]
    for at, (adapter, extras) in enumerate(told):
        names: list[int | bytes] = [b"%d" % at, b"%d'" % at]
        event = BlockStored(names, None, ids, SIZE, lora_name=adapter, extra_keys=extras)
        feed.apply([event], 0.0)
    assert len(held) == 9  # all share no block but the first of the plain one and the image's

    def depth(prompt: PromptTokens) -> int:
        return int(held.match(prompt.chain(SIZE))[0][0])

    packed_ids = token_bytes(ids)
    for adapter, salt in (("", ""), ("poet", ""), ("poet", "salt"), ("", "salt")):
        assert depth(PromptTokens(packed_ids, adapter, salt)) == 2
    assert depth(PromptTokens(packed_ids, "", "other")) == 0
    feed.apply([BlockRemoved([b"0"]), BlockRemoved([b"4"])], 0.0)
    assert depth(PromptTokens(packed_ids)) == 0
    assert np.array_equal(held.match(PromptTokens(packed_ids, "poet").chain(SIZE))[0], [2.0])


def test_layers_that_forget_early_do_not_count_and_a_placeholder_is_joined_by_its_name() -> None:
    held = HeldBlocks()
    feed = Feed(held, lambda: None)
    ids, names = tokens_of(2), [b"a", b"b"]
    window = BlockStored(
        [*names], None, ids, SIZE, group_idx=0, kv_cache_spec_kind="sliding_window"
    )
    full = BlockStored([*names], None, ids, SIZE, group_idx=1, kv_cache_spec_kind="full_attention")
    other = BlockStored([*names], None, ids, SIZE, group_idx=2, kv_cache_spec_kind="full_attention")
    feed.apply([window, full, other], 0.0)
    chain = PromptTokens(token_bytes(ids)).chain(SIZE)
    feed.apply([BlockRemoved([b"a"], None, 0), BlockRemoved([b"b"], None, 2)], 0.0)
    assert held.match(chain)[0][0] == 2
    feed.apply([BlockStored([b"b"], medium="CPU", group_idx=1)], 0.0)
    feed.apply([BlockRemoved([b"b"], None, 1)], 0.0)
    assert [level[0] for level in held.match(chain)] == [1, 2]
    feed.apply([BlockRemoved([b"b"], "CPU", 1)], 0.0)
    assert [level[0] for level in held.match(chain)] == [1, 1]
