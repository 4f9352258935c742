"""Exact prefix index: what engines publish of their caches; where they do not, the approximate one.

For each slot by itself, without a switch: an endpoint whose events come is known exactly for
prompts whose tokens are known, any other one by what was sent there. Between the decision and the
event of a prompt's last block, the prompt counts as cached where it was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from picker.prompt.blocks import Blocks
from picker.prompt.token_blocks import PromptTokens
from picker.state.cache.approximate import ApproximateIndex
from picker.state.cache.feed import Feed, FeedState
from picker.state.cache.held import HeldBlocks
from picker.state.cache.index import Reuse
from picker.state.cache.promises import Promises
from policies.routing.types import Floats

TIER_CREDIT: Final = (1.0, 0.7, 0.4)
"""What a cached token is worth by where it is: in the GPU's memory; in the host's, from where
copying takes a third of computing it, as an order of magnitude; on a disk or another machine."""

_EVENT_LATE_S: Final = 0.5
"""An engine's events come after the answer at most so late."""
_ANY_BLOCK: Final = 256
"""Tokens in a block, where its size is unknown: hardly any engine has larger ones."""
_MOST_SIZES: Final = 4
"""Different sizes of blocks in a pool: each prompt is hashed for each of them."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The slots whose events come, of one size of blocks."""

    block_tokens: int
    """0 where nothing has come yet, because the cache is empty."""
    slots: npt.NDArray[np.intp]
    holders: npt.NDArray[np.intp]


class ExactIndex:
    """`CacheIndex` over events and over what was sent. ``now``: picker's clock, seconds."""

    def __init__(
        self, now: Callable[[], float], *, approximate: ApproximateIndex | None = None
    ) -> None:
        self._now = now
        self.approximate = approximate or ApproximateIndex()
        """What was sent."""
        self.held = HeldBlocks()
        """The blocks that events have told of."""
        self._feeds: dict[int, list[Feed]] = {}
        """By slot; one for each rank."""
        self._promises = Promises(self.held)
        self._doubts: deque[tuple[float, int, float]] = deque()
        """Until when an event must have come, of which slot, and since when."""
        self._known: list[_Known] | None = None
        self._partial = np.empty(0, np.intp)
        """Of the known slots, those of which only a part is known."""

    # -- events

    def join(self, slot: int) -> Feed:
        """Events of the endpoint in ``slot`` are to come."""
        feed = Feed(self.held, self._changed)
        self._feeds.setdefault(slot, []).append(feed)
        return feed

    def part(self, feed: Feed) -> None:
        """No more events come of a feed that has joined."""
        feed.close()
        for slot, feeds in list(self._feeds.items()):
            if feed in feeds:
                feeds.remove(feed)
                if not feeds:
                    del self._feeds[slot]
        self._changed()

    def missing_slots(self) -> frozenset[int]:
        """Slots whose events have come, and do not now."""
        return frozenset(
            slot
            for slot, feeds in self._feeds.items()
            if any(feed.heard_s and not feed.unfit for feed in feeds)
            and not any(feed.usable for feed in feeds)
        )

    def exact_slots(self) -> frozenset[int]:
        """Slots that are known by their events now."""
        known = self._known_now()
        return frozenset(int(slot) for one in known for slot in one.slots)

    @property
    def block_sizes(self) -> Sequence[int]:
        """Tokens in a block, of those engines whose events come."""
        return [one.block_tokens for one in self._known_now() if one.block_tokens]

    def tick(self) -> None:
        """A few times a second: see whose events no longer come."""
        now_s, doubts = self._now(), self._doubts
        while doubts and doubts[0][0] <= now_s:
            _, slot, since_s = doubts.popleft()
            feeds = self._feeds.get(slot, ())
            if feeds and all(feed.heard_s < since_s for feed in feeds):
                for feed in feeds:
                    feed.doubt()
        self._promises.expire(now_s)
        self.held.tidy()

    # -- CacheIndex

    def match(
        self, blocks: Blocks, prompt_tokens: float, slots: int, tokens: PromptTokens | None = None
    ) -> Floats:
        """See `CacheIndex`."""
        matched = self.approximate.match(blocks, prompt_tokens, slots)
        known = self._known_now() if tokens is not None else ()
        if not known or tokens is None:
            return matched
        parts = self._partial[self._partial < slots]
        believed = matched[parts]
        exact = np.zeros(slots)
        for one in known:
            found = self._cached(one, tokens) if one.block_tokens else np.zeros(one.slots.size)
            fits = one.slots < slots
            matched[one.slots[fits]] = 0.0
            np.maximum.at(exact, one.slots[fits], found[fits])
        matched = np.maximum(matched, exact)
        matched[parts] = np.maximum(matched[parts], believed)
        if self._promises:
            self._promises.expire(self._now())
            matched = self._promises.match(blocks, prompt_tokens, tokens, matched)
        return matched

    def sent(
        self, slot: int, chains: Iterable[Sequence[int]], tokens: PromptTokens | None = None
    ) -> Sequence[int]:
        """See `CacheIndex`."""
        chains = tuple(chains)
        added = self.approximate.sent(slot, chains)
        feeds = [feed for feed in self._feeds.get(slot, ()) if feed.usable]
        if feeds:
            now_s = self._now()
            self._promises.expire(now_s)
            self._promises.add(now_s, slot, chains, tokens, feeds)
        return added

    def take_back(self, slot: int, chains: Iterable[Sequence[int]], added: Iterable[int]) -> None:
        """See `CacheIndex`."""
        chains = tuple(chains)
        self.approximate.take_back(slot, chains, added)
        self._promises.take_back(slot, chains)

    def answered(self, slot: int, chains: Iterable[Sequence[int]], reuse: Reuse) -> None:
        """See `CacheIndex`."""
        self.approximate.answered(slot, chains, reuse)
        feeds = self._feeds.get(slot, ())
        sizes = [feed.block_tokens or _ANY_BLOCK for feed in feeds if feed.usable]
        cached = reuse.prompt_tokens if reuse.cached_tokens is None else reuse.cached_tokens
        if sizes and reuse.prompt_tokens - cached >= 2 * max(sizes):
            self._doubts.append((self._now() + _EVENT_LATE_S, slot, reuse.sent_s))

    def reset(self, slot: int) -> None:
        """See `CacheIndex`. Events are believed again once they have been taken up anew."""
        self.approximate.reset(slot)
        self._promises.reset(slot)
        for feed in self._feeds.get(slot, ()):
            feed.forget(FeedState.SILENT)

    def set_capacity(self, slot: int, capacity_tokens: float, bytes_per_token: float) -> None:
        """See `CacheIndex`."""
        self.approximate.set_capacity(slot, capacity_tokens, bytes_per_token)

    # -- inside

    def _changed(self) -> None:
        self._known = None

    def _known_now(self) -> Sequence[_Known]:
        if self._known is None:
            by_size: dict[int, list[tuple[int, int]]] = {}
            parts: set[int] = set()
            for slot, feeds in self._feeds.items():
                for feed in feeds:
                    if feed.usable:
                        pair = slot, feed.holder.number
                        by_size.setdefault(feed.block_tokens, []).append(pair)
                        if feed.state is FeedState.PARTIAL:
                            parts.add(slot)
            ranked = sorted(by_size.items(), key=lambda one: len(one[1]) if one[0] else 0)
            self._known = [
                _Known(size, *np.array(pairs, np.intp).T) for size, pairs in ranked[-_MOST_SIZES:]
            ]
            self._partial = np.array(sorted(parts), np.intp)
        return self._known

    def _cached(self, known: _Known, tokens: PromptTokens) -> Floats:
        """Tokens that each of the known ones has cached, slower tiers by their credit."""
        chain = tokens.chain(known.block_tokens)
        most = tokens.reusable(known.block_tokens)
        found, before = np.zeros(known.holders.size), np.zeros(known.holders.size)
        for credit, level in zip(TIER_CREDIT, self.held.match(chain), strict=False):
            reached = np.minimum(level[known.holders] * known.block_tokens, most)
            found += credit * (reached - before)
            before = reached
        return found
