"""Sessions of one request each: a fixed set of prompts, and prompts for LoRA adapters."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from loadtests.workloads.lengths import Length
from loadtests.workloads.prompts import Role, Segment
from loadtests.workloads.sessions import Ask, Session, Turn


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """``groups`` system prompts with ``prompts_per_group`` questions each, sent again and again:
    the terms of inference-perf's ``shared_prefix``.

    ``order``: ``cycle`` goes through one shuffle of all prompts over and over, as inference-perf
    does; ``random`` draws any prompt each time.
    """

    name: str
    seed: int
    groups: int
    prompts_per_group: int
    system_tokens: Length
    question_tokens: Length
    answer_tokens: Length
    order: Literal["cycle", "random"] = "cycle"
    tenant: str = ""

    def session(self, index: int) -> Session:
        """The session number ``index``; the supply is endless."""
        scope = f"{self.name}/{self.seed}"
        prompts = self.groups * self.prompts_per_group
        if self.order == "cycle":
            prompt = _shuffled(f"{scope}/order", prompts)[index % prompts]
        else:
            prompt = random.Random(f"{scope}/{index}").randrange(prompts)
        group = prompt // self.prompts_per_group
        system_tokens = self.system_tokens.tokens(random.Random(f"{scope}/system/{group}"))
        rng = random.Random(f"{scope}/prompt/{prompt}")
        question = Segment(f"{scope}/question/{prompt}", max(1, self.question_tokens.tokens(rng)))
        answer_tokens = max(1, self.answer_tokens.tokens(rng))
        ask = Ask((question,), answer_tokens, max_tokens=max(1, round(self.answer_tokens.most)))
        system = Segment(f"{scope}/system/{group}", system_tokens, Role.SYSTEM)
        return Session(f"{scope}/{index}", (system,), (Turn((ask,)),), self.tenant)


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
    tenant: str = ""

    def session(self, index: int) -> Session:
        """The session number ``index``; the supply is endless."""
        scope = f"{self.name}/{self.seed}"
        rng = random.Random(f"{scope}/{index}")
        rank = zipf_rank(rng, self.adapters, self.exponent)
        adapter = self.adapter_names()[rank]
        system_tokens = self.system_tokens.tokens(random.Random(f"{scope}/system/{rank}"))
        system = Segment(f"{scope}/system/{rank}", system_tokens, Role.SYSTEM)
        question = Segment(f"{scope}/{index}/ask", max(1, self.question_tokens.tokens(rng)))
        answer_tokens = max(1, self.answer_tokens.tokens(rng))
        ask = Ask((question,), answer_tokens, max_tokens=max(1, round(self.answer_tokens.most)))
        return Session(f"{scope}/{index}", (system,), (Turn((ask,)),), self.tenant, adapter)

    def adapter_names(self) -> list[str]:
        """All adapters, the most popular first."""
        return [f"adapter-{rank:02d}" for rank in range(self.adapters)]


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
