"""Prompts as sequences of named segments: who needs text or block ids has them made, once.

Nobody holds the text of 100k tokens to simulate a request: what stands at a position of a prompt
is known by the segments before it, the segment it is in and how far. Two prompts agree up to a
position exactly when these agree, so a hash of them names the text up to there, which is what a
KV block's id and a block hash of the picker's prefix index are.
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
    """Who says a segment, in a chat request."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt. The same id is the same text, of which ``tokens`` are said."""

    id: str
    tokens: int
    role: Role = Role.USER
    literal: str | None = None
    """What was really said, where a server answered; its own text otherwise."""

    @property
    def text(self) -> str:
        """Its words; ``BYTES_PER_TOKEN`` bytes a token, unless literal."""
        return text_of(self.id, self.tokens) if self.literal is None else self.literal


class Prompt:
    """Segments in order; immutable. Segments without tokens are left out."""

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
        """This prompt and what is said after it."""
        return Prompt((*self.segments, *segments))

    def block_ids(self, block_tokens: int, *, salt: str = "") -> list[int]:
        """Ids of the full blocks of ``block_tokens``: equal id = equal salt and equal prefix.

        An engine's KV block ids; ``salt`` is what it mixes in besides the text (its LoRA adapter).
        """
        step = block_tokens * BYTES_PER_TOKEN
        ends = np.arange(step, self.tokens * BYTES_PER_TOKEN + 1, step, dtype=np.uint64)
        return self._names(ends, f"kv\0{salt}")

    def live_blocks(self, *, model: str = "", adapter: str = "") -> Blocks:
        """What `picker.prompt.blocks.hash_blocks` tells of the text: the same number of blocks at
        the same bytes, equal exactly where its hashes are, under other names."""
        total_bytes = self.tokens * BYTES_PER_TOKEN
        ends = _live_ends(total_bytes)
        return Blocks((self._names(ends, f"text\0{model}\0{adapter}"),), total_bytes)

    def text(self) -> str:
        """The prompt of a completions request."""
        return "".join(segment.text for segment in self.segments)

    def messages(self) -> list[dict[str, str]]:
        """The messages of a chat request: segments of one role after another are one message."""
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
            # All that was said before, how much of it, and what is said here.
            state = digest(f"{before}\0{segment.id}".encode(), state)
            states[index], starts[index] = state, start
            before = segment.tokens
            start += before * BYTES_PER_TOKEN
        within = starts.searchsorted(ends, side="left") - 1
        names = _mixed(states[within] + (ends - starts[within]) * np.uint64(0x9E3779B97F4A7C15))
        listed: list[int] = (names & np.uint64(HASH_MASK)).tolist()
        return listed


_live: NDArray[np.uint64] = np.empty(0, np.uint64)
"""Ends of the picker's blocks, in bytes; grows with the longest prompt seen."""


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
