"""A picker over replicas that are only claimed, a clock that is set, and a list of what it said."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson
from msgspec import structs

from picker.bodies.apart import Apart, Here
from picker.core import Parts, Picker
from picker.prompt.counting import Counting
from picker.request.answer import Answer, Decision
from picker.request.head import RequestHead
from picker.request.report import Ending, Report
from picker.request.role import Role
from picker.seams.background import AtOnce, Background
from picker.seams.engine_counts import EngineCounts, NoEngineCounts
from picker.seams.gate import Gate, OpenGate
from picker.seams.limiter import Limiter, Unlimited
from picker.seams.observer import Answered, Completed, Rejected
from picker.seams.peers import Alone, Peers
from picker.seams.watch import Unwatched, Watch
from picker.settings import PickerSettings, PoolSettings, RewriteRule
from picker.state.endpoints import Signals
from picker.state.models import ServedModel
from picker.state.pool import Profile
from picker.state.spec import EndpointSpec
from policies.routing.spec import PolicySpec
from policies.routing.weighted import DEFAULT_PROFILE

POOL = "main"
MODEL = "llama"
OPAQUE = "/opaque"
"""A path that the operator has opened."""
IDLE = Signals(
    waiting_requests=0,
    running_requests=0,
    kv_usage=0.1,
    kv_capacity_tokens=500_000,
    kv_block_tokens=16,
    max_loras=0,
    running_adapters=frozenset(),
    waiting_adapters=frozenset(),
)
FOUR: Mapping[str, object] = {
    "scorers": [{"name": name, "weight": 1.0} for name in ("queue", "kv", "prefix", "lora")]
}
"""The profile that the protocol's cases are told for."""


def address(number: int) -> str:
    return f"10.0.0.{number}:8000"


def load(
    waiting: float, kv_usage: float, adapters: Sequence[str] = (), max_loras: int = 0
) -> Signals:
    return replace(
        IDLE,
        waiting_requests=waiting,
        kv_usage=kv_usage,
        running_adapters=frozenset(adapters),
        max_loras=max_loras,
    )


def policy(params: Mapping[str, object] = DEFAULT_PROFILE) -> PolicySpec:
    return PolicySpec("weighted", params)


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Recorder:
    """Everything the picker told its observer."""

    rejections: list[Rejected] = field(default_factory=list)
    completions: list[Completed] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)

    def rejected(self, event: Rejected) -> None:
        self.rejections.append(event)

    def answered(self, event: Answered) -> None:
        self.answers.append(event)

    def completed(self, event: Completed) -> None:
        self.completions.append(event)


@dataclass
class Fleet:
    """One pool named main with the replicas .1, .2, ..."""

    picker: Picker
    clock: Clock
    seen: Recorder

    def report(
        self, number: int, signals: Signals = IDLE, models: Sequence[str] = (MODEL,)
    ) -> None:
        """What the scraper would tell of a replica; models after the first are adapters."""
        where = address(number)
        now_s = self.clock.now_s
        self.picker.apply_signals(POOL, where, signals, now_s)
        listed = [
            ServedModel(name, models[0] if index else None, 32_768)
            for index, name in enumerate(models)
        ]
        self.picker.apply_models(POOL, where, listed, now_s)

    def sync(self, numbers: Sequence[int], draining: Sequence[int] = ()) -> None:
        specs = [EndpointSpec(address(number), number in draining) for number in numbers]
        self.picker.pools.sync_endpoints(POOL, specs)

    def configure(
        self,
        *,
        rewrites: Sequence[RewriteRule] = (),
        profile: Mapping[str, object] = DEFAULT_PROFILE,
        max_body_bytes: int = 64 << 20,
        report_scores: bool = False,
        lease_s: float = 3600.0,
        passthrough: Sequence[str] = (OPAQUE,),
        foreign_fallbacks: int = 2,
        shows_decisions: bool = False,
        policy: PolicySpec | None = None,
        shadow: PolicySpec | None = None,
    ) -> None:
        """``policy``: instead of a weighted one with the profile."""
        spec = policy or PolicySpec("weighted", profile)
        self.picker.configure(
            PickerSettings(
                pools=(PoolSettings(POOL, spec, shadow=shadow),),
                rewrites=tuple(rewrites),
                max_body_bytes=max_body_bytes,
                report_scores=report_scores,
                lease_s=lease_s,
                passthrough=tuple(passthrough),
                foreign_fallbacks=foreign_fallbacks,
                shows_decisions=shows_decisions,
            )
        )

    def disaggregate(self, roles: Mapping[int, Role], *, spec: PolicySpec | None = None) -> None:
        """Prefill and decode are chosen apart, among replicas that do these parts."""
        self.picker.pools[POOL].profiles = tuple(
            Profile.of(role, spec or policy()) for role in (Role.PREFILL, Role.DECODE)
        )
        specs = [EndpointSpec(address(number), role=role) for number, role in roles.items()]
        self.picker.pools.sync_endpoints(POOL, specs)

    def under_way(self, number: int) -> int:
        """Requests that a replica may still serve."""
        return self.picker.flights.under_way(POOL, address(number))

    def in_flight(self) -> int:
        """Requests counted on any replica."""
        return int(self.picker.pools.states[POOL].view.in_flight_requests.sum())

    @property
    def is_settled(self) -> bool:
        """Nothing is held for any request."""
        view = self.picker.pools.states[POOL].view
        return (
            len(self.picker.flights.ledger) == 0
            and len(self.picker.flights) == 0
            and not len(self.picker.flights.undecided)
            and not any(self.under_way(number) for number in range(10))
            and not view.in_flight_requests.any()
            and not view.in_flight_kv_tokens.any()
            and not view.in_flight_prefill_tokens.any()
        )


def fleet(
    replicas: Sequence[Signals] = (IDLE, IDLE, IDLE),
    *,
    models: Sequence[str] = (MODEL,),
    name: str = "p0",
    seed: int = 1,
    gate: Gate | None = None,
    limiter: Limiter | None = None,
    peers: Peers | None = None,
    watch: Watch | None = None,
    counting: Counting | None = None,
    engine_counts: EngineCounts | None = None,
    apart: Apart | None = None,
    background: Background | None = None,
) -> Fleet:
    """A picker whose replicas report ``replicas``."""
    clock, seen = Clock(), Recorder()
    parts = Parts(
        observer=seen,
        gate=gate or OpenGate(),
        limiter=limiter or Unlimited(),
        peers=peers or Alone(),
        watch=watch or Unwatched(),
        counting=counting or Counting(),
        engine_counts=engine_counts or NoEngineCounts(),
        apart=apart or Here(),
        background=background or AtOnce(),
    )
    picker = Picker(name, parts, now=clock, rng=random.Random(seed))
    made = Fleet(picker, clock, seen)
    made.configure()
    numbers = range(1, len(replicas) + 1)
    made.sync(list(numbers))
    for number, signals in zip(numbers, replicas, strict=True):
        made.report(number, signals, models)
    return made


def chat(text: str = "Hello", model: str | None = MODEL, **more: object) -> bytes:
    body: dict[str, object] = {"messages": [{"role": "user", "content": text}], **more}
    if model is not None:
        body["model"] = model
    return orjson.dumps(body)


def head(path: str = "/v1/chat/completions", method: str = "POST", **headers: str) -> RequestHead:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestHead(
        method=method,
        path=path,
        headers={":method": method, ":path": path, "content-type": "application/json", **named},
        subset=None,
        received_s=1000.0,
    )


async def ask(fleet: Fleet, body: bytes, request: RequestHead | None = None) -> Decision | Answer:
    """What comes of a request."""
    begun = await fleet.picker.begin(request or head())
    return begun if isinstance(begun, Answer) else await fleet.picker.offer(begun, body)


async def decided(fleet: Fleet, body: bytes, request: RequestHead | None = None) -> Decision:
    """The decision on a request that must get one."""
    outcome = await ask(fleet, body, request)
    assert isinstance(outcome, Decision), outcome
    return outcome


async def refused(fleet: Fleet, body: bytes, request: RequestHead | None = None) -> Answer:
    """The picker's own answer to a request."""
    outcome = await ask(fleet, body, request)
    assert isinstance(outcome, Answer), outcome
    return outcome


def end_of(decision: Decision, owner: str = "p0", **changes: object) -> Report:
    """A good end of the decision, or one with ``changes``."""
    if "reason" in changes:
        changes["reason"] = Ending(str(changes["reason"]))
    report = Report(
        id=decision.id,
        owner=owner,
        address=decision.addresses[0],
        status=200,
        reason=Ending.OK,
        input_tokens=10,
        output_tokens=5,
        cached_tokens=None,
        streamed_events=0,
        ttft_s=0.1,
        duration_s=1.0,
    )
    return structs.replace(report, **changes)
