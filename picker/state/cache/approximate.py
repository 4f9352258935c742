"""Approximate prefix index: which endpoint of a pool should have how much of a prompt cached."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import numpy as np

from picker.prompt.blocks import Blocks, block_ends
from picker.prompt.token_blocks import PromptTokens
from picker.state.cache.index import Reuse
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


_FEW_TOKENS = 64
"""Belief in fewer tokens teaches nothing."""
_ENOUGH = 0.9
"""Tokens that were found, of those believed: the rest is what is lost by measuring in bytes."""
_LESS, _MORE, _LEAST_SHARE = 0.02, 0.01, 0.25
"""How fast an endpoint's share of its capacity follows what is reported: down with each prompt that
was gone, slowly up with each one that was there."""


_ROOT = -1
"""In place of the parent of a first block."""


class _Held:
    """What one endpoint holds: a tree of blocks, for a prompt goes on from where another ended.

    A block is used whenever one below it is, so only the ends of prompts are kept in order of use:
    a block without an end of its own was last used with the last of those below it.
    """

    __slots__ = (
        "again",
        "answers",
        "bit",
        "bytes",
        "capacity_bytes",
        "ends",
        "forks",
        "parents",
        "share",
    )

    def __init__(self, slot: int, capacity_bytes: int) -> None:
        self.bit = 1 << slot
        """In the masks: one object for all of them."""
        self.capacity_bytes = capacity_bytes
        self.clear()

    def clear(self) -> None:
        """It holds nothing."""
        self.bytes = 0
        self.share = 1.0
        """Of the capacity: what is there for this index, as learned."""
        self.answers: dict[int, int] = {}
        """Of ends: bytes of the longest answer that was given after it."""
        self.parents: dict[int, int] = {}
        """Of every block, the block before it."""
        self.forks: dict[int, int] = {}
        """So many blocks go on from a block, where it is more than one."""
        self.ends: dict[int, int] = {}
        """Where prompts ended, least recently used first. Of a leaf the number of blocks before it,
        else that number inverted (~): it goes when it has become a leaf."""
        self.again: dict[int, tuple[int, int]] = {}
        """Of the ends of several prompts: how many more than one, and how many blocks, up to the
        end, were added by those of them that were taken back."""

    def use(self, chain: Sequence[int]) -> Sequence[int]:
        """A prompt was sent: its blocks are the most recent. Returns those that are new."""
        ends, parents, length = self.ends, self.parents, len(chain)
        known = length
        while known and chain[known - 1] not in parents:
            known -= 1
        if known == length:
            if length:
                end = chain[-1]
                if end in ends:
                    more, added = self.again.get(end, (0, 0))
                    self.again[end] = more + 1, added
                ends[end] = ends.pop(end, -length)
            return ()
        before = chain[known - 1] if known else _ROOT
        # As the end of a prompt it is of no interest any more: it is used with what goes on now.
        if known and ends.pop(before, -1) < 0:
            self.forks[before] = self.forks.get(before, 1) + 1
        self.again.pop(before, None)
        self._forget_answer(before)  # what goes on now has it, if it is used at all
        new = list(chain[known:])  # one object of each for all tables
        for block in new:
            parents[block] = before
            before = block
        ends[before] = length - 1
        covered = block_ends(length)
        self.bytes += covered[length] - covered[known]
        return new

    def take_back(self, chain: Sequence[int], added: int) -> Sequence[int]:
        """A prompt was sent for nothing: forget the blocks that it has ``added`` at its end, unless
        others use them. Returns those that are forgotten."""
        length = len(chain)
        end = chain[-1] if length else _ROOT
        if end not in self.ends:
            return ()  # others went on from there, or it is gone already
        more, owed = self.again.pop(end, (0, 0))
        added = max(added, owed)
        if more:
            if more > 1 or added:
                self.again[end] = more - 1, added
            return ()
        if self.ends[end] < 0:
            del self.ends[end]  # others go on from there
            self._forget_answer(end)
            return ()
        if not added:
            return ()
        del self.ends[end]
        self._forget_answer(end)
        forgotten: list[int] = []
        depth = length
        while depth > length - added and depth and chain[depth - 1] in self.parents:
            block = chain[depth - 1]
            if forgotten and (block in self.forks or block in self.ends):
                break
            del self.parents[block]
            forgotten.append(block)
            depth -= 1
        covered = block_ends(length)
        self.bytes -= covered[length] - covered[depth]
        if depth:
            self._was_extended(chain[depth - 1], depth)
        return forgotten

    def answer(self, end: int, answer_bytes: int) -> None:
        """An answer was given to a prompt that ends there, as far as it still does."""
        more = answer_bytes - self.answers.get(end, 0)
        if end in self.ends and more > 0:
            self.answers[end] = answer_bytes
            self.bytes += more

    def learn(self, believed_tokens: float, cached_tokens: int) -> None:
        """So many tokens of a prompt were believed to be cached, and so many were."""
        if believed_tokens < _FEW_TOKENS:
            return
        if cached_tokens < _ENOUGH * believed_tokens:
            missing = 1.0 - cached_tokens / believed_tokens
            self.share = max(_LEAST_SHARE, self.share * (1.0 - _LESS * missing))
        else:
            self.share = min(1.0, self.share + _MORE)

    def _forget_answer(self, end: int) -> None:
        self.bytes -= self.answers.pop(end, 0)

    def _was_extended(self, block: int, length: int) -> None:
        """What went on from a block, of so many up to it, is gone."""
        if block in self.forks:
            self.forks[block] -= 1
            if self.forks[block] == 1:
                del self.forks[block]
        else:
            self.ends[block] = length - 1

    def drop(self, excess_bytes: int) -> list[int]:
        """Drop the least recently used blocks, of one prompt the deepest first, of so many bytes
        at least."""
        ends, forks, parents = self.ends, self.forks, self.parents
        dropped: list[int] = []
        keep_bytes = self.bytes - excess_bytes
        first: dict[int, int] = {}
        for block in list(ends):
            if self.bytes <= keep_bytes:
                break
            depth = ends.pop(block)
            self.again.pop(block, None)
            self._forget_answer(block)
            covered = block_ends(depth + 1)
            while depth >= 0 and block in parents:
                parent = parents.pop(block)
                dropped.append(block)
                self.bytes -= covered[depth + 1] - covered[depth]
                depth -= 1
                if parent in forks:
                    forks[parent] -= 1
                    if forks[parent] == 1:
                        del forks[parent]
                    break
                if parent in ends:
                    ends[parent] = depth
                    break
                if self.bytes <= keep_bytes and depth >= 0:
                    first = {parent: depth}
                    break
                block = parent
        self.ends = first | ends
        self.parents = _tight(parents)
        return dropped


class ApproximateIndex:
    """Block hashes by endpoint slot, one index a pool.

    Each endpoint keeps what was sent there last, bounded by the bytes of text its KV cache can
    hold; least recently used first, and of one prompt the deepest blocks first, as vLLM evicts.
    A table from block hash to a bitmask of slots answers for all slots at once. It and a dict for
    each endpoint are the only memory per block, and a request costs what is new in it.
    """

    def __init__(self, *, default_capacity_bytes: int = DEFAULT_CAPACITY_BYTES) -> None:
        self._default_capacity_bytes = default_capacity_bytes
        self._masks: list[dict[int, int]] = [{} for _ in range(_SHARDS)]
        self._held: list[_Held] = []
        """By slot."""
        self._next_shard = 0

    def match(
        self, blocks: Blocks, prompt_tokens: float, slots: int, tokens: PromptTokens | None = None
    ) -> Floats:
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

    def sent(
        self, slot: int, chains: Iterable[Sequence[int]], tokens: PromptTokens | None = None
    ) -> Sequence[int]:
        """See `CacheIndex`: the request's blocks are the most recent."""
        held, masks = self._at(slot), self._masks
        bit, added = held.bit, []
        for chain in chains:
            new = held.use(chain)
            added.append(len(new))
            for block in new:
                shard = masks[block % _SHARDS]
                others = shard.setdefault(block, bit)
                if others is not bit:
                    shard[block] = others | bit
        self._trim(held)
        return added

    def take_back(self, slot: int, chains: Iterable[Sequence[int]], added: Iterable[int]) -> None:
        """See `CacheIndex`."""
        held = self._at(slot)
        for chain, of_chain in zip(chains, added, strict=True):
            self._unmark(held, held.take_back(chain, of_chain))

    def answered(self, slot: int, chains: Iterable[Sequence[int]], reuse: Reuse) -> None:
        """See `CacheIndex`. The answer takes room in the engine's cache too, after its prompt: half
        of it counts, because it is the first that is evicted. And where less was cached than
        believed, the engine has less room than it says: its least recently used blocks are gone.
        Those of this prompt are there now, since it has just been computed."""
        held = self._at(slot)
        for chain in chains:
            if len(chain) and reuse.prompt_tokens:
                prompt_bytes = block_ends(len(chain))[len(chain)]
                held.answer(
                    chain[-1], prompt_bytes * reuse.output_tokens // (2 * reuse.prompt_tokens)
                )
        if reuse.cached_tokens is not None:
            held.learn(reuse.believed_tokens, reuse.cached_tokens)
        self._trim(held)

    def reset(self, slot: int) -> None:
        """See `CacheIndex`."""
        if slot < len(self._held):
            held = self._held[slot]
            self._unmark(held, held.parents)
            held.clear()
            held.capacity_bytes = self._default_capacity_bytes

    def set_capacity(self, slot: int, capacity_tokens: float, bytes_per_token: float) -> None:
        """See `CacheIndex`."""
        held = self._at(slot)
        capacity_bytes = int(capacity_tokens * bytes_per_token)
        held.capacity_bytes = capacity_bytes if capacity_bytes > 0 else self._default_capacity_bytes
        self._trim(held)

    def held_bytes(self, slot: int) -> int:
        """Bytes of prompt that ``slot`` is believed to have cached."""
        return self._held[slot].bytes if slot < len(self._held) else 0

    def __len__(self) -> int:
        """Different blocks known, over all slots."""
        return sum(map(len, self._masks))

    def _match(self, chain: Sequence[int], matched: Floats) -> None:
        alive = self._holders(chain[0]) if chain else 0
        depth, ends = 0, block_ends(len(chain))
        while alive:
            depth = self._held_until(chain, depth, alive)
            kept = alive & self._holders(chain[depth]) if depth < len(chain) else 0
            _add(matched, alive ^ kept, ends[depth])
            alive = kept

    def _holders(self, block: int) -> int:
        """Slots that hold a block, as a bitmask."""
        return self._masks[block % _SHARDS].get(block, 0)

    def _held_until(self, chain: Sequence[int], start: int, slots: int) -> int:
        """The first place after ``start`` whose block some of the ``slots`` do not hold; all hold
        the one at ``start``. Who holds a block holds those before it, so the place is looked for in
        ever larger steps, and then between the last two."""
        low, step, high = start, 1, len(chain)
        while low + step < high:
            if slots & ~self._holders(chain[low + step]):
                high = low + step
                break
            low += step
            step *= 2
        while high - low > 1:
            middle = (low + high) // 2
            if slots & ~self._holders(chain[middle]):
                high = middle
            else:
                low = middle
        return high

    def _trim(self, held: _Held) -> None:
        room_bytes = int(held.capacity_bytes * held.share)
        excess_bytes = held.bytes - room_bytes
        if excess_bytes <= 0:
            return
        self._unmark(held, held.drop(excess_bytes + room_bytes // _TRIM))
        self._next_shard = shard = (self._next_shard + 1) % _SHARDS
        self._masks[shard] = _tight(self._masks[shard])

    def _unmark(self, held: _Held, blocks: Iterable[int]) -> None:
        masks, bit = self._masks, held.bit
        for block in blocks:
            shard = masks[block % _SHARDS]
            others = shard[block] ^ bit
            if others:
                shard[block] = others
            else:
                del shard[block]

    def _at(self, slot: int) -> _Held:
        while len(self._held) <= slot:
            self._held.append(_Held(len(self._held), self._default_capacity_bytes))
        return self._held[slot]


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
