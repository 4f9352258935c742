"""Publishes what a replica's prefix cache holds, as vLLM 0.32 does.

A batch has the events that had gathered when a step ended. With asynchronous scheduling these
include the blocks of the next step; and after `reset_prefix_cache`, its event. The types here are
those on the wire, in vLLM's order. Fields that vLLM leaves out for blocks in GPU memory of a model
with full attention (locality, ownership, a sliding window) are left out. Requests for
`kv_cache_report_mode: full` and multimodal keys are not simulated.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from loadtests.sim.model.kv import BlockListener
from loadtests.sim.serving.kv_publisher import Publisher, PublisherOptions
from loadtests.sim.serving.tokens import TOKEN_BYTES

_MEDIUM = "GPU"
_GROUP = 0
_ATTENTION = "full_attention"
_RANK = 0


class BlockStored(msgspec.Struct, tag=True, omit_defaults=True, frozen=True):
    """A sequence's next blocks; from now on they can be found."""

    block_hashes: list[int]
    parent_block_hash: int | None
    """The block before the first one; None at a sequence's beginning."""
    token_ids: list[int]
    """Tokens of all blocks."""
    block_size: int
    """Tokens in each block."""
    lora_id: int | None
    """Adapters have numbers from 1 in the order in which they were loaded."""
    medium: str | None
    lora_name: str | None
    extra_keys: list[list[str] | None] | None = None
    """For each block, what its hash contains besides tokens: the adapter, and the first block's
    salt."""
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    session_id: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, omit_defaults=True, frozen=True):
    """A block was given to another sequence. When several have the same hash, each is removed
    alone."""

    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, frozen=True):
    """The prefix cache was emptied."""


KvEvent = BlockStored | BlockRemoved | AllBlocksCleared


class KvEventBatch(msgspec.Struct, array_like=True, frozen=True):
    """The payload of one message."""

    ts: float
    """Seconds since 1970."""
    events: list[KvEvent]
    data_parallel_rank: int


@dataclass(slots=True)
class _Chain:
    """The blocks of an announced request."""

    token_ids: memoryview
    adapter: str | None
    adapter_id: int | None
    cache_salt: str
    session_id: str | None


@dataclass(slots=True)
class _Announced:
    """A block of a chain, and how many requests have announced it."""

    chain: _Chain
    index: int
    requests: int = 1


class KvEvents(BlockListener):
    """Publishes what an engine does with its blocks. Raises EndpointError.

    ``adapters``: those loaded from the start. ``host`` replaces a ``*`` in endpoints.
    """

    def __init__(
        self,
        options: PublisherOptions,
        *,
        block_size_tokens: int,
        adapters: Iterable[str] = (),
        host: str = "*",
    ) -> None:
        self.publisher = Publisher(options, host=host)
        self._block_size = block_size_tokens
        self._adapter_ids = {name: number for number, name in enumerate(adapters, 1)}
        self._announced: dict[int, _Announced] = {}
        self._gathered: list[KvEvent] = []
        self._ready: list[list[KvEvent]] = []

    def announce(
        self,
        block_ids: Sequence[int],
        tokens: bytes,
        adapter: str | None,
        *,
        cache_salt: str = "",
        session_id: str | None = None,
    ) -> None:
        """A request is submitted: these blocks will hold these tokens, those of the answer too.

        A token has four bytes. Raises ValueError when there are fewer tokens than the blocks hold.
        """
        if len(tokens) // TOKEN_BYTES < len(block_ids) * self._block_size:
            raise ValueError(
                f"{len(tokens) // TOKEN_BYTES} tokens do not fill {len(block_ids)} blocks of "
                f"{self._block_size}"
            )
        adapter_id = None
        if adapter is not None:
            adapter_id = self._adapter_ids.setdefault(adapter, len(self._adapter_ids) + 1)
        token_ids = memoryview(tokens).cast("I")
        chain = _Chain(token_ids, adapter, adapter_id, cache_salt, session_id)
        announced = self._announced
        for index, block_id in enumerate(block_ids):
            known = announced.get(block_id)
            if known is None:
                announced[block_id] = _Announced(chain, index)
            else:
                known.requests += 1

    def withdraw(self, block_ids: Iterable[int]) -> None:
        """The request is over. Its blocks stay in the cache, but it fills no further ones."""
        announced = self._announced
        for block_id in block_ids:
            known = announced[block_id]
            known.requests -= 1
            if not known.requests:
                del announced[block_id]

    def stored(self, block_ids: Sequence[int], parent_id: int | None) -> None:
        """Raises LookupError for blocks that no request has announced."""
        # By the last block: requests that share the first may differ later.
        known = self._announced.get(block_ids[-1])
        if known is None:
            raise LookupError(f"KV block {block_ids[-1]} is filled and was not announced")
        chain, first = known.chain, known.index + 1 - len(block_ids)
        size = self._block_size
        token_ids = chain.token_ids[first * size : (first + len(block_ids)) * size]
        self._gathered.append(
            BlockStored(
                block_hashes=list(block_ids),
                parent_block_hash=parent_id,
                token_ids=token_ids.tolist(),
                block_size=size,
                lora_id=chain.adapter_id,
                medium=_MEDIUM,
                lora_name=chain.adapter,
                extra_keys=[_extra_keys(chain, first + nth) for nth in range(len(block_ids))],
                group_idx=_GROUP,
                kv_cache_spec_kind=_ATTENTION,
                session_id=chain.session_id,
            )
        )

    def removed(self, block_id: int) -> None:
        self._gathered.append(BlockRemoved([block_id], _MEDIUM, _GROUP))

    def cleared(self) -> None:
        self._gathered.append(AllBlocksCleared())

    def stepped(self) -> None:
        if self._gathered:
            self._ready.append(self._gathered)
            self._gathered = []

    def flush(self) -> None:
        """Publish a batch for each step that is over. It never blocks."""
        for events in self._ready:
            self.publisher.publish(KvEventBatch(time.time(), events, _RANK))
        self._ready.clear()

    def close(self) -> None:
        """Publish what is left, and end the thread."""
        self.flush()
        self.publisher.close()


def _extra_keys(chain: _Chain, index: int) -> list[str] | None:
    """vLLM's extra keys for a block of a chain; None if there are none."""
    keys = [] if chain.adapter is None else [chain.adapter]
    if chain.cache_salt and index == 0:
        keys.append(chain.cache_salt)
    return keys or None
