"""The catalogue: named workloads, each with the load that suits it.

Sources of the figures: inference-perf's workload catalogue (kubernetes-sigs/inference-perf,
``workload-catalog/*/config.json``), llm-d's optimized-baseline benchmark guide and its report
"Sticky Until Saturated" (August 2026). Figures that are our own choice are marked as such.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from loadtests.workloads.arrivals import Stage, arrival_times
from loadtests.workloads.conversations import Asides, Conversations
from loadtests.workloads.corpora import LoraMix, SharedPrefix
from loadtests.workloads.lengths import Length
from loadtests.workloads.mixes import Share, TenantMix
from loadtests.workloads.sessions import (
    UNLOADED_S_PER_TOKEN,
    UNLOADED_TTFT_S,
    Session,
    Workload,
)
from loadtests.workloads.traffic import ClosedLoop, OpenLoop, Traffic

LORA_SLOTS = 8
"""``max_loras`` of the replicas that ``lora-mix`` is meant for."""

SAAS_LADDER = tuple(
    Stage(per_s, duration_s)
    for per_s, duration_s in (
        (15, 50), (3, 20), (10, 20), (15, 20), (20, 38), (22, 34), (25, 30), (30, 25), (35, 21),
        (40, 38), (43, 36), (46, 33), (49, 30), (52, 29), (55, 27), (57, 26), (60, 25),
    )
)  # fmt: skip
"""Requests per second, and seconds, of llm-d's optimized-baseline guide: a warm-up that fills the
caches with the 750 prompts, then 3 to 60 requests per second."""


@dataclass(frozen=True, slots=True)
class Load:
    """How a workload's sessions begin: in an open loop by ``stages`` (rates in requests per second)
    and the ``cv`` of gaps, or in a closed loop by ``concurrency``."""

    stages: tuple[Stage, ...] = ()
    cv: float = 1.0
    concurrency: int = 0
    recycle: bool = False
    """Closed loop: each client repeats one session."""
    requests_per_client: int | None = None
    """Closed loop: a client stops after so many requests."""

    def __post_init__(self) -> None:
        if bool(self.stages) == bool(self.concurrency):
            raise ValueError("a load has either stages or a concurrency")

    @classmethod
    def open(cls, per_s: float, *, duration_s: float = 600.0, cv: float = 1.0) -> Load:
        """An open loop with one rate, in requests per second."""
        return cls(stages=(Stage(per_s, duration_s),), cv=cv)

    @classmethod
    def closed(
        cls, concurrency: int, *, recycle: bool = False, requests_per_client: int | None = None
    ) -> Load:
        """A closed loop with so many clients."""
        return cls(
            concurrency=concurrency, recycle=recycle, requests_per_client=requests_per_client
        )

    def traffic(
        self,
        workload: Workload,
        *,
        seed: int,
        max_requests: int | None = None,
        until_s: float = math.inf,
    ) -> Traffic:
        """The requests of ``workload`` under this load. Sessions begin at the stages' rates divided
        by their mean number of requests, the first of them before the run. So requests come at the
        stages' rates from the beginning of the run, as long as they are answered."""
        if self.concurrency:
            return ClosedLoop(
                workload,
                self.concurrency,
                recycle=self.recycle,
                requests_per_client=self.requests_per_client,
                max_requests=max_requests,
                until_s=until_s,
            )
        each = requests_per_session(workload)
        stages = [replace(stage, per_s=stage.per_s / each) for stage in self.stages]
        before_s = longest_session_s(workload)
        if before_s:
            stages.insert(0, replace(stages[0], duration_s=before_s))
        if self.cv > 1 and len(self.stages) == 1:
            times_s = iter(self._bursts_s(workload, stages, before_s, seed))
        else:
            times_s = (at_s - before_s for at_s in arrival_times(stages, seed=seed, cv=self.cv))
        return OpenLoop(workload, times_s, max_requests=max_requests, until_s=until_s)

    def _bursts_s(
        self, workload: Workload, stages: list[Stage], before_s: float, seed: int
    ) -> list[float]:
        """When sessions begin that come in bursts. A run has so few of them that their number is
        left to chance: one has half of the requests that were asked for, another twice as many. So
        the bursts are moved nearer to each other or farther apart, all in proportion, until there
        are as many requests as were asked for, when nobody waits for an engine."""
        rate, duration_s = self.stages[0].per_s, self.stages[0].duration_s
        twice = [replace(stage, duration_s=4.0 * stage.duration_s) for stage in stages]
        drawn_s = list(arrival_times(twice, seed=seed, cv=self.cv))
        sent_s = [_unloaded_s(workload.session(index)) for index in range(len(drawn_s))]

        def requests(scale: float) -> int:
            found = 0
            for begins_s, offsets_s in zip(drawn_s, sent_s, strict=True):
                since_s = begins_s * scale - before_s
                if since_s >= duration_s:
                    break
                low = bisect.bisect_left(offsets_s, -since_s)
                found += bisect.bisect_left(offsets_s, duration_s - since_s) - low
            return found

        wanted = rate * duration_s
        scales = [0.25 * 1.03**step for step in range(94)]  # up to 4
        scale = min(scales, key=lambda each: (abs(requests(each) - wanted), abs(math.log(each))))
        begun_s = (at_s * scale - before_s for at_s in drawn_s)
        return [at_s for at_s in begun_s if at_s < duration_s]


def _unloaded_s(session: Session) -> list[float]:
    """When each request of the session is sent, in seconds from its beginning, when nobody waits
    for an engine."""
    at_s, sent_s = 0.0, list[float]()
    for number, turn in enumerate(session.turns):
        at_s += turn.pause_s if number else 0.0
        sent_s += [at_s] * len(turn.asks)
        answer_tokens = max(ask.answer_tokens for ask in turn.asks)
        at_s += UNLOADED_TTFT_S + UNLOADED_S_PER_TOKEN * answer_tokens
    return sent_s


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A workload of the catalogue."""

    about: str
    make: Callable[[int], Workload]
    """The workload for a seed."""
    load: Load


def requests_per_session(workload: Workload, *, sample: int = 1_000) -> float:
    """Mean number of requests in the first ``sample`` sessions."""
    return sum(workload.session(index).requests for index in range(sample)) / sample


def longest_session_s(workload: Workload) -> float:
    """The longest time from first to last request, of the first thousand sessions, when nobody
    waits for an engine."""
    longest_s = 0.0
    for index in range(1_000):
        turns = workload.session(index).turns
        answers = (max(ask.answer_tokens for ask in turn.asks) for turn in turns[:-1])
        answering_s = sum(UNLOADED_TTFT_S + UNLOADED_S_PER_TOKEN * tokens for tokens in answers)
        longest_s = max(longest_s, answering_s + sum(turn.pause_s for turn in turns))
    return longest_s


def interactive_chat(seed: int, *, name: str = "interactive-chat") -> Conversations:
    """People chatting: 1,000 shared tokens, 4 turns on average, 45 s to think between them.

    From the catalogue's interactive-chat: shared prompt 1,000; turns lognormal 4 +- 2.5 in 1..15;
    a turn says lognormal 50 +- 40 in 10..1,000; answers normal 300 +- 150 in 10..1,000; pauses
    lognormal 45 +- 40 s in 5..300. It gives the whole prompt as lognormal 4,000 +- 2,500 in
    500..15,000: the own system prompt is chosen to make up for the rest, lognormal 2,150 +- 2,300
    in 50..13,000.
    """
    return Conversations(
        name=name,
        seed=seed,
        shared_tokens=1_000,
        own_tokens=Length("lognormal", 2_150, 2_300, 50, 13_000),
        turns=Length("lognormal", 4, 2.5, 1, 15),
        ask_tokens=Length("lognormal", 50, 40, 10, 1_000),
        answer_tokens=Length("normal", 300, 150, 10, 1_000),
        pause_s=Length("lognormal", 45, 40, 5, 300),
    )


def code_generation(seed: int, *, name: str = "code-generation") -> Conversations:
    """Coding assistants over a repository of their own; nothing is shared between sessions.

    As llm-d ran it (report): own prompts of 3,000 to 100,000 tokens (mean 55,000), 2 to 20 turns
    (mean 6), 100 to 10,000 tokens said a turn (mean 1,500), answers of 50 to 4,000 (mean 800).
    Shapes and deviations are not published: the catalogue's code-generation has lognormal turns of
    1,500 +- 1,200, kept here; normal +- 25,000 for the prompt, lognormal +- 5 turns and +- 800 for
    answers are our choice. No pauses: its concurrency is that of requests. As many conversations
    as clients, each client sending 6 requests of its own (10 clients sent about 60), beginning
    again when it comes to its end, as inference-perf's ``conversation_replay`` does.
    """
    return Conversations(
        name=name,
        seed=seed,
        own_tokens=Length("normal", 55_000, 25_000, 3_000, 100_000),
        turns=Length("lognormal", 6, 5, 2, 20),
        ask_tokens=Length("lognormal", 1_500, 1_200, 100, 10_000),
        answer_tokens=Length("lognormal", 800, 800, 50, 4_000),
    )


def reasoning(seed: int, *, name: str = "reasoning") -> Conversations:
    """One question, a very long answer: 250 shared, lognormal 1,000 +- 800 in 100..5,000 asked,
    exponential of mean 8,000 in 500..32,000 answered (the catalogue's reasoning). llm-d sent each
    of as many questions as clients three times."""
    return Conversations(
        name=name,
        seed=seed,
        shared_tokens=250,
        turns=Length.fixed(1),
        ask_tokens=Length("lognormal", 1_000, 800, 100, 5_000),
        answer_tokens=Length.exponential(8_000, 500, 32_000),
    )


def fixed_corpus_saas(seed: int, *, name: str = "fixed-corpus-saas") -> SharedPrefix:
    """150 system prompts of 6,000 tokens with 5 questions of 1,200 each and answers of 1,000
    (llm-d's optimized-baseline guide): 750 prompts that come round again and again."""
    return SharedPrefix(
        name=name,
        seed=seed,
        groups=150,
        prompts_per_group=5,
        system_tokens=Length.fixed(6_000),
        question_tokens=Length.fixed(1_200),
        answer_tokens=Length.fixed(1_000),
    )


def agentic_bursts(seed: int, *, name: str = "agentic-bursts") -> Conversations:
    """Agents that call tools in a loop, begin in bursts, and send sub-agents out in parallel.

    Prompts and turns as the agent example of inference-perf's ``conversation_replay``: 8,359 tokens
    of instructions and tools, an own context normal 14,000 +- 15,000 in 5,000..45,000, turns of
    lognormal 1,652 +- 3,000 in 64..24,000, answers lognormal 585 +- 400 in 62..3,600, tools that
    work lognormal 8 +- 6 s in 1..30. Number of turns as observed in the catalogue's
    agentic-trace-replay: lognormal 22 +- 23, here in 1..100. Our choice: 4 kinds of agent; at one
    step in ten 2 to 6 sub-agents with 500 +- 400 tokens each; bursts of gamma gaps with cv 4.
    """
    return Conversations(
        name=name,
        seed=seed,
        groups=4,
        shared_tokens=8_359,
        own_tokens=Length("normal", 14_000, 15_000, 5_000, 45_000),
        turns=Length("lognormal", 22, 23, 1, 100),
        ask_tokens=Length("lognormal", 1_652, 3_000, 64, 24_000),
        answer_tokens=Length("lognormal", 585, 400, 62, 3_600),
        pause_s=Length("lognormal", 8, 6, 1, 30),
        asides=Asides(
            share=0.1,
            count=Length.uniform(2, 6),
            ask_tokens=Length("lognormal", 500, 400, 50, 4_000),
            answer_tokens=Length("lognormal", 585, 400, 62, 3_600),
        ),
        max_context_tokens=131_072,
    )


def lora_mix(seed: int) -> LoraMix:
    """50 adapters by Zipf's law with exponent 1 (the popularity used by S-LoRA, MLSys'24), for
    replicas with 8 slots. Lengths are our choice, those of short instruction traffic: 400 tokens
    of instructions an adapter, questions lognormal 300 +- 300 in 8..4,000, answers lognormal
    200 +- 150 in 8..1,000."""
    return LoraMix(
        name="lora-mix",
        seed=seed,
        adapters=50,
        exponent=1.0,
        system_tokens=Length.fixed(400),
        question_tokens=Length("lognormal", 300, 300, 8, 4_000),
        answer_tokens=Length("lognormal", 200, 150, 8, 1_000),
    )


def multi_tenant(seed: int) -> TenantMix:
    """Six tenants with different habits, by weight of sessions: two of chat (30 and 15), one of a
    small fixed corpus (30), one of coding assistants on repositories up to 30,000 tokens (5), one
    of agents (2), one of long answers in bulk (8). All of it is our choice."""
    scope = "multi-tenant/{}".format
    corpus = replace(fixed_corpus_saas(seed, name=scope("support")), groups=20)
    code = replace(
        code_generation(seed, name=scope("code")),
        own_tokens=Length("normal", 14_000, 8_000, 3_000, 30_000),
        pause_s=Length("lognormal", 15, 20, 1, 100),
    )
    return TenantMix(
        "multi-tenant",
        seed,
        (
            Share("chat-large", 30, interactive_chat(seed, name=scope("chat-large"))),
            Share("chat-small", 15, interactive_chat(seed, name=scope("chat-small"))),
            Share("support", 30, corpus),
            Share("code", 5, code),
            Share("agents", 2, agentic_bursts(seed, name=scope("agents"))),
            Share("bulk", 8, reasoning(seed, name=scope("bulk"))),
        ),
    )


CATALOGUE: dict[str, CatalogueEntry] = {
    "interactive-chat": CatalogueEntry(
        "people chatting over a shared system prompt, several turns", interactive_chat,
        Load.open(20.0),
    ),
    "code-generation": CatalogueEntry(
        "coding assistants with long prompts of their own, several turns", code_generation,
        Load.closed(60, recycle=True, requests_per_client=6),
    ),
    "reasoning": CatalogueEntry(
        "short questions with very long answers", reasoning,
        Load.closed(200, recycle=True, requests_per_client=3),
    ),
    "fixed-corpus-saas": CatalogueEntry(
        "750 prompts under 150 system prompts, again and again", fixed_corpus_saas,
        Load(stages=SAAS_LADDER),
    ),
    "agentic-bursts": CatalogueEntry(
        "agents in a loop of tools, beginning in bursts, with sub-agents", agentic_bursts,
        Load.open(6.0, cv=4.0),
    ),
    "lora-mix": CatalogueEntry(
        "50 LoRA adapters of unequal popularity", lora_mix, Load.open(40.0)
    ),
    "multi-tenant": CatalogueEntry(
        "six tenants: chat, support, code, agents, bulk", multi_tenant, Load.open(10.0, cv=2.0)
    ),
}  # fmt: skip
