"""Approximate prefix index: which endpoint of a pool should have how much of a prompt cached."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from picker.prompt.blocks import Blocks, block_ends
from policies.routing.types import Floats

_SHARDS = 256
"""The block table is many small dicts: growing one never takes long, growing one big one
takes tens of milliseconds."""

_TRIM = 32
"""An endpoint over its capacity is trimmed by 1/32 more than needed, so that trimming is rare."""

_LOOSE_TABLE_BYTES = 64
"""CPython grows a dict that churns to three to six times its entries; past this many bytes an
entry it is copied, which makes it one and a half to three times."""

DEFAULT_CAPACITY_BYTES = 2_000_000
"""Text that an endpoint is taken to hold until it reports its capacity: 500k tokens."""


class ApproximateIndex:
    """Block hashes by endpoint slot, one index a pool.

    Each endpoint keeps what we sent there last, bounded by the bytes of text its KV cache can
    hold; least recently used first, and of one prompt the deepest blocks first, as vLLM evicts.
    A table from block hash to a bitmask of slots answers for all slots at once. Per endpoint, a
    plain dict in order of use is the LRU list; it and the masks are the only memory per block.
    """

    def __init__(self, *, default_capacity_bytes: int = DEFAULT_CAPACITY_BYTES) -> None:
        self._default_capacity_bytes = default_capacity_bytes
        self._masks: list[dict[int, int]] = [{} for _ in range(_SHARDS)]
        self._held: list[dict[int, int]] = []
        """By slot: block hash to its bytes, least recently used first."""
        self._held_bytes: list[int] = []
        self._capacity_bytes: list[int] = []
        self._next_shard = 0

    def match(self, blocks: Blocks, prompt_tokens: float, slots: int) -> Floats:
        """See `CacheIndex`. Several chains (sequences of one request) add up."""
        if blocks.total_bytes == 0:
            return np.zeros(slots)
        return self.matched_bytes(blocks.chains, slots) * (prompt_tokens / blocks.total_bytes)

    def matched_bytes(self, chains: Iterable[list[int]], slots: int) -> Floats:
        """Bytes of the longest contiguous cached prefix by slot, shape (``slots``,)."""
        matched = np.zeros(slots)
        for chain in chains:
            self._match(chain, matched)
        return matched

    def sent(self, slot: int, chains: Iterable[Sequence[int]]) -> None:
        """See `CacheIndex`: the request's blocks are the most recent."""
        self._allocate(slot)
        held, masks = self._held[slot], self._masks
        bit = 1 << slot
        added_bytes = 0
        for chain in chains:
            ends = block_ends(len(chain))
            # Deepest first, so that in order of use a block always stands before its ancestors.
            for index in range(len(chain) - 1, -1, -1):
                block = chain[index]
                block_bytes = held.pop(block, 0)
                if not block_bytes:
                    block_bytes = ends[index + 1] - ends[index]
                    added_bytes += block_bytes
                    shard = masks[block % _SHARDS]
                    others = shard.get(block, 0)
                    shard[block] = others | bit if others else bit
                held[block] = block_bytes
        if added_bytes:
            self._held_bytes[slot] += added_bytes
            self._trim(slot)

    def reset(self, slot: int) -> None:
        """See `CacheIndex`."""
        if slot < len(self._held):
            held = self._held[slot]
            self._unmark(slot, held)
            held.clear()
            self._held_bytes[slot] = 0
            self._capacity_bytes[slot] = self._default_capacity_bytes

    def set_capacity(self, slot: int, capacity_tokens: float, bytes_per_token: float) -> None:
        """See `CacheIndex`."""
        self._allocate(slot)
        capacity_bytes = capacity_tokens * bytes_per_token
        capacity = int(capacity_bytes) if capacity_bytes > 0 else self._default_capacity_bytes
        self._capacity_bytes[slot] = capacity
        self._trim(slot)

    def held_bytes(self, slot: int) -> int:
        """Bytes of prompt that ``slot`` is believed to have cached."""
        return self._held_bytes[slot] if slot < len(self._held) else 0

    def __len__(self) -> int:
        """Different blocks known, over all slots."""
        return sum(map(len, self._masks))

    def _match(self, chain: list[int], matched: Floats) -> None:
        masks = self._masks
        alive = -1  # slots that hold every block so far
        depth = 0
        for depth, block in enumerate(chain):
            kept = alive & masks[block % _SHARDS].get(block, 0)
            if kept != alive:
                if depth:
                    _add(matched, alive ^ kept, block_ends(depth)[depth])
                if not kept:
                    return
                alive = kept
        if chain:
            _add(matched, alive, block_ends(depth + 1)[depth + 1])

    def _trim(self, slot: int) -> None:
        capacity = self._capacity_bytes[slot]
        excess = self._held_bytes[slot] - capacity
        if excess <= 0:
            return
        excess += capacity // _TRIM
        held = self._held[slot]
        dropped = 0
        freed_bytes = 0
        for block_bytes in held.values():
            if freed_bytes >= excess:
                break
            freed_bytes += block_bytes
            dropped += 1
        blocks = list(islice(held, dropped))
        for block in blocks:
            del held[block]
        self._held_bytes[slot] -= freed_bytes
        self._unmark(slot, blocks)
        self._held[slot] = _tight(held)
        self._next_shard = shard = (self._next_shard + 1) % _SHARDS
        self._masks[shard] = _tight(self._masks[shard])

    def _unmark(self, slot: int, blocks: Iterable[int]) -> None:
        bit = 1 << slot
        masks = self._masks
        for block in blocks:
            shard = masks[block % _SHARDS]
            others = shard[block] ^ bit
            if others:
                shard[block] = others
            else:
                del shard[block]

    def _allocate(self, slot: int) -> None:
        while len(self._held) <= slot:
            self._held.append({})
            self._held_bytes.append(0)
            self._capacity_bytes.append(self._default_capacity_bytes)


def _tight(table: dict[int, int]) -> dict[int, int]:
    loose = sys.getsizeof(table) > _LOOSE_TABLE_BYTES * (len(table) + 64)
    return dict(table) if loose else table


def _add(matched: Floats, slots: int, value: int) -> None:
    """``matched[slot] += value`` for each slot of a bitmask."""
    if slots & (slots - 1) == 0:
        slot = slots.bit_length() - 1
        if slot < matched.size:
            matched[slot] += value
        return
    bits = np.frombuffer(slots.to_bytes((slots.bit_length() + 7) // 8, "little"), np.uint8)
    flags = np.unpackbits(bits, bitorder="little", count=min(matched.size, bits.size * 8))
    matched[: flags.size] += flags * float(value)
