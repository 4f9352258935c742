"""KV blocks with reference counts and a prefix cache; they behave as vLLM V1's block pool.

A block without references is free. If it has an id, it keeps its content and can be found again
until it is handed out. Blocks without content are handed out first, then the block that has been
free for the longest time. Two sequences that compute the same content at the same time hold a block
each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol


class OutOfBlocksError(Exception):
    """Fewer free blocks than asked for."""


class BlockListener(Protocol):
    """Is informed of what the prefix cache holds: the seam for KV events.

    As with vLLM, every block counts: an id that two blocks have is stored and removed twice.
    """

    def stored(self, block_ids: Sequence[int], parent_id: int | None) -> None:
        """A step fills these blocks of one sequence; from now on they can be found.

        They follow each other in the chain; the parent is the block before the first.
        """

    def removed(self, block_id: int) -> None:
        """A block's content was given up."""

    def cleared(self) -> None:
        """All content was given up."""

    def stepped(self) -> None:
        """A step is over."""


class BlockPool:
    """Blocks are the numbers 0..num_blocks-1. They are made when first used, so an idle pool costs
    nothing.

    With ``caching`` off, blocks never get an id.
    """

    def __init__(
        self, num_blocks: int, *, caching: bool = True, listener: BlockListener | None = None
    ) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}, must be at least 1")
        self.num_blocks = num_blocks
        self.evicted_blocks = 0
        self._caching = caching
        self._listener = listener
        self._references: list[int] = []
        self._id_of: list[int | None] = []
        self._block_of: dict[int, int] = {}
        self._twins: dict[int, list[int]] = {}
        """Further blocks with an id that is in ``_block_of``."""
        self._blank: list[int] = []
        self._free: OrderedDict[int, None] = OrderedDict()

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence refers to, with or without content."""
        return self.num_blocks - len(self._references) + len(self._blank) + len(self._free)

    @property
    def used_blocks(self) -> int:
        """Blocks that a sequence refers to."""
        return self.num_blocks - self.free_blocks

    def match(self, block_ids: Iterable[int]) -> list[int]:
        """The blocks of the longest cached prefix of a chain of ids."""
        find = self._block_of.get
        found: list[int] = []
        for block_id in block_ids:
            block = find(block_id)
            if block is None:
                break
            found.append(block)
        return found

    def can_take(self, cached: Sequence[int], fresh: int) -> bool:
        """Whether the ``cached`` blocks and ``fresh`` further ones are available together."""
        references = self._references
        revived = sum(1 for block in cached if not references[block])
        return fresh <= self.free_blocks - revived

    def take_cached(self, blocks: Iterable[int]) -> None:
        """Add a reference to blocks that `match` found."""
        references, free = self._references, self._free
        for block in blocks:
            if not references[block]:
                del free[block]
            references[block] += 1

    def take_fresh(self, count: int) -> list[int]:
        """Blocks without content. Raises OutOfBlocksError when too few are free."""
        if count > self.free_blocks:
            raise OutOfBlocksError(f"{count} KV blocks wanted, {self.free_blocks} free")
        return [self._take_one() for _ in range(count)]

    def publish(
        self, blocks: Sequence[int], block_ids: Sequence[int], parent_id: int | None
    ) -> None:
        """A sequence's next blocks are full: let other sequences find them."""
        if not self._caching or not blocks:
            return
        for block, block_id in zip(blocks, block_ids, strict=True):
            self._id_of[block] = block_id
            if self._block_of.setdefault(block_id, block) != block:
                self._twins.setdefault(block_id, []).append(block)
        if self._listener is not None:
            self._listener.stored(block_ids, parent_id)

    def release(self, blocks: Sequence[int]) -> None:
        """Give back a sequence's blocks. The end of a prefix is reused before its beginning."""
        references, id_of = self._references, self._id_of
        for block in reversed(blocks):
            references[block] -= 1
            if not references[block]:
                if id_of[block] is None:
                    self._blank.append(block)
                else:
                    self._free[block] = None

    def forget_free(self) -> bool:
        """Drop all content, as vLLM's /reset_prefix_cache does.

        While a sequence has a reference to a block, nothing happens and the answer is False.
        """
        if self.used_blocks:
            return False
        for block in self._free:
            self._forget(block, quiet=True)
            self._blank.append(block)
        self._free.clear()
        if self._listener is not None:
            self._listener.cleared()
        return True

    def _take_one(self) -> int:
        if self._blank:
            block = self._blank.pop()
        elif len(self._references) < self.num_blocks:
            block = len(self._references)
            self._references.append(0)
            self._id_of.append(None)
        else:
            block, _ = self._free.popitem(last=False)
            self._forget(block, quiet=False)
        self._references[block] = 1
        return block

    def _forget(self, block: int, *, quiet: bool) -> None:
        block_id = self._id_of[block]
        if block_id is None:
            return
        self._id_of[block] = None
        self.evicted_blocks += 1
        if self._listener is not None and not quiet:
            self._listener.removed(block_id)
        twins = self._twins.get(block_id)
        if twins is not None:
            if self._block_of[block_id] == block:
                self._block_of[block_id] = twins.pop(0)
            else:
                twins.remove(block)
            if not twins:
                del self._twins[block_id]
            return
        del self._block_of[block_id]
