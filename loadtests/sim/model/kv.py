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

_PIECE = 128


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

    def match(self, block_ids: Sequence[int]) -> list[int]:
        """The blocks of the longest cached prefix of a chain of ids."""
        find = self._block_of.get
        found: list[int | None] = []
        # In pieces: long chains often miss early, and often not at all.
        for start in range(0, len(block_ids), _PIECE):
            found += map(find, block_ids[start : start + _PIECE])
            if found[-1] is None or None in found[start:]:
                del found[found.index(None) :]
                break
        return found  # type: ignore[return-value]

    def can_take(self, cached: Sequence[int], fresh: int) -> bool:
        """Whether the ``cached`` blocks and ``fresh`` further ones are available together."""
        free_blocks = self.free_blocks
        if fresh > free_blocks:
            return False
        revived = list(map(self._references.__getitem__, cached)).count(0)
        return fresh <= free_blocks - revived

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
        taken: list[int] = []
        blank = self._blank
        if blank and count:
            taken = blank[: -count - 1 : -1]
            del blank[-len(taken) :]
        made = min(count - len(taken), self.num_blocks - len(self._references))
        if made:
            first = len(self._references)
            taken.extend(range(first, first + made))
            self._references.extend([0] * made)
            self._id_of.extend([None] * made)
        self._evict(count - len(taken), taken)
        references = self._references
        for block in taken:
            references[block] = 1
        return taken

    def publish(
        self, blocks: Sequence[int], block_ids: Sequence[int], parent_id: int | None
    ) -> None:
        """A sequence's next blocks are full: let other sequences find them."""
        if not self._caching or not blocks:
            return
        id_of, block_of = self._id_of, self._block_of
        for block, block_id in zip(blocks, block_ids, strict=True):
            id_of[block] = block_id
            if block_of.setdefault(block_id, block) != block:
                self._twins.setdefault(block_id, []).append(block)
        if self._listener is not None:
            self._listener.stored(block_ids, parent_id)

    def release(self, blocks: Sequence[int]) -> None:
        """Give back a sequence's blocks. The end of a prefix is reused before its beginning."""
        references, id_of, free = self._references, self._id_of, self._free
        for block in reversed(blocks):
            left = references[block] - 1
            references[block] = left
            if not left:
                if id_of[block] is None:
                    self._blank.append(block)
                else:
                    free[block] = None

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

    def _evict(self, count: int, into: list[int]) -> None:
        """Take so many blocks that were free for the longest time; their content is given up."""
        free, id_of, block_of = self._free, self._id_of, self._block_of
        quiet = self._listener is None
        for _ in range(count):
            block, _ = free.popitem(last=False)
            into.append(block)
            block_id = id_of[block]
            if quiet and block_id not in self._twins:
                assert block_id is not None  # a free block without content is blank
                id_of[block] = None
                self.evicted_blocks += 1
                del block_of[block_id]
            else:
                self._forget(block, quiet=False)

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
