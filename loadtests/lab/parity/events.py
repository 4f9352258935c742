"""KV events of a replica: which requests were admitted, in which order, and how much was evicted.

vLLM publishes over ZeroMQ what each step stored and removed, in the order in which it happened. A
request that is admitted stores the blocks that it computes. A block that only one of the requests
under way has shows that this request was admitted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import zmq
import zmq.asyncio

from loadtests.lab.parity.recording import ParityError
from loadtests.sim.serving.tokens import block_ids, from_ids, prefix_salt

_Hash = bytes | int


class _Stored(msgspec.Struct, tag="BlockStored"):
    """Blocks of one sequence that can be found from now on."""

    block_hashes: list[_Hash]
    parent_block_hash: _Hash | None
    token_ids: list[int]
    lora_name: str | None = None


class _Removed(msgspec.Struct, tag="BlockRemoved"):
    """Blocks whose content was given up."""

    block_hashes: list[_Hash]


class _Cleared(msgspec.Struct, tag="AllBlocksCleared"):
    """All content was given up."""


class _Batch(msgspec.Struct, array_like=True):
    """What one step did."""

    ts: float
    events: list[_Stored | _Removed | _Cleared]


_decoder = msgspec.msgpack.Decoder(_Batch)


class EventLog:
    """The events of one replica, as they come in."""

    def __init__(self, block_size_tokens: int) -> None:
        self.removed_blocks = 0
        self.batches = 0
        self.stored: list[int] = []
        """Names of the stored blocks (see `chain_of`), in order."""
        self._size = block_size_tokens
        self._names: dict[_Hash, int] = {}
        """Our name of each block, by the engine's hash."""
        self._last: int | None = None

    def forget(self) -> None:
        """Leave out what came so far."""
        self.stored.clear()
        self.removed_blocks = 0

    def take(self, frames: Sequence[bytes]) -> None:
        """Read one message: topic, sequence number, batch. Raises ParityError after a gap."""
        number = int.from_bytes(frames[-2], "big")
        if self._last is not None and number != self._last + 1:
            raise ParityError(f"KV events {self._last + 1} to {number - 1} were lost")
        self._last = number
        self.batches += 1
        for event in _decoder.decode(frames[-1]).events:
            if isinstance(event, _Stored):
                self._store(event)
            elif isinstance(event, _Removed):
                self.removed_blocks += len(event.block_hashes)

    def _store(self, event: _Stored) -> None:
        parent = event.parent_block_hash
        before = _root(event.lora_name) if parent is None else self._names.get(parent)
        if before is None:
            raise ParityError("no KV event has named a block's parent before the block")
        names = block_ids(from_ids(event.token_ids), before, self._size)
        self._names.update(zip(event.block_hashes, names, strict=True))
        self.stored += names


@asynccontextmanager
async def subscribed(endpoint: str, block_size_tokens: int) -> AsyncIterator[EventLog]:
    """Listens while the context is open. Raises what `EventLog.take` does."""
    events = EventLog(block_size_tokens)
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.subscribe(b"")
    socket.connect(endpoint)

    async def listen() -> None:
        while True:
            events.take(await socket.recv_multipart())

    listening = asyncio.create_task(listen())
    try:
        yield events
        if listening.done():
            listening.result()
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        socket.close(linger=0)
        context.term()


def chain_of(tokens: Sequence[int], adapter: str | None, block_size_tokens: int) -> tuple[int, ...]:
    """A name for each full block of a prompt: equal names mean equal tokens up to there."""
    return block_ids(from_ids(tokens), _root(adapter), block_size_tokens)


def _root(adapter: str | None) -> int:
    return prefix_salt(adapter, "", "")
