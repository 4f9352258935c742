"""Prompts as sequences of named segments; their text and block ids are made only when needed.

To simulate a request, nobody has to hold the text of 100k tokens. The text up to a position follows
from the segments before it, the segment that it is in, and the place there. Two prompts agree up to
a position exactly when these agree. So a hash of these names the text up to there, as a KV block's
id does, and a block hash of the picker's prefix index.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from loadtests.workloads.words import BYTES_PER_TOKEN, text_of
from picker.prompt.blocks import HASH_MASK, Blocks, block_ends


class Role(enum.StrEnum):
    """Who says a segment in a chat request."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt. Equal ids mean equal text, of which the first ``tokens`` are said."""

    id: str
    tokens: int
    role: Role = Role.USER
    literal: str | None = None
    """The text of a real server's answer; None: the segment's own text."""

    @property
    def text(self) -> str:
        """Its words: ``BYTES_PER_TOKEN`` bytes for each token, unless it is literal."""
        return text_of(self.id, self.tokens) if self.literal is None else self.literal


class Prompt:
    """Segments in order; immutable. Segments without tokens are dropped."""

    __slots__ = ("segments", "tokens")

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.segments = tuple(segment for segment in segments if segment.tokens > 0)
        self.tokens = sum(segment.tokens for segment in self.segments)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self.segments == other.segments

    def __hash__(self) -> int:
        return hash(self.segments)

    def __repr__(self) -> str:
        said = " + ".join(f"{segment.id}[{segment.tokens}]" for segment in self.segments)
        return f"Prompt({said})"

    def then(self, *segments: Segment) -> Prompt:
        """This prompt with more said after it."""
        return Prompt((*self.segments, *segments))

    def block_ids(self, block_tokens: int, *, salt: str = "") -> list[int]:
        """Ids of the full blocks of ``block_tokens``: equal ids mean equal salt and equal prefix.

        They are an engine's KV block ids; ``salt`` is what it hashes besides the text (its LoRA
        adapter).
        """
        step = block_tokens * BYTES_PER_TOKEN
        ends = np.arange(step, self.tokens * BYTES_PER_TOKEN + 1, step, dtype=np.uint64)
        return self._names(ends, f"kv\0{salt}")

    def live_blocks(self, *, model: str = "", adapter: str = "") -> Blocks:
        """The same blocks as `picker.prompt.blocks.hash_blocks` finds in the text: as many, at the
        same bytes, and equal exactly when its hashes are equal; but with other names."""
        total_bytes = self.tokens * BYTES_PER_TOKEN
        ends = _live_ends(total_bytes)
        return Blocks((self._names(ends, f"text\0{model}\0{adapter}"),), total_bytes)

    def text(self) -> str:
        """The prompt of a completions request."""
        return "".join(segment.text for segment in self.segments)

    def messages(self) -> list[dict[str, str]]:
        """The messages of a chat request; consecutive segments of one role are one message."""
        messages: list[dict[str, str]] = []
        for segment in self.segments:
            if messages and messages[-1]["role"] == segment.role:
                messages[-1]["content"] += segment.text
            else:
                messages.append({"role": str(segment.role), "content": segment.text})
        return messages

    def _names(self, ends: NDArray[np.uint64], salt: str) -> list[int]:
        """60-bit names of the text up to each of ``ends`` (bytes, rising)."""
        if not ends.size:
            return []
        count = len(self.segments)
        states, starts = np.empty(count, np.uint64), np.empty(count, np.uint64)
        digest = xxhash.xxh3_64_intdigest
        state, start, before = digest(salt.encode()), 0, 0
        for index, segment in enumerate(self.segments):
            # The state before the segment: all segments before it, and how much of the last one is
            # said.
            state = digest(f"{before}\0{segment.id}".encode(), state)
            states[index], starts[index] = state, start
            before = segment.tokens
            start += before * BYTES_PER_TOKEN
        within = starts.searchsorted(ends, side="left") - 1
        names = _mixed(states[within] + (ends - starts[within]) * np.uint64(0x9E3779B97F4A7C15))
        listed: list[int] = (names & np.uint64(HASH_MASK)).tolist()
        return listed


_live: NDArray[np.uint64] = np.empty(0, np.uint64)
"""Ends of the picker's blocks, in bytes; it grows with the longest prompt seen."""


def _live_ends(total_bytes: int) -> NDArray[np.uint64]:
    global _live
    while not _live.size or int(_live[-1]) < total_bytes:
        count = max(256, 2 * _live.size)
        _live = np.array(block_ends(count)[1 : count + 1], np.uint64)
    return _live[: int(_live.searchsorted(total_bytes, side="right"))]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Splitmix64's finaliser (Steele, Lea and Flood, 2014), in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
