"""What one engine says of its cache, event by event, and how far that can be believed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Final

from picker.prompt.blocks import HASH_MASK
from picker.prompt.token_blocks import chain_of, root_of, token_bytes
from picker.state.cache.events import (
    BlockRemoved,
    BlockStored,
    EngineHash,
    Event,
)
from picker.state.cache.held import HeldBlocks

log = logging.getLogger(__name__)

_TIERS: Final[Mapping[str | None, int]] = {None: 0, "GPU": 0, "CPU": 1}
_SLOWEST: Final = 2
_MOST_BLOCKS: Final = 2_000_000
"""An engine that holds more, or removes none, is known from then on only (80 MB)."""
_BLOCK_TOKENS: Final = range(4, 65_537)
"""An engine with blocks of another size is not known by its events: one of a token each would cost
more to follow than it is worth (SGLang's default)."""
_WHOLE_CONTEXT: Final = frozenset(
    {None, "full_attention", "mla_attention", "sink_full_attention"},
)
"""Kinds of layers that need every block of a prefix. Those of the others (a sliding window) are
evicted first and say nothing of how long a prefix can be reused."""


class FeedState(Enum):
    """How far an engine's events are known."""

    SILENT = "silent"
    """They do not come, or not completely: nothing is believed."""
    PARTIAL = "partial"
    """All from some moment on; what was cached before is unknown."""
    WHOLE = "whole"
    """All, from an empty cache on."""


class Feed:
    """One engine's events. ``held`` is shared by all engines of a pool."""

    __slots__ = (
        "_changed",
        "_group",
        "_held",
        "block_tokens",
        "doubted",
        "empty",
        "heard_s",
        "holder",
        "mistakes",
        "orphans",
        "state",
        "unfit",
        "waiting",
    )

    def __init__(self, held: HeldBlocks, changed: Callable[[], None]) -> None:
        """``changed`` is called when its holder, its state or the size of its blocks is another
        one."""
        self._held, self._changed = held, changed
        self.holder = held.join()
        self.state = FeedState.SILENT
        self.block_tokens = 0
        """Tokens in a block, 0 until a block has come."""
        self.heard_s = 0.0
        """When an event came last."""
        self.doubted = False
        """The engine has worked, and no event has come since."""
        self.empty = False
        """Nothing has come of it since its cache was empty."""
        self.unfit = False
        """Its blocks are too small, or too large, to be followed."""
        self.mistakes = 0
        """Events that contradict themselves: they are left out."""
        self.orphans = 0
        """Blocks whose parent or adapter is unknown: they are left out."""
        self.waiting: dict[int, list[Callable[[], None]]] = {}
        """By hash of a block: what to call, once, when it comes."""
        self._group: int | None = None

    @property
    def usable(self) -> bool:
        """What it holds is known as far as it can be."""
        known = self.block_tokens > 0 or self.empty
        return known and self.state is not FeedState.SILENT and not (self.doubted or self.unfit)

    def forget(self, state: FeedState) -> None:
        """Its cache is empty or unknown; go on from there in this state."""
        self._held.leave(self.holder)
        self.holder = self._held.join()
        self.state, self.empty = state, state is FeedState.WHOLE
        if state is FeedState.SILENT:  # what comes back may be another engine
            self.block_tokens, self._group, self.unfit = 0, None, False
        self.waiting.clear()
        self._changed()

    def begin(self, block_tokens: int) -> None:
        """All is known from an empty cache of such blocks on."""
        self.state, self.block_tokens = FeedState.WHOLE, block_tokens
        self._changed()

    def close(self) -> None:
        """The engine is gone."""
        self._held.leave(self.holder)
        self.state = FeedState.SILENT

    def doubt(self) -> None:
        """Events should have come, and have not."""
        self.doubted = True
        self._changed()

    def apply(self, events: Iterable[Event], now_s: float) -> None:
        """In their order."""
        self.heard_s = now_s
        if self.doubted or self.empty:
            self.doubted = self.empty = False
            self._changed()
        removed: list[int] = []
        tier = 0
        for event in events:
            if isinstance(event, BlockRemoved):  # by far the most frequent one
                if not (event.group_idx is None or event.group_idx == self._group):
                    continue
                of_event = _tier(event.medium)
                if of_event != tier and removed:
                    self.lose(removed, tier)
                    removed = []
                tier = of_event
                for name in event.block_hashes:
                    removed.append(hash((name, tier)) & HASH_MASK)
                continue
            if removed:
                self.lose(removed, tier)
                removed = []
            if isinstance(event, BlockStored):
                self._store(event)
            else:
                self.forget(FeedState.WHOLE)
        if removed:
            self.lose(removed, tier)

    def hold(self, keys: Sequence[int], chain: Sequence[int], tier: int = 0) -> None:
        """Blocks of these hashes are there, by these keys: see `HeldBlocks.stored`."""
        if len(self.holder) >= _MOST_BLOCKS:
            self.forget(FeedState.PARTIAL)
        self._held.stored(self.holder, keys, chain, tier)
        waiting = self.waiting
        if waiting:
            for block in chain:
                for arrived in waiting.pop(block, ()):
                    arrived()

    def lose(self, keys: Sequence[int], tier: int = 0) -> None:
        """These blocks are gone: see `HeldBlocks.removed`."""
        self._held.removed(self.holder, keys, tier)

    def _store(self, event: BlockStored) -> None:
        hashes, tier = event.block_hashes, _tier(event.medium)
        if not hashes or event.kv_cache_spec_kind not in _WHOLE_CONTEXT:
            return
        if self._group is None:
            self._group = event.group_idx
        if not self._counts(event.group_idx):
            return
        if not event.token_ids:
            self._copy(hashes, tier)
            return
        size = event.block_size
        if size <= 0 or len(event.token_ids) != len(hashes) * size:
            self.mistakes += 1
            return
        if self.unfit:
            return
        if not self.block_tokens:
            self.unfit = size not in _BLOCK_TOKENS
            if self.unfit:
                log.warning("KV events of blocks of %d tokens are not followed", size)
                self._changed()
                return
            self.block_tokens = size
            self._changed()
        if size != self.block_tokens:
            return  # a part of a block, by which it can be found too
        if event.lora_id and not event.lora_name:
            self.orphans += len(hashes)  # an older vLLM, which does not name the adapter
            return
        try:
            tokens = token_bytes(event.token_ids)
            extras = event.extra_keys
            adapter = event.lora_name or ""
            salt, others = ("", None) if not _any(extras) else _extras(extras, adapter)
            if others is not None and len(others) != len(hashes):
                raise ValueError("extra keys")  # noqa: TRY301 - a mistake like the others
        except (TypeError, ValueError, OverflowError, RecursionError):
            self.mistakes += 1
            return
        if event.parent_block_hash is None:
            parent: int | None = root_of(adapter, salt, size)
        else:
            parent = self._hash_of(event.parent_block_hash)
        if parent is None:
            self.orphans += len(hashes)
            return
        chain = chain_of(tokens, size, parent, others)
        self.hold(_keys(hashes, tier), chain, tier)

    def _copy(self, hashes: Sequence[EngineHash], tier: int) -> None:
        """Blocks whose tokens are not told: known by where else the engine has them."""
        for engine_hash in hashes:
            block = self._hash_of(engine_hash)
            if block is None:
                self.orphans += 1
            else:
                self._held.stored(self.holder, _keys([engine_hash], tier), [block], tier)

    def _hash_of(self, engine_hash: EngineHash) -> int | None:
        for tier in range(_SLOWEST + 1):
            (key,) = _keys([engine_hash], tier)
            block = self._held.hash_of(self.holder, key)
            if block is not None:
                return block
        return None

    def _counts(self, group: int | None) -> bool:
        """One group of layers is enough: the others that need every block have the same ones."""
        return group == self._group or group is None


def _tier(medium: str | None) -> int:
    return _TIERS.get(medium, _SLOWEST)


def _keys(hashes: Iterable[EngineHash], tier: int) -> list[int]:
    return [hash((name, tier)) & HASH_MASK for name in hashes]


def _any(extras: Sequence[Sequence[object] | None] | None) -> bool:
    return extras is not None and any(extras)


def _extras(
    extras: Sequence[Sequence[object] | None] | None, adapter: str
) -> tuple[str, list[bytes] | None]:
    """The prompt's salt, and by block what its hash has besides tokens, adapter and salt."""
    salt, others, needed = "", list[bytes](), False
    for index, keys in enumerate(extras or ()):
        rest = list(keys or ())
        if adapter and rest and rest[0] == adapter:
            del rest[0]
        if index == 0 and rest and isinstance(last := rest[-1], str):
            salt = last
            del rest[-1]
        others.append(repr(rest).encode("utf-8", "surrogatepass") if rest else b"")
        needed = needed or bool(rest)
    return salt, others if needed else None
