"""Token ids of prompts that were tokenized lately, and of those that go on from them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import xxhash

_MOST_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 512
"""What a prompt takes besides its ids."""
_DEEPEST_LOOKED_AT: Final = 64


@dataclass(frozen=True, slots=True)
class _Known:
    text_bytes: int
    digest: int
    """Of that text."""
    block: int
    """Hash of its last full block of text, 0 for none."""
    ids: bytes
    by: str


class KnownTokens:
    """By the text of prompts and what else their tokens depend on."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._by_block: dict[int, int] = {}

    def whole(self, key: int) -> tuple[bytes | None, str]:
        """Of a prompt with this key, and who has made them."""
        known = self._known.get(key)
        if known is None:
            return None, ""
        self._known.move_to_end(key)
        return known.ids, known.by

    def beginning(self, text: bytes, chain: Sequence[int]) -> tuple[bytes | None, str]:
        """Of the longest known prompt that this text goes on from: its next turn, say; and who has
        made them. ``chain``: hashes of the text's full blocks."""
        for block in reversed(chain[-_DEEPEST_LOOKED_AT:]):
            key = self._by_block.get(block)
            known = self._known.get(key) if key is not None else None
            if known is None or known.text_bytes > len(text):
                continue
            if xxhash.xxh3_64_intdigest(text[: known.text_bytes]) == known.digest:
                return known.ids, known.by
        return None, ""

    def keep(
        self, key: int, text: bytes, chain: Sequence[int], ids: bytes, by: str = "engine"
    ) -> None:
        """The ids of a prompt. ``by``: who has made them."""
        block = chain[-1] if chain else 0
        self._forget(key)
        self._known[key] = _Known(len(text), xxhash.xxh3_64_intdigest(text), block, ids, by)
        if block:
            self._by_block[block] = key
        self._bytes += len(ids) + _ENTRY_BYTES
        while self._bytes > self._most_bytes:
            self._forget(next(iter(self._known)))

    def _forget(self, key: int) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._bytes -= len(known.ids) + _ENTRY_BYTES
            if self._by_block.get(known.block) == key:
                del self._by_block[known.block]
