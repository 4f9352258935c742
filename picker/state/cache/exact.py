"""Exact prefix index: what engines publish of their caches; where they do not, the approximate one.

For each slot by itself, without a switch: an endpoint whose events come is known exactly for
prompts whose tokens are known, any other one by what was sent there. Between the decision and the
event of a prompt's last block, the prompt counts as cached where it was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from picker.prompt.blocks import Blocks
from picker.prompt.token_blocks import PromptTokens
from picker.state.cache.approximate import ApproximateIndex
from picker.state.cache.feed import Feed, FeedState
from picker.state.cache.held import HeldBlocks
from picker.state.cache.index import Reuse
from policies.routing.types import Floats

TIER_CREDIT: Final = (1.0, 0.7, 0.4)
"""What a cached token is worth by where it is: in the GPU's memory; in the host's, from where
copying takes a third of computing it, as an order of magnitude; on a disk or another machine."""

_PREFILL_S: Final = 10.0
"""A prompt counts as cached where it was sent until its last block's event comes, at most so
long."""
_UNTRACKED_S: Final = 2.0
"""The same, where the last block is not known."""
_EVENT_LATE_S: Final = 0.5
"""An engine's events come after the answer at most so late."""
_ANY_BLOCK: Final = 256
"""Tokens in a block, where its size is unknown: hardly any engine has larger ones."""
_NO_BOUND: Final = 1 << 50


_Key = tuple[int, tuple[int, ...]]
"""A slot, and the last hashes of what was sent there."""


@dataclass(slots=True, eq=False)
class _Promise:
    """A prompt that was sent, and whose blocks are not there yet."""

    until_s: float
    slot: int
    chains: tuple[Sequence[int], ...]
    added: Sequence[int]
    kept: bool = False
    last: int = 0
    """Hash of its last block."""
    feeds: Sequence[Feed] = ()
    """By which that block's event will come."""
    arrived: Callable[[], None] | None = None
    """What they call then."""


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
        self._promised = ApproximateIndex(default_capacity_bytes=_NO_BOUND)
        self._promises: deque[_Promise] = deque()
        self._untracked: deque[_Promise] = deque()
        self._promised_to: dict[_Key, list[_Promise]] = {}
        """Those that are still believed, the first ones first."""
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
            if any(feed.heard_s for feed in feeds) and not any(feed.usable for feed in feeds)
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
        self._expire(now_s)
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
        if self._promises or self._untracked:
            self._expire(self._now())
            promised = self._promised.match(blocks, prompt_tokens, slots)
            matched = np.maximum(matched, promised)
        return matched

    def sent(
        self, slot: int, chains: Iterable[Sequence[int]], tokens: PromptTokens | None = None
    ) -> Sequence[int]:
        """See `CacheIndex`."""
        chains = tuple(chains)
        added = self.approximate.sent(slot, chains)
        feeds = [feed for feed in self._feeds.get(slot, ()) if feed.usable]
        if feeds:
            self._promise(slot, chains, tokens, feeds)
        return added

    def take_back(self, slot: int, chains: Iterable[Sequence[int]], added: Iterable[int]) -> None:
        """See `CacheIndex`."""
        chains = tuple(chains)
        self.approximate.take_back(slot, chains, added)
        promises = self._promised_to.get(_key(slot, chains))
        if promises:
            self._keep(promises[0])

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
        self._promised.reset(slot)
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
            self._known = [
                _Known(size, *np.array(pairs, np.intp).T) for size, pairs in by_size.items()
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

    def _promise(
        self,
        slot: int,
        chains: tuple[Sequence[int], ...],
        tokens: PromptTokens | None,
        feeds: Sequence[Feed],
    ) -> None:
        now_s = self._now()
        self._expire(now_s)
        last: int | None = None
        size = feeds[0].block_tokens
        if size and tokens is not None and tokens.ends:
            chain = tokens.chain(size)
            if not chain.size or self.held.holds(feeds[0].holder, chain[-1:]):
                return  # nothing of it will be new
            last = int(chain[-1])
        tracked = last is not None
        life_s = _PREFILL_S if tracked else _UNTRACKED_S
        added = self._promised.sent(slot, chains)
        promise = _Promise(now_s + life_s, slot, chains, added)
        (self._promises if tracked else self._untracked).append(promise)
        self._promised_to.setdefault(_key(slot, chains), []).append(promise)
        if last is not None:
            promise.last, promise.feeds = last, feeds
            promise.arrived = partial(self._keep, promise)
            for feed in feeds:
                feed.waiting.setdefault(last, []).append(promise.arrived)

    def _expire(self, now_s: float) -> None:
        for promises in (self._promises, self._untracked):
            while promises and (promises[0].kept or promises[0].until_s <= now_s):
                self._keep(promises.popleft())

    def _keep(self, promise: _Promise) -> None:
        """Its blocks are there, or it is not believed any more."""
        if promise.kept:
            return
        promise.kept = True
        self._promised.take_back(promise.slot, promise.chains, promise.added)
        key = _key(promise.slot, promise.chains)
        self._promised_to[key].remove(promise)
        if not self._promised_to[key]:
            del self._promised_to[key]
        for feed in promise.feeds:
            others = feed.waiting.get(promise.last)
            if others is not None and promise.arrived in others:
                others.remove(promise.arrived)
                if not others:
                    del feed.waiting[promise.last]
        promise.feeds, promise.arrived = (), None


def _key(slot: int, chains: Sequence[Sequence[int]]) -> _Key:
    return slot, tuple(chain[-1] if len(chain) else 0 for chain in chains)
