"""Chained hashes of blocks of tokens, as engines cut them: what names a block of a KV cache here.

They are not the engines' own hashes. Those depend on an algorithm, a seed (random for vLLM's
xxhash, and for all in older versions) and how each version encodes a block: two replicas may name
one block differently. What a block holds is the same everywhere: its tokens, and all before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from picker.prompt.blocks import HASH_MASK

TOKEN_BYTES: Final = 4
"""Of a token id, in this machine's order."""


def root_of(adapter: str, cache_salt: str, block_tokens: int) -> int:
    """Hash that a prompt's first block goes on from. ``adapter``: "" for the base model."""
    named = f"{block_tokens}\0{adapter}\0{cache_salt}"
    return xxhash.xxh3_64_intdigest(named.encode("utf-8", "surrogatepass")) & HASH_MASK


def token_bytes(ids: Sequence[int]) -> bytes:
    """Token ids as `chain_of` takes them. Raises OverflowError, TypeError for what is none."""
    return array("I", ids).tobytes()


def chain_of(
    tokens: bytes, block_tokens: int, parent: int, extras: Sequence[bytes] | None = None
) -> array[int]:
    """Hashes of 60 bits of the full blocks of these tokens (4 bytes each, this machine's order).
    ``parent``: of the block before the first. ``extras``: what else each block holds, images for
    instance; b"" for nothing."""
    size = block_tokens * TOKEN_BYTES
    digest = xxhash.xxh3_64_intdigest
    chain = array("Q")
    add = chain.append
    for index, (start, end) in enumerate(pairwise(range(0, len(tokens) + 1, size))):
        if extras is not None and extras[index]:
            parent = digest(extras[index], parent)
        parent = digest(tokens[start:end], parent) & HASH_MASK
        add(parent)
    return chain


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The tokens of a prompt of one sequence, as its engine will see them."""

    ids: bytes = field(repr=False)
    """4 bytes each, this machine's order."""
    adapter: str = ""
    """LoRA adapter, "" for the base model."""
    cache_salt: str = ""
    ends: bool = True
    """False: the prompt goes on, with tokens that are unknown."""
    _chains: dict[int, npt.NDArray[np.uint64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    _count: int = -1

    @classmethod
    def of_chain(cls, chain: Sequence[int], block_tokens: int, count: int) -> PromptTokens:
        """Of so many tokens, known by the hashes of their full blocks only."""
        tokens = cls(b"", _count=count)
        tokens._chains[block_tokens] = np.array(chain, np.uint64)
        return tokens

    def __len__(self) -> int:
        return self._count if self._count >= 0 else len(self.ids) // TOKEN_BYTES

    @property
    def sizes(self) -> list[int]:
        """Tokens in a block, of the blocks that were hashed."""
        return list(self._chains)

    def chain(self, block_tokens: int) -> npt.NDArray[np.uint64]:
        """Hashes of its full blocks of so many tokens."""
        chain = self._chains.get(block_tokens)
        if chain is None:
            root = root_of(self.adapter, self.cache_salt, block_tokens)
            chain = np.frombuffer(chain_of(self.ids, block_tokens, root), np.uint64)
            self._chains[block_tokens] = chain
        return chain

    def reusable(self, block_tokens: int) -> int:
        """Most tokens that an engine takes from its cache: full blocks, and not the last token."""
        count = len(self) - 1 if self.ends else len(self)
        return max(0, count) // block_tokens * block_tokens
