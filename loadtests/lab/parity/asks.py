"""The requests of a parity run. With a small KV cache, they make an engine preempt and evict.

Prompts are token ids, so that tokenizers do not matter. Requests come in bursts. Each burst is put
into the engine's queue as a whole while the engine is paused, so that all that follows depends on
the scheduler alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log

from loadtests.sim.model.scheduler import EngineLimits

_FIRST_TOKEN, _LAST_TOKEN = 300, 1999
"""Ordinary tokens in every vocabulary we know."""
_PREFIXES = 6
_SHARES_PREFIX, _CONTINUES, _REPEATS, _FULL_BLOCKS, _SHORT = 0.7, 0.2, 0.08, 0.2, 0.25


@dataclass(frozen=True, slots=True)
class ParityRequest:
    """One request: the prompt and answer of an earlier one (if it continues one), then tokens."""

    name: str
    tokens: tuple[int, ...]
    max_tokens: int
    """The answer has exactly that many."""
    continues: str | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Burst:
    """Requests that arrive together, in this order.

    ``after_tokens`` None: nothing else is under way then. Otherwise the burst arrives during the
    one before it, when the first request of that one has about so many tokens.
    """

    asks: tuple[ParityRequest, ...]
    after_tokens: int | None = None


def make(count: int, seed: int, limits: EngineLimits, adapters: Sequence[str] = ()) -> list[Burst]:
    """``count`` requests for an engine of these limits; the same arguments give the same requests.

    With ``adapters``, each request is for one of them or for the base model.
    """
    return _Maker(seed, limits, adapters).bursts(count)


class _Maker:
    def __init__(self, seed: int, limits: EngineLimits, adapters: Sequence[str]) -> None:
        self._rng = random.Random(seed)
        self._adapters = (None, *adapters)
        self._block = limits.block_size_tokens
        self._room = limits.max_model_len
        self._capacity = limits.num_blocks * limits.block_size_tokens
        longest = max(min(self._capacity // 5, self._room // 3), self._block + 1)
        self._prefixes = [self._text(self._length(self._block, longest)) for _ in range(_PREFIXES)]
        self._longest_own = max(min(self._capacity // 8, self._room // 4), 2 * self._block)
        self._longest_answer = max(min(self._capacity // 12, self._room // 4), 16)
        self._sizes: dict[str, int] = {}
        """Tokens of prompt and answer, by request, of all bursts so far."""
        self._plain: list[tuple[int, ...]] = []
        """Prompts that continue nothing."""

    def bursts(self, count: int) -> list[Burst]:
        made: list[Burst] = []
        left, sent = count, 0
        while left:
            before = dict(self._sizes), list(self._plain)
            size = min(left, self._rng.randint(14, 30))
            late = size // 3
            names = [f"r{sent + n:04}" for n in range(size)]
            asks = [self._ask(name, *before) for name in names]
            asks[0] = self._watched(asks[0])
            made.append(Burst(tuple(asks[: size - late])))
            if late:
                made.append(Burst(tuple(asks[size - late :]), self._rng.randint(2, 12)))
            left, sent = left - size, sent + size
        return made

    def _ask(self, name: str, sizes: dict[str, int], plain: list[tuple[int, ...]]) -> ParityRequest:
        rng = self._rng
        own = self._text(self._own_tokens())
        answer = self._answer_tokens()
        adapter = rng.choice(self._adapters)
        chance = rng.random()
        if chance < _CONTINUES:
            room = self._room - len(own) - answer
            fitting = [one for one, tokens in sizes.items() if tokens <= room]
            if fitting:
                earlier = rng.choice(fitting)
                self._sizes[name] = sizes[earlier] + len(own) + answer
                return ParityRequest(name, own, answer, continues=earlier, adapter=adapter)
        elif chance < _CONTINUES + _REPEATS and plain:
            tokens = rng.choice(plain)
            self._sizes[name] = len(tokens) + answer
            return ParityRequest(name, tokens, answer, adapter=adapter)
        tokens = own
        if rng.random() < _SHARES_PREFIX:
            tokens = rng.choice(self._prefixes) + own
        if rng.random() < _FULL_BLOCKS:
            tokens += self._text(-len(tokens) % self._block)
        self._plain.append(tokens)
        self._sizes[name] = len(tokens) + answer
        return ParityRequest(name, tokens, answer, adapter=adapter)

    def _watched(self, ask: ParityRequest) -> ParityRequest:
        """With a long answer: the arrival of the next burst is timed by it."""
        answer = min(2 * self._longest_answer, self._room - self._sizes[ask.name] + ask.max_tokens)
        self._sizes[ask.name] += answer - ask.max_tokens
        return replace(ask, max_tokens=answer)

    def _own_tokens(self) -> int:
        if self._rng.random() < _SHORT:
            return self._rng.randint(1, self._block)
        return self._length(2 * self._block, self._longest_own)

    def _answer_tokens(self) -> int:
        if self._rng.random() < _SHORT:
            return self._rng.randint(1, 16)
        return self._rng.randint(16, self._longest_answer)

    def _length(self, least: int, most: int) -> int:
        """Log-uniform."""
        return min(int(exp(self._rng.uniform(log(least), log(most + 1)))), most)

    def _text(self, tokens: int) -> tuple[int, ...]:
        return tuple(self._rng.randint(_FIRST_TOKEN, _LAST_TOKEN) for _ in range(tokens))
