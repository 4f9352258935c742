"""What an engine model does with its blocks, as the picker hears of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from picker.prompt.blocks import HASH_MASK
from picker.state.cache.feed import Feed, FeedState


class KvEvents:
    """A `BlockListener` that feeds what `Feed` would read from the wire. The engine's ids stand for
    the same text on every engine, so they are the hashes too."""

    def __init__(self, feed: Feed, now: Callable[[], float], block_tokens: int) -> None:
        self._feed, self._now = feed, now
        feed.begin(block_tokens)

    def stored(self, block_ids: Sequence[int], parent_id: int | None) -> None:
        """See `BlockListener`."""
        keys = [block_id & HASH_MASK for block_id in block_ids]
        self._feed.heard_s = self._now()
        self._feed.hold(keys, keys)

    def removed(self, block_id: int) -> None:
        """See `BlockListener`."""
        self._feed.lose([block_id & HASH_MASK])

    def cleared(self) -> None:
        """See `BlockListener`."""
        self._feed.forget(FeedState.WHOLE)

    def stepped(self) -> None:
        """See `BlockListener`."""
