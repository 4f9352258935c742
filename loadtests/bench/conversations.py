"""Chat requests as an application sends them: many conversations, each a turn longer every time."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, TypeAlias

import orjson

from loadtests.bench.prompts import MODEL, text

Message: TypeAlias = Mapping[str, str]

_SYSTEM_BYTES: Final = 4_000
_SYSTEMS: Final = 8
"""System prompts in use; every conversation begins with one of them."""
_FIRST_BYTES: Final = 12_000
_TURN_BYTES: Final = 800
_TURNS: Final = 6
_POOL_BYTES: Final = 1 << 20


class Conversations:
    """Bodies of 16 to 24 kB. Of a prompt all is known but the last turn, except at a beginning."""

    def __init__(self, count: int, seed: int) -> None:
        """``count``: conversations at a time; one that has ended makes room for another."""
        self._rng = random.Random(seed)
        self._pool = text(_POOL_BYTES, self._rng)
        self._systems = [self._text(_SYSTEM_BYTES) for _ in range(_SYSTEMS)]
        self._open: list[tuple[str, list[Message]]] = [("", []) for _ in range(count)]

    def next(self) -> tuple[str, bytes]:
        """The session's id and the body of its next request."""
        place = self._rng.randrange(len(self._open))
        session, messages = self._open[place]
        if not messages or len(messages) >= 2 * _TURNS:
            session = f"{self._rng.getrandbits(64):016x}"
            system = {"role": "system", "content": self._rng.choice(self._systems)}
            messages = [system, {"role": "user", "content": self._text(_FIRST_BYTES)}]
            self._open[place] = session, messages
        else:
            messages.append({"role": "assistant", "content": self._text(_TURN_BYTES)})
            messages.append({"role": "user", "content": self._text(_TURN_BYTES)})
        return session, orjson.dumps({"model": MODEL, "messages": messages, "max_tokens": 200})

    def _text(self, size_bytes: int) -> str:
        start = self._rng.randrange(_POOL_BYTES - size_bytes)
        return self._pool[start : start + size_bytes]
