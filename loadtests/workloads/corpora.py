"""Sessions of one request each: a fixed set of prompts, and prompts for LoRA adapters."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from loadtests.workloads.conversations import drawn_ask
from loadtests.workloads.lengths import Length
from loadtests.workloads.prompts import Role, Segment
from loadtests.workloads.sessions import Session, Turn


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """``groups`` system prompts with ``prompts_per_group`` questions each, sent again and again:
    the terms of inference-perf's ``shared_prefix``.

    One shuffle of all prompts is gone through over and over, as inference-perf does.
    """

    name: str
    seed: int
    groups: int
    prompts_per_group: int
    system_tokens: Length
    question_tokens: Length
    answer_tokens: Length

    def session(self, index: int) -> Session:
        """The session number ``index``; the supply is endless."""
        scope = f"{self.name}/{self.seed}"
        prompts = self.groups * self.prompts_per_group
        prompt = _shuffled(f"{scope}/order", prompts)[index % prompts]
        system = _system(f"{scope}/system/{prompt // self.prompts_per_group}", self.system_tokens)
        rng = random.Random(f"{scope}/prompt/{prompt}")
        question = f"{scope}/question/{prompt}"
        ask = drawn_ask(rng, question, self.question_tokens, self.answer_tokens)
        return Session(f"{scope}/{index}", (system,), (Turn((ask,)),))


@dataclass(frozen=True, slots=True)
class LoraMix:
    """Single requests for many adapters, whose popularity follows Zipf's law: the adapter of rank r
    is asked for in proportion to 1 / r ** ``exponent``. Each adapter has its own system prompt."""

    name: str
    seed: int
    adapters: int
    exponent: float
    system_tokens: Length
    question_tokens: Length
    answer_tokens: Length

    def session(self, index: int) -> Session:
        """The session number ``index``; the supply is endless."""
        scope = f"{self.name}/{self.seed}"
        rng = random.Random(f"{scope}/{index}")
        rank = zipf_rank(rng, self.adapters, self.exponent)
        adapter = self.adapter_names()[rank]
        system = _system(f"{scope}/system/{rank}", self.system_tokens)
        ask = drawn_ask(rng, f"{scope}/{index}/ask", self.question_tokens, self.answer_tokens)
        return Session(f"{scope}/{index}", (system,), (Turn((ask,)),), adapter=adapter)

    def adapter_names(self) -> list[str]:
        """All adapters, the most popular first."""
        return [f"adapter-{rank:02d}" for rank in range(self.adapters)]


def _system(name: str, length: Length) -> Segment:
    """A system prompt whose length follows from its name."""
    return Segment(name, length.tokens(random.Random(name)), Role.SYSTEM)


def zipf_rank(rng: random.Random, ranks: int, exponent: float) -> int:
    """A rank from 0, drawn in proportion to 1 / (rank + 1) ** ``exponent``."""
    cumulative = _zipf_cumulative(ranks, exponent)
    return min(ranks - 1, bisect.bisect_right(cumulative, rng.random() * cumulative[-1]))


@lru_cache(maxsize=64)
def _zipf_cumulative(ranks: int, exponent: float) -> Sequence[float]:
    return tuple(itertools.accumulate((rank + 1) ** -exponent for rank in range(ranks)))


@lru_cache(maxsize=64)
def _shuffled(name: str, count: int) -> Sequence[int]:
    numbers = list(range(count))
    random.Random(name).shuffle(numbers)
    return tuple(numbers)
