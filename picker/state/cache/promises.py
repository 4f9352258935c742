"""Prompts that were sent to engines whose events are followed, and whose blocks are not there yet:
they count as cached where they were sent until the event of their last block comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from picker.prompt.blocks import Blocks
from picker.prompt.token_blocks import PromptTokens
from picker.state.cache.approximate import ApproximateIndex
from picker.state.cache.feed import Feed
from picker.state.cache.held import HeldBlocks, Holder
from picker.state.cache.table import Hashes
from policies.routing.types import Floats

_PREFILL_S: Final = 10.0
"""A prompt counts as cached where it was sent until its last block's event comes, at most so
long."""
_UNTRACKED_S: Final = 2.0
"""The same, where its tokens are not known: it goes by its text."""
_MOST_AHEAD: Final = 20_000
"""Blocks of a prompt that are not there yet: of a longer one only its first ones count."""
_MOST_BLOCKS: Final = 500_000
"""Blocks of all prompts that are not there yet, about 50 MB: further prompts go by their text."""
_NO_BOUND: Final = 1 << 50

_Key = tuple[int, tuple[int, ...]]
"""A slot, and the last hashes of what was sent there."""


@dataclass(slots=True, eq=False)
class _Promise:
    until_s: float
    slot: int
    chains: tuple[Sequence[int], ...]
    added: Sequence[int] = ()
    """In the index of texts, where its tokens are not known."""
    ahead: Sequence[int] = ()
    """Hashes of its blocks that are not there yet."""
    kept: bool = False
    last: int = 0
    """Hash of its last block."""
    feeds: Sequence[Feed] = ()
    """By which that block's event will come."""
    arrived: Callable[[], None] | None = None
    """What they call then."""


class Promises:
    """Of a pool. ``held``: the blocks that events have told of."""

    def __init__(self, held: HeldBlocks) -> None:
        self._held = held
        self._texts = ApproximateIndex(default_capacity_bytes=_NO_BOUND)
        self._tracked: deque[_Promise] = deque()
        self._untracked: deque[_Promise] = deque()
        self._to: dict[_Key, list[_Promise]] = {}
        """Those that are still believed, the first ones first."""
        self._first: dict[int, dict[int, int]] = {}
        """By hash of the first block that is not there yet: slots, and how many promises."""
        self._ahead: dict[int, dict[int, int]] = {}
        """By slot: hashes of the blocks that are not there yet, and how many promises."""

        self._blocks = 0

    def __bool__(self) -> bool:
        return bool(self._tracked) or bool(self._untracked)

    def match(
        self, blocks: Blocks, prompt_tokens: float, tokens: PromptTokens, matched: Floats
    ) -> Floats:
        """The larger ones of ``matched``, by slot, and of what was promised, in tokens."""
        if self._untracked:
            texts = self._texts.match(blocks, prompt_tokens, matched.size)
            matched = np.maximum(matched, texts)
        if self._first:
            for size in tokens.sizes:
                chain = tokens.chain(size).tolist()
                most = tokens.reusable(size)
                for slot, promised in self._promised(chain):
                    if slot < matched.size:
                        matched[slot] = max(matched[slot], min(promised * size, most))
        return matched

    def add(
        self,
        now_s: float,
        slot: int,
        chains: tuple[Sequence[int], ...],
        tokens: PromptTokens | None,
        feeds: Sequence[Feed],
    ) -> None:
        """A prompt with these chains of blocks of text was sent. ``feeds``: of the slot."""
        size = feeds[0].block_tokens
        if not size or tokens is None or not tokens.ends or self._blocks >= _MOST_BLOCKS:
            promise = _Promise(now_s + _UNTRACKED_S, slot, chains, self._texts.sent(slot, chains))
            self._untracked.append(promise)
        else:
            chain = tokens.chain(size)
            there = _there(self._held, feeds[0].holder, chain)
            ahead = chain[there : there + _MOST_AHEAD].tolist()
            if not ahead:
                return  # nothing of it will be new
            promise = _Promise(now_s + _PREFILL_S, slot, chains, (), ahead)
            promise.last, promise.feeds = int(chain[-1]), feeds
            promise.arrived = partial(self._keep, promise)
            for feed in feeds:
                feed.waiting.setdefault(promise.last, []).append(promise.arrived)
            slots = self._first.setdefault(ahead[0], {})
            slots[slot] = slots.get(slot, 0) + 1
            counts = self._ahead.setdefault(slot, {})
            for block in ahead:
                counts[block] = counts.get(block, 0) + 1
            self._blocks += len(ahead)
            self._tracked.append(promise)
        self._to.setdefault(_key(slot, chains), []).append(promise)

    def take_back(self, slot: int, chains: tuple[Sequence[int], ...]) -> None:
        """One that was sent there has failed."""
        promises = self._to.get(_key(slot, chains))
        if promises:
            self._keep(promises[0])

    def reset(self, slot: int) -> None:
        """What was sent to the slot is lost."""
        for promise in (*self._tracked, *self._untracked):
            if promise.slot == slot:
                self._keep(promise)

    def expire(self, now_s: float) -> None:
        """Those that took too long are not believed any more."""
        for promises in (self._tracked, self._untracked):
            while promises and (promises[0].kept or promises[0].until_s <= now_s):
                self._keep(promises.popleft())

    def _promised(self, chain: list[int]) -> Iterator[tuple[int, int]]:
        """Slots, and how many blocks each will have."""
        for first in self._first.keys() & set(chain):
            at = chain.index(first)
            for slot in self._first[first]:
                counts, low, high = self._ahead[slot], at, len(chain) - 1
                while low < high:  # what begins a promised prompt is promised too
                    middle = (low + high + 1) // 2
                    low, high = (middle, high) if chain[middle] in counts else (low, middle - 1)
                yield slot, low + 1

    def _keep(self, promise: _Promise) -> None:
        """Its blocks are there, or it is not believed any more."""
        if promise.kept:
            return
        promise.kept = True
        slot, key = promise.slot, _key(promise.slot, promise.chains)
        if promise.added:
            self._texts.take_back(slot, promise.chains, promise.added)
        if promise.ahead:
            self._blocks -= len(promise.ahead)
            counts = self._ahead[slot]
            for block in promise.ahead:
                _one_less(counts, block)
            if not counts:
                del self._ahead[slot]
            slots = self._first[promise.ahead[0]]
            _one_less(slots, slot)
            if not slots:
                del self._first[promise.ahead[0]]
        self._to[key].remove(promise)
        if not self._to[key]:
            del self._to[key]
        for feed in promise.feeds:
            others = feed.waiting.get(promise.last)
            if others is not None and promise.arrived in others:
                others.remove(promise.arrived)
                if not others:
                    del feed.waiting[promise.last]
        promise.feeds, promise.arrived, promise.ahead = (), None, ()


def _there(held: HeldBlocks, holder: Holder, chain: Hashes) -> int:
    """How many blocks of the chain a holder has, which are its first ones."""
    low, high = 0, chain.size
    while low < high:
        middle = (low + high) // 2
        if held.holds(holder, chain[middle : middle + 1]):
            low = middle + 1
        else:
            high = middle
    return low


def _one_less(counts: dict[int, int], key: int) -> None:
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]


def _key(slot: int, chains: Sequence[Sequence[int]]) -> _Key:
    return slot, tuple(chain[-1] if len(chain) else 0 for chain in chains)
