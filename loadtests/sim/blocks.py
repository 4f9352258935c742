"""KV cache blocks with prefix caching, as vLLM V1's block pool keeps them.

A block is free when no sequence refers to it; a free block keeps its content, and can be found by
its hash, until it is handed out again. The block that was freed longest ago is handed out first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class OutOfBlocksError(Exception):
    """Fewer blocks are free than were asked for."""


class BlockPool:
    """Blocks are numbers 0..num_blocks-1, made when first used, so an idle pool costs nothing."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references: list[int] = []
        self._hash_of: list[int | None] = []
        self._block_of: dict[int, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict()

    @property
    def used_blocks(self) -> int:
        """Blocks that a sequence refers to."""
        return len(self._references) - len(self._free)

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence refers to, with or without content."""
        return self.num_blocks - self.used_blocks

    def match(self, hashes: Iterable[int]) -> list[int]:
        """Blocks holding the longest cached prefix of a chain of hashes."""
        found: list[int] = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def can_take(self, cached: Sequence[int], fresh: int) -> bool:
        """Whether `cached` blocks and `fresh` further ones can be had together."""
        reclaimed = sum(1 for block in cached if not self._references[block])
        return fresh <= self.free_blocks - reclaimed

    def take_cached(self, blocks: Iterable[int]) -> None:
        """Refer to blocks that `match` found."""
        for block in blocks:
            if not self._references[block]:
                del self._free[block]
            self._references[block] += 1

    def take_fresh(self, count: int) -> list[int]:
        """Blocks without content. Raises OutOfBlocksError when too few are free."""
        if count > self.free_blocks:
            raise OutOfBlocksError(f"{count} KV blocks wanted, {self.free_blocks} free")
        blocks: list[int] = []
        for _ in range(count):
            if len(self._references) < self.num_blocks:
                block = len(self._references)
                self._references.append(1)
                self._hash_of.append(None)
            else:
                block, _ = self._free.popitem(last=False)
                self._references[block] = 1
                self._forget(block)
            blocks.append(block)
        return blocks

    def publish(self, block: int, block_hash: int) -> None:
        """A block is full: let others find it by its hash. The first block of a hash stays."""
        if self._block_of.setdefault(block_hash, block) == block:
            self._hash_of[block] = block_hash

    def release(self, blocks: Sequence[int]) -> None:
        """Give back a sequence's blocks; the end of a prefix is reused before its beginning."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if not self._references[block]:
                self._free[block] = None

    def forget_free(self) -> None:
        """Drop the content of all free blocks, as vLLM's /reset_prefix_cache does."""
        for block in self._free:
            self._forget(block)

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of[block]
        if block_hash is not None:
            self._hash_of[block] = None
            del self._block_of[block_hash]
