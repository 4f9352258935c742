"""Chained block hashes: equal prefixes of prompts give equal prefixes of hash chains.

Blocks grow with their position, at fixed boundaries: fine where prompts differ (system prompts,
first turns), coarse where only few and long ones get to, so that a 400 kB prompt has 217 blocks
and not 1,600.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import xxhash
from msgspec import Struct

from picker.prompt.forms import Prompt

_ZONES = ((256, 4 * 1024), (512, 16 * 1024), (1024, 128 * 1024))
"""(block bytes, zone ends at byte); beyond the last zone blocks have ``_LAST_BLOCK_BYTES``."""
_LAST_BLOCK_BYTES = 4096

MAX_BLOCKS = 16_384
"""Of all sequences of a request, about 64 MB of one text: what is hashed is looked up and kept too,
on the event loop."""

HASH_MASK = (1 << 60) - 1
"""60 bits: two digits of a Python int, 16 bytes less in the index for each block."""


class Blocks(Struct, frozen=True):
    """Block hashes of a prompt, one chain per sequence, and one ahead for what all of them share; a
    last partial block is not hashed."""

    chains: tuple[list[int], ...]
    total_bytes: int
    """Of all chains, with partial last blocks."""


_ends: list[int] = [0]
"""_ends[i] = bytes covered by the first i blocks; grows with the longest prompt seen."""


def block_ends(count: int) -> Sequence[int]:
    """``ends[i]`` = bytes that the first i blocks of any sequence cover, for i <= ``count``."""
    while len(_ends) <= count:
        _ends.append(_ends[-1] + _block_bytes_at(_ends[-1]))
    return _ends


def hash_blocks(prompt: Prompt, *, model: str, adapter: str = "", cache_salt: str = "") -> Blocks:
    """Chains of 60-bit xxh3 hashes, each seeded with the one before; the first with the salts.
    What sequences begin with has a chain of its own, by which theirs are seeded. Past
    ``MAX_BLOCKS`` of a request nothing is hashed."""
    unit = "ids" if prompt.token_ids else "text"
    salt = f"{unit}\0{model}\0{adapter}\0{cache_salt}"
    seed = xxhash.xxh3_64_intdigest(salt.encode("utf-8", "surrogatepass")) & HASH_MASK
    chains: list[list[int]] = []
    left = MAX_BLOCKS
    shared = prompt.shared if prompt.shared_first else b""
    if shared:
        chains.append(_chain(shared, seed, left))
        left -= len(chains[0])
        seed = xxhash.xxh3_64_intdigest(shared, seed) & HASH_MASK
    for sequence in prompt.sequences:
        chains.append(_chain(sequence, seed, left))
        left -= len(chains[-1])
        if left == 0:
            break
    return Blocks(tuple(chains), len(shared) + sum(map(len, prompt.sequences)))


def _chain(sequence: bytes, seed: int, most: int) -> list[int]:
    length = len(sequence)
    while _ends[-1] < length:
        _ends.append(_ends[-1] + _block_bytes_at(_ends[-1]))
    digest = xxhash.xxh3_64_intdigest
    chain: list[int] = []
    start = 0
    for end in islice(_ends, 1, most + 1):
        if end > length:
            break
        seed = digest(sequence[start:end], seed) & HASH_MASK
        chain.append(seed)
        start = end
    return chain


def _block_bytes_at(offset: int) -> int:
    for block_bytes, zone_end in _ZONES:
        if offset < zone_end:
            return block_bytes
    return _LAST_BLOCK_BYTES
