"""What tenants' limits add to a request: CPU of the picker, latency, calls to Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import median
from typing import Final

from loadtests.bench.figures.decision import SMALL
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.prompts import api_key
from loadtests.bench.redis_server import RedisServer, installed
from loadtests.bench.rows import Row, number
from loadtests.bench.stand import Run, Stand
from loadtests.bench.stats import Estimate, estimate

_CONNECTIONS: Final = 16
_AIM_US: Final = 150.0
_QUIET_RATE: Final = 100.0
"""Requests per second at which latency is compared; at this rate no request waits for another."""
_COUNTED: Final = 0.05
"""Calls that count as none: the registry of tenants is read at fixed times, so counts vary a
little."""
_MUCH: Final = 10**9
_LIMITS: Final = (
    {"count": "requests", "limit": _MUCH, "period": "minute"},
    {"count": "total_tokens", "limit": _MUCH, "period": "minute"},
    {"count": "concurrency", "limit": _MUCH},
    {"count": "cost", "limit": _MUCH, "period": "month", "window": "calendar"},
)
_HOW: Final = (
    "API key, 4 limits (requests, total tokens, concurrency, cost of a month), usage ledger"
)


@dataclass(slots=True)
class _Kind:
    """A stand, and what was measured on it in each round."""

    name: str
    stand: Stand
    redis: RedisServer | None = None
    busy: list[Run] = field(default_factory=list)
    quiet: list[Run] = field(default_factory=list)
    calls: float = 0.0
    """Calls to Redis per request."""

    def cpu_us(self, process: str) -> list[float]:
        """CPU time per request, by round."""
        return [run.cpu_s[process] / run.result.answered * 1e6 for run in self.busy]


def cost(stand: Stand, effort: Effort) -> list[Row]:
    """Gateways without tenants, with limits in memory and with limits in Redis: all run at the same
    time and get the same load in turn."""
    with ExitStack() as closing:
        kinds = [_Kind("no tenants", stand)]
        effort.say("starting a gateway with limits in memory")
        held = closing.enter_context(Stand(stand.replicas, sections=sections(), keys=1))
        kinds.append(_Kind("limits in memory", held))
        program = installed()
        if program is not None:
            effort.say("starting Redis and a gateway with limits there")
            redis = closing.enter_context(RedisServer(program))
            store = {"store": {"redis": {"url": redis.url, "timeout_ms": 1_000}}}
            shared = Stand(stand.replicas, sections={**sections(), "limits": store}, keys=1)
            kinds.append(_Kind("limits in Redis", closing.enter_context(shared), redis))
        _measure(kinds, effort)
        for kind in kinds:
            if kind.redis is not None:
                effort.say(f"{kind.name}: counting calls")
                kind.calls = _calls_per_request(kind.stand, kind.redis, effort)
    without, *limited = kinds
    rows = [
        Row(
            "picker CPU per request, no tenants",
            median(without.cpu_us("picker")),
            "us",
            f"prompt of 0.5 kB, {_CONNECTIONS} connections, each way in turn,"
            f" {len(without.busy)} rounds",
        )
    ]
    for kind in limited:
        rows += _rows(kind, without)
    if program is None:
        rows.append(Row("limits in Redis", float("nan"), "", "there is no redis-server here"))
    return rows


def sections(limits: Sequence[Mapping[str, object]] = _LIMITS) -> dict[str, object]:
    """Configuration sections with one tenant, who has the first of the API keys."""
    digest = sha256(api_key(0).encode()).hexdigest()
    return {
        "identity": {},
        "plans": [{"name": "bench", "limits": list(limits)}],
        "tenants": [
            {"name": "bench", "plan": "bench", "keys": [{"id": "bench", "sha256": digest}]}
        ],
        "pricing": {"models": [{"model": "*", "input": 1, "output": 2}]},
    }


def _measure(kinds: Sequence[_Kind], effort: Effort) -> None:
    rounds, seconds = effort.of(6, 3), effort.of(2.0, 1.0)
    for kind in kinds:
        effort.say(f"{kind.name}: warming up")
        kind.stand.load(SMALL, connections=_CONNECTIONS, seconds=seconds)
    for n in range(rounds):
        for kind in kinds[:: -1 if n % 2 else 1]:
            effort.say(f"{kind.name}: round {n + 1} of {rounds}")
            kind.busy.append(kind.stand.load(SMALL, connections=_CONNECTIONS, seconds=seconds))
            kind.quiet.append(
                kind.stand.load(
                    SMALL, connections=_CONNECTIONS, rate=_QUIET_RATE, seconds=seconds / 2
                )
            )


def _calls_per_request(stand: Stand, redis: RedisServer, effort: Effort) -> float:
    """Scripts that Redis runs per request, without those that it runs when there are no
    requests."""
    window_s = effort.of(4.0, 2.0)
    before = redis.script_calls()
    stand.rest(window_s)
    idle = redis.script_calls() - before
    run = stand.load(
        SMALL,
        connections=_CONNECTIONS,
        rate=_QUIET_RATE,
        seconds=window_s / 2,
        window_s=window_s,
    )
    busy = redis.script_calls() - before - idle
    return (busy - idle) / run.result.answered


def _rows(kind: _Kind, without: _Kind) -> list[Row]:
    added = _added(kind.cpu_us("picker"), without.cpu_us("picker"))
    wait_ms, alone_ms = (
        [median(run.result.latencies_s) * 1e3 for run in one.quiet] for one in (kind, without)
    )
    waited = _added(wait_ms, alone_ms)
    envoy = _added(kind.cpu_us("envoy"), without.cpu_us("envoy"))
    cpu_us = median(kind.cpu_us("picker"))
    rows = [
        Row(f"picker CPU per request, {kind.name}", cpu_us, "us", _HOW),
        Row(
            f"picker CPU per request that {kind.name} add",
            added.value,
            "us",
            f"mean of the rounds' differences; Envoy's CPU: {number(envoy.value)} us more",
            error=added.error,
            aim=f"< {_AIM_US:g} us",
            met=added.below(_AIM_US),
        ),
        Row(
            f"latency p50 that {kind.name} add",
            waited.value,
            "ms",
            f"{_QUIET_RATE:g} requests/s; {number(median(alone_ms))} ms without tenants",
            error=waited.error,
        ),
    ]
    if kind.redis is not None:
        rows.append(
            Row(
                "calls of Redis per request",
                kind.calls,
                "calls",
                "scripts, by INFO commandstats: one reserves, the only round trip that the request"
                " waits for; one settles when it has ended",
                aim="2",
                met=abs(kind.calls - 2) < _COUNTED,
            )
        )
    return rows


def _added(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    return estimate([mine - other for mine, other in zip(ours, theirs, strict=True)])
