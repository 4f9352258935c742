"""KV events of a replica: which requests were admitted, in which order, and how much was evicted.

vLLM publishes what each step stored and removed over ZeroMQ, in the order in which it happened. A
request that is admitted stores the blocks it computes; a block that only one of the requests under
way has tells whose admission it was.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import msgspec
import zmq
import zmq.asyncio

from loadtests.lab.parity.recording import ParityError

_TOKEN_BYTES = 4

_Hash = bytes | int


class BlockStored(msgspec.Struct, tag=True):
    """Blocks of one sequence that can be found from now on."""

    block_hashes: list[_Hash]
    parent_block_hash: _Hash | None
    token_ids: list[int]
    lora_name: str | None = None


class BlockRemoved(msgspec.Struct, tag=True):
    """Blocks whose content was given up."""

    block_hashes: list[_Hash]


class AllBlocksCleared(msgspec.Struct, tag=True):
    """All content was given up."""


class _Batch(msgspec.Struct, array_like=True):
    """What one step did."""

    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]


_decoder = msgspec.msgpack.Decoder(_Batch)


class EventLog:
    """Subscribes at once; what it is told piles up until it is asked."""

    def __init__(self, block_size_tokens: int) -> None:
        self.removed_blocks = 0
        self.batches = 0
        self._size = block_size_tokens
        self._chain: dict[_Hash, bytes] = {}
        """Of each block hash that was told: what stands for its tokens and all before them."""
        self.stored: list[bytes] = []
        """What stands for each stored block and all before it (see `chain_of`), in order."""
        self._last: int | None = None

    def forget(self) -> None:
        """What was told so far does not count."""
        self.stored.clear()
        self.removed_blocks = 0

    def take(self, frames: Sequence[bytes]) -> None:
        """One message: topic, sequence number, batch. Raises ParityError when one was missed."""
        number = int.from_bytes(frames[-2], "big")
        if self._last is not None and number != self._last + 1:
            raise ParityError(f"KV events {self._last + 1} to {number - 1} were lost")
        self._last = number
        self.batches += 1
        for event in _decoder.decode(frames[-1]).events:
            if isinstance(event, BlockStored):
                self._stored(event)
            elif isinstance(event, BlockRemoved):
                self.removed_blocks += len(event.block_hashes)

    def _stored(self, event: BlockStored) -> None:
        parent = event.parent_block_hash
        before = _root(event.lora_name) if parent is None else self._chain.get(parent)
        if before is None:
            raise ParityError("a KV event's parent block was never told")
        chains = _chains(before, event.token_ids, self._size)
        for block_hash, chain in zip(event.block_hashes, chains, strict=True):
            self._chain[block_hash] = chain
            self.stored.append(chain)


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


def chain_of(tokens: Sequence[int], adapter: str | None, block_size_tokens: int) -> list[bytes]:
    """What stands for each full block of a prompt and all before it."""
    return list(_chains(_root(adapter), tokens, block_size_tokens))


def _root(adapter: str | None) -> bytes:
    return (adapter or "").encode()


def _chains(before: bytes, tokens: Sequence[int], size: int) -> Iterable[bytes]:
    for start in range(0, len(tokens) - size + 1, size):
        block = b"".join(
            token.to_bytes(_TOKEN_BYTES, "little") for token in tokens[start : start + size]
        )
        before = hashlib.blake2b(before + block, digest_size=16).digest()
        yield before
