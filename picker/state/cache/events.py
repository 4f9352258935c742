"""What engines publish of their prefix caches: vLLM's KV events, as on the wire."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

EngineHash = int | bytes
"""An engine's own name of a block."""


class BlockStored(msgspec.Struct, tag=True, gc=False):
    """Blocks that follow each other; from now on requests can find them."""

    block_hashes: list[EngineHash]
    parent_block_hash: EngineHash | None = None
    """The block before the first one; None at a prompt's beginning."""
    token_ids: Sequence[int] = ()
    """Of all the blocks; empty when the engine does not know them any more."""
    block_size: int = 0
    """Tokens in each."""
    lora_id: int | None = None
    medium: str | None = None
    """Kind of memory; None: the GPU's."""
    lora_name: str | None = None
    extra_keys: list[list[object] | None] | None = None
    """For each block what its hash contains besides tokens: the adapter, media, and in the first
    one the salt."""
    group_idx: int | None = None
    """Layers of several kinds keep blocks of their own: the number of their group."""
    kv_cache_spec_kind: str | None = None
    """Kind of these layers."""


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """Blocks that cannot be found any more. One that is there twice is removed twice."""

    block_hashes: list[EngineHash]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, gc=False):
    """Nothing is cached any more."""


Event = BlockStored | BlockRemoved | AllBlocksCleared
