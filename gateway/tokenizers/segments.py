"""Token ids of text, of which the parts that were seen lately cost next to nothing.

Text is cut where a tokenizer starts anew: at special tokens, which chat templates put around every
message, and (where that has been tried out for the vocabulary) before a space between two letters.
Cuts depend on what is before them only, so what two prompts begin with has the same parts.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Final, Protocol

import xxhash

from gateway.tokenizers.load import MOST_CHARS_AT_ONCE

_MOST_BYTES: Final = 32 << 20
_ENTRY_BYTES: Final = 200
"""What a part takes besides its ids."""
_PART_CHARS: Final = 2_048
_BETWEEN_WORDS: Final = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_TRIED: Final = 64
"""Prompts are cut there into parts of so many characters when that is tried out."""


class Vocabulary(Protocol):
    """A model's own, called in threads."""

    def ids(self, texts: Sequence[str]) -> list[bytes]:
        """Token ids of each text by itself, 4 bytes each in this machine's order, without what
        begins and ends a prompt. Lets other threads run meanwhile."""
        ...


class TooLong(ValueError):  # noqa: N818 - a fact about a text
    """A text has parts that cannot be cut, and are too long to be tokenized at once."""


class Segments:
    """Tokenizes with one vocabulary, and keeps ids of parts. Safe to be used by several threads."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        found: Mapping[str, bool],
        sample: str,
        *,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        """``found``: tokens that are found in text as they stand; true for those that begin a part
        of their own. ``sample``: text to try out on whether words can be cut apart."""
        self._vocabulary = vocabulary
        self._found = dict(found)
        names = sorted(filter(None, found), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names))) if names else None
        self._most_bytes, self._bytes = most_bytes, 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()
        words = list(_words(sample, _TRIED))
        self._cuts_words = vocabulary.ids([sample])[0] == b"".join(vocabulary.ids(words))

    def ids(self, text: str) -> bytes:
        """Of a whole text. Raises TooLong."""
        parts = list(self._parts(text))
        keys = [xxhash.xxh3_128_intdigest(part.encode("utf-8", "surrogatepass")) for part in parts]
        if parts and len(self._found) and not self._starts_anew(parts[0]):
            keys[0] ^= 1  # some tokenizers put a space before a text's first word
        with self._lock:
            found = [self._look_up(key) for key in keys]
        new = {key: part for key, part, ids in zip(keys, parts, found, strict=True) if ids is None}
        made = dict(zip(new, self._vocabulary.ids(list(new.values())), strict=True)) if new else {}
        with self._lock:
            for key, ids in made.items():
                self._keep(key, ids)
        return b"".join(
            made[key] if ids is None else ids for key, ids in zip(keys, found, strict=True)
        )

    def _parts(self, text: str) -> Iterator[str]:
        start = 0
        for match in self._special.finditer(text) if self._special is not None else ():
            if self._found[match[0]] and match.start() > start:
                yield from self._cut(text[start : match.start()])
                start = match.start()
        yield from self._cut(text[start:])

    def _cut(self, text: str) -> Iterator[str]:
        parts = _words(text, _PART_CHARS) if self._cuts_words else iter((text,))
        for part in parts:
            if len(part) > MOST_CHARS_AT_ONCE:
                raise TooLong
            yield part

    def _starts_anew(self, part: str) -> bool:
        match = self._special.match(part) if self._special is not None else None
        return match is not None and self._found[match[0]]

    def _look_up(self, key: int) -> bytes | None:
        ids = self._kept.get(key)
        if ids is not None:
            self._kept.move_to_end(key)
        return ids

    def _keep(self, key: int, ids: bytes) -> None:
        if key not in self._kept:
            self._kept[key] = ids
            self._bytes += len(ids) + _ENTRY_BYTES
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._kept.popitem(last=False)[1]) + _ENTRY_BYTES


def _words(text: str, chars: int) -> Iterator[str]:
    """Parts of at least so many characters, each but the first from a space between words on."""
    start = 0
    while len(text) - start > chars:
        match = _BETWEEN_WORDS.search(text, start + chars)
        if match is None:
            break
        yield text[start : match.start()]
        start = match.start()
    yield text[start:]
