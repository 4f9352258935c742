"""Chat requests with long prompts, as agents and readers of documents send them: many users, system
prompts that several of them share, conversations that go on."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

import orjson

from loadtests.bench.prompts import MODEL, api_key

_MARK: Final = "?" * 32
_TURN_BYTES: Final = 8_000
_SENTENCE_WORDS: Final = (5, 18)
_ENDS: Final = (
    ". ",
    ". ",
    ". ",
    "? ",
    ".\n",
    ".\n\n",
    ', "as they say", ',
    " - naïve - ",
    ".\n\t- ",
)
_SYLLABLES: Final = ("ra", "ten", "mo", "li", "ver", "so", "ka", "dis", "pu", "ing", "el", "tor")
_WORDS: Final = tuple(
    "".join(syllables)
    for count in (1, 2, 3)
    for syllables in itertools.product(_SYLLABLES, repeat=count)
)


@dataclass(frozen=True, slots=True)
class LongMix:
    """The sizes take turns, and so do the users; every other request is a stream. ``system``: the
    share (0..1) of a prompt that all users of a group have in common."""

    sizes_bytes: tuple[int, ...] = (200_000, 300_000, 400_000)
    """50,000, 75,000 and 100,000 tokens of four bytes each."""
    users: int = 16
    groups: int = 4
    system: float = 0.2

    @classmethod
    def read(cls, found: dict[str, object]) -> Self:
        """From JSON, which has no tuples."""
        sizes = found["sizes_bytes"]
        assert isinstance(sizes, list)
        return cls(**{**found, "sizes_bytes": tuple(sizes)})  # type: ignore[arg-type]


class LongRequests:
    """Whole HTTP/1.1 requests as bytes: a user's conversation of one size is the same each time but
    for its last message. Each user shows an API key of its own."""

    def __init__(self, mix: LongMix, *, max_tokens: int, seed: int) -> None:
        self._rng = random.Random(seed)
        # As many different requests as there are ways to combine the three.
        self._rounds = itertools.cycle(
            [
                (user, size, stream)
                for stream in (True, False)
                for size in range(len(mix.sizes_bytes))
                for user in range(mix.users)
            ]
        )
        self._bodies = {
            (user, size, stream): _body(mix, user, size, max_tokens, stream=stream)
            for user, size, stream in itertools.product(
                range(mix.users), range(len(mix.sizes_bytes)), (False, True)
            )
        }

    def next(self) -> bytes:
        """The next request."""
        kind = next(self._rounds)
        before, after = self._bodies[kind]
        mark = self._rng.getrandbits(4 * len(_MARK))
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\n"
            f"authorization: Bearer {api_key(kind[0])}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(before) + len(_MARK) + len(after)}\r\n\r\n"
        )
        return b"%b%b%032x%b" % (head.encode(), before, mark, after)


@lru_cache(maxsize=1_000)
def _body(
    mix: LongMix, user: int, size: int, max_tokens: int, *, stream: bool
) -> tuple[bytes, bytes]:
    """What stands before and after the mark."""
    size_bytes = mix.sizes_bytes[size]
    system_bytes = int(mix.system * size_bytes)
    messages = [{"role": "system", "content": prose(f"system/{user % mix.groups}", system_bytes)}]
    conversation = prose(f"user/{user}", size_bytes - system_bytes)
    for number, start in enumerate(range(0, len(conversation), _TURN_BYTES)):
        role = "assistant" if number % 2 else "user"
        messages.append({"role": role, "content": conversation[start : start + _TURN_BYTES]})
    messages.append({"role": "user", "content": f"And this: {_MARK}\nPlease answer in one line."})
    document = {
        "model": MODEL,
        "messages": messages,
        "user": f"user-{user}",
        "max_tokens": max_tokens,
        "stream": stream,
    }
    before, _, after = orjson.dumps(document).partition(_MARK.encode())
    return before, after


def prose(name: str, size_bytes: int) -> str:
    """Sentences, lists and quotations that depend on ``name`` alone, about so long in UTF-8."""
    rng = random.Random(name)
    parts: list[str] = []
    length = 0
    while length < size_bytes:
        sentence = " ".join(rng.choices(_WORDS, k=rng.randint(*_SENTENCE_WORDS)))
        parts += (sentence.capitalize(), rng.choice(_ENDS))
        length += len(sentence) + 2
    return "".join(parts)[:size_bytes]
