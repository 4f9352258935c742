"""Who sends what, to which pool: the situations in which orders are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from loadtests.lab.setting import TenantTerms
from loadtests.lab.summary import Slo, Window
from loadtests.workloads.conversations import Conversations
from loadtests.workloads.corpora import SharedPrefix
from loadtests.workloads.lengths import Length
from loadtests.workloads.sessions import Workload
from loadtests.workloads.streams import Stream

PROFILE: Final = "qwen3-32b-tp2-h100"
POLICY: Final = "auto"
REPLICAS: Final = 2
CAPACITY: Final = 23.0
"""Chats a second that the pool finishes when it always has some waiting, however they are ordered;
about the most that it answers within `CHAT`."""
OUTPUT_WORTH: Final = 8.0
"""Of an output token in tokens of prefill, when service is counted in `figures`: about what the
queue learns in a full pool of this profile."""

CHAT: Final = Slo(2.0, 0.1)
PATIENT: Final = Slo(15.0, 0.1)
"""Of requests that may be shed: as long as they may wait."""

NO_QUEUE: Final = "no queue"
ORDERS: Final = ("fair", NO_QUEUE, "first-come", "strict-priority", "round-robin", "vtc")
ALIKE: Final = tuple(order for order in ORDERS if order != "strict-priority")
"""Where nobody has a priority: strict priority is first come there."""
URGENT: Final = "urgent"
"""An objective: `CHAT`."""


def _chat(seed: int, name: str) -> Workload:
    """Single questions: 500 shared tokens, 1,000 +- 800 asked, 250 +- 200 answered."""
    return Conversations(
        name=name,
        seed=seed,
        turns=Length.fixed(1),
        shared_tokens=500,
        ask_tokens=Length("lognormal", 1_000, 800, 50, 8_000),
        answer_tokens=Length("lognormal", 250, 200, 10, 1_500),
    )


def _documents(seed: int, name: str) -> Workload:
    """10,000 +- 6,000 tokens read, 150 +- 100 answered."""
    return Conversations(
        name=name,
        seed=seed,
        turns=Length.fixed(1),
        ask_tokens=Length("lognormal", 10_000, 6_000, 2_000, 30_000),
        answer_tokens=Length("lognormal", 150, 100, 10, 1_000),
    )


def _writing(seed: int, name: str) -> Workload:
    """200 +- 100 tokens asked, 1,000 +- 600 answered."""
    return Conversations(
        name=name,
        seed=seed,
        turns=Length.fixed(1),
        ask_tokens=Length("lognormal", 200, 100, 20, 1_000),
        answer_tokens=Length("lognormal", 1_000, 600, 50, 4_000),
    )


def _large(seed: int, name: str) -> Workload:
    """30,000 to 100,000 tokens read, 300 answered."""
    return Conversations(
        name=name,
        seed=seed,
        turns=Length.fixed(1),
        ask_tokens=Length.uniform(30_000, 100_000),
        answer_tokens=Length.fixed(300),
    )


def _corpus(seed: int, name: str) -> Workload:
    """20 system prompts of 6,000 tokens, questions of 300 and answers of 250."""
    return SharedPrefix(
        name=name,
        seed=seed,
        groups=20,
        prompts_per_group=200,
        system_tokens=Length.fixed(6_000),
        question_tokens=Length.fixed(300),
        answer_tokens=Length("lognormal", 250, 200, 10, 1_500),
    )


SHAPES: Final = {
    "chat": _chat,
    "documents": _documents,
    "writing": _writing,
    "large": _large,
    "corpus": _corpus,
}


@dataclass(frozen=True, slots=True)
class Sender:
    """What one tenant sends; several senders may be one tenant's."""

    name: str
    per_s: float
    shape: str = "chat"
    from_s: float = 0.0
    tenant: str = ""
    """Its name, where it is not the sender's."""

    def stream(self, seed: int) -> Stream:
        """Of a seed; the same beside whoever else sends."""
        workload = SHAPES[self.shape](seed, self.name)
        return Stream(self.tenant or self.name, workload, self.per_s, self.from_s)


@dataclass(frozen=True, slots=True)
class Case:
    """One situation."""

    group: str
    name: str
    senders: tuple[Sender, ...]
    duration_s: float
    window: Window
    """That figures are of."""
    terms: dict[str, TenantTerms] = field(default_factory=dict)
    slos: dict[str, Slo] = field(default_factory=dict)
    """Of tenants for which it is not `CHAT`."""
    replicas: int = REPLICAS
    orders: tuple[str, ...] = ALIKE

    @property
    def title(self) -> str:
        """Unique among the cases."""
        return f"{self.group}, {self.name}"


_SHARE: Final = CAPACITY / 2
GREEDY: Final = "a greedy tenant"
LEVELS: Final = (0.5, 0.8, 1.0)
"""Of its fair share, that the modest tenant sends."""
TIMES: Final = 10
"""Of its fair share, that the greedy tenant sends."""
ALONE, APART, BESIDE = "alone", "alone on its part of the pool", "beside the greedy one"


def _greedy() -> Iterator[Case]:
    window = Window(40.0, 100.0)
    for level in LEVELS:
        modest = Sender("modest", level * _SHARE)
        greedy = Sender("greedy", TIMES * _SHARE, from_s=20.0)
        for where, senders, replicas, orders in (
            (ALONE, (modest,), REPLICAS, ("fair",)),
            (APART, (modest,), REPLICAS // 2, ("fair", NO_QUEUE)),
            (BESIDE, (modest, greedy), REPLICAS, ALIKE if level == 0.8 else ("fair", "vtc")),
        ):
            name = f"{level:g}, {where}"
            yield Case(GREEDY, name, senders, 100.0, window, replicas=replicas, orders=orders)


BACKLOGGED: Final = "all wait"
EQUAL, WEIGHTS, UNLIKE = "equal tenants", "weights 1, 2, 4", "unlike tenants"
WEIGHT_OF: Final = {"one": 1, "two": 2, "four": 4}


def _backlogged() -> Iterator[Case]:
    window = Window(75.0, 135.0)
    demands = (1.5, 2.0, 3.0, 6.0)
    equal = [Sender(f"x{each:g}", each * CAPACITY / 4) for each in demands]
    weights = [Sender(name, 2.0 * CAPACITY * of / 7) for name, of in WEIGHT_OF.items()]
    terms = {name: TenantTerms(weight=of) for name, of in WEIGHT_OF.items()}
    unlike = (
        Sender("chat", 20.0),
        Sender("documents", 5.0, "documents"),
        Sender("writing", 10.0, "writing"),
    )
    yield Case(BACKLOGGED, EQUAL, tuple(equal), 135.0, window)
    yield Case(BACKLOGGED, WEIGHTS, tuple(weights), 135.0, window, terms)
    yield Case(BACKLOGGED, UNLIKE, unlike, 135.0, window)


PREFIXES: Final = "shared prefixes"


def _prefixes() -> Iterator[Case]:
    senders = tuple(Sender(f"corpus-{number}", 14.0, "corpus") for number in range(4))
    yield Case(PREFIXES, "four tenants", senders, 90.0, Window(30.0, 90.0))


OVERLOAD: Final = "overload"
LOADS: Final = (0.5, 1.0, 1.5, 2.0, 2.5)
"""Of what the pool is able to."""


def _overload() -> Iterator[Case]:
    terms = {"critical": TenantTerms(priority=10), "sheddable": TenantTerms(priority=-1)}
    slos = {"sheddable": PATIENT}
    for load in LOADS:
        rate = load * CAPACITY
        senders = (Sender("critical", 0.25 * rate), Sender("sheddable", 0.75 * rate))
        orders = ORDERS if load in (1.0, 2.0) else ("fair",)
        window = Window(30.0, 90.0)
        yield Case(OVERLOAD, f"{load:g}", senders, 90.0, window, terms, slos, orders=orders)


DEADLINES: Final = "one class"
WITH, WITHOUT = "with an objective", "without one"


def _deadlines() -> Iterator[Case]:
    for load in (1.0, 2.0):
        sender = (Sender("chat", load * CAPACITY),)
        for name, terms, orders in (
            (WITH, {"chat": TenantTerms(objective=URGENT)}, ("fair",)),
            (WITHOUT, {}, ("fair", NO_QUEUE)),
        ):
            window = Window(45.0, 105.0)
            title = f"{load:g}, {name}"
            yield Case(DEADLINES, title, sender, 105.0, window, terms, orders=orders)


SIZES, SIZES_NAME = "very large requests", "in one of two tenants"


def _sizes() -> Iterator[Case]:
    """One tenant sends both, more than the pool is able to; the other small ones only, a quarter of
    what it is able to."""
    senders = (
        Sender("mixed-chat", 0.8 * CAPACITY, tenant="mixed"),
        Sender("mixed-large", 0.15, "large", tenant="mixed"),
        Sender("small", 0.25 * CAPACITY),
    )
    yield Case(SIZES, SIZES_NAME, senders, 120.0, Window(30.0, 120.0))


def cases() -> Iterator[Case]:
    """All of them."""
    for group in (_greedy, _backlogged, _prefixes, _overload, _deadlines, _sizes):
        yield from group()
