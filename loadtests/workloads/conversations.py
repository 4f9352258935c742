"""Sessions drawn from distributions: system prompts, turns that build on each other, asides."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from loadtests.workloads.lengths import Length
from loadtests.workloads.prompts import Role, Segment
from loadtests.workloads.sessions import Ask, Session, Turn


@dataclass(frozen=True, slots=True)
class Asides:
    """Requests that an agent sends beside its own: for sub-agents with the same context."""

    share: float
    """Share of the turns that have asides."""
    count: Length
    ask_tokens: Length
    answer_tokens: Length


@dataclass(frozen=True, slots=True)
class Conversations:
    """Sessions of several turns: [shared prompt][own prompt][turn 1][answer 1][turn 2] ...

    The terms are those of inference-perf's ``conversation_replay``. Every session is drawn from
    its own stream of random numbers, named by workload, seed and index.
    """

    name: str
    seed: int
    turns: Length
    ask_tokens: Length
    answer_tokens: Length
    shared_tokens: int = 0
    """Length of the system prompt that all sessions of a group begin with."""
    groups: int = 1
    """Number of different shared prompts; each session has one of them."""
    own_tokens: Length | None = None
    """Length of the session's own system prompt, after the shared one."""
    pause_s: Length | None = None
    """Before each turn but the first: a person thinks, or a tool works."""
    asides: Asides | None = None
    max_context_tokens: int = 225_000
    """A session ends before a turn whose prompt and answer would be longer together
    (inference-perf's limit where none is set). An own prompt that leaves no room for one turn is
    cut."""

    def session(self, index: int) -> Session:
        """The session number ``index``; the supply is endless."""
        return _drawn(self, index)

    def _draw(self, index: int) -> Session:
        scope = f"{self.name}/{self.seed}"
        rng = random.Random(f"{scope}/{index}")
        id = f"{scope}/{index}"  # noqa: A001 - the session's id
        group = rng.randrange(self.groups)
        shared = Segment(f"{scope}/shared/{group}", self.shared_tokens, Role.SYSTEM)
        own_tokens = self.own_tokens.tokens(rng) if self.own_tokens else 0
        context_tokens = self.shared_tokens + own_tokens
        turns: list[Turn] = []
        for number in range(max(1, self.turns.tokens(rng))):
            turn = self._turn(rng, f"{id}/{number}", first=number == 0)
            main = turn.asks[0]
            longest = max(_tokens(ask) for ask in turn.asks)
            excess = context_tokens + longest - self.max_context_tokens
            if excess > 0 and number == 0:
                own_tokens = max(0, own_tokens - excess)
                context_tokens = self.shared_tokens + own_tokens
            elif excess > 0:
                break
            turns.append(turn)
            context_tokens += _tokens(main)
        own = Segment(f"{id}/own", own_tokens, Role.SYSTEM)
        return Session(id, (shared, own), tuple(turns))

    def _turn(self, rng: random.Random, id: str, *, first: bool) -> Turn:  # noqa: A002
        asks = [drawn_ask(rng, f"{id}.0/ask", self.ask_tokens, self.answer_tokens)]
        pause_s = self.pause_s.draw(rng) if self.pause_s and not first else 0.0
        aside = self.asides
        if aside and rng.random() < aside.share:
            for number in range(1, 1 + aside.count.tokens(rng)):
                said = drawn_ask(rng, f"{id}.{number}/ask", aside.ask_tokens, aside.answer_tokens)
                asks.append(said)
        return Turn(tuple(asks), pause_s)


@lru_cache(maxsize=1 << 14)
def _drawn(conversations: Conversations, index: int) -> Session:
    """Drawing takes longer than anything else that is done with a session, and a comparison sends
    the same ones under each policy."""
    return conversations._draw(index)  # noqa: SLF001 - the cache of its own module


def drawn_ask(rng: random.Random, id: str, ask: Length, answer: Length) -> Ask:  # noqa: A002
    """An ask of the given name, with lengths that are drawn."""
    says = Segment(id, max(1, ask.tokens(rng)))
    return Ask((says,), max(1, answer.tokens(rng)), max_tokens=max(1, round(answer.most)))


def _tokens(ask: Ask) -> int:
    return ask.answer_tokens + sum(segment.tokens for segment in ask.says)
