"""Long prompts of tenants with budgets: requests per second and core, and what the tail waits.

The mix is that of a published run of LiteLLM (October 2026): equal shares of prompts of 50,000,
75,000 and 100,000 tokens, half of them streams, 16 tokens out, budgets for each key. It reached 23
requests per second and core with a p99 of 92 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from math import nan
from statistics import median
from typing import Final

from loadtests.bench.figures.measurement import Effort
from loadtests.bench.long_prompts import LongMix
from loadtests.bench.prompts import api_key
from loadtests.bench.redis_server import RedisServer, installed
from loadtests.bench.rows import Row, below, number
from loadtests.bench.stand import Run, Stand
from loadtests.bench.stats import spread

_MIX: Final = LongMix()
_REPLICAS: Final = 4
_WORKERS: Final = (1, 2)
_TOKENS: Final = 16
_CONNECTIONS: Final = 16
_AIM_RATE: Final = 150.0
_AIM_P99_MS: Final = 20.0
_MUCH: Final = 10**12
_BUDGETS: Final = (
    {"count": "total_tokens", "limit": _MUCH, "period": "minute"},
    {"count": "total_tokens", "limit": _MUCH, "period": "month", "window": "calendar"},
    {"count": "cost", "limit": 10**9, "period": "month", "window": "calendar"},
)


def per_core(effort: Effort) -> list[Row]:
    """At saturation, and at half of the rate that was reached there; by number of pickers."""
    rows: list[Row] = []
    for workers in _WORKERS:
        with ExitStack() as closing:
            sections = {**_tenants(_MIX.users), "picker": {"workers": workers}}
            if workers > 1:  # they share what is left in Redis
                program = installed()
                if program is None:
                    why = "limits of several pickers are in Redis, and there is no redis-server"
                    rows.append(Row(f"long prompts, {workers} pickers", nan, "", why))
                    continue
                redis = closing.enter_context(RedisServer(program))
                store = {"redis": {"url": redis.url, "timeout_ms": 1_000}}
                sections["limits"] = {"store": store}
            effort.say(f"starting a gateway with {workers} pickers")
            stand = Stand(_REPLICAS, sections=sections, keys=_MIX.users)
            rows += _measure(closing.enter_context(stand), workers, effort)
    return rows


def _measure(stand: Stand, workers: int, effort: Effort) -> list[Row]:
    with_what = f"{workers} picker{'s' if workers > 1 else ''}"
    rounds, seconds = effort.of(3, 1), effort.of(5.0, 2.5)
    effort.say(f"{with_what}: warming up")
    _load(stand, seconds / 2)
    full = []
    for n in range(rounds):
        effort.say(f"{with_what}: as fast as it goes, round {n + 1} of {rounds}")
        full.append(_load(stand, seconds))
    rate = median(run.result.answered / run.result.seconds for run in full)
    half: list[Run] = []
    alone: list[Run] = []
    for n in range(2 * rounds):
        for plain in (False, True) if n % 2 else (True, False):
            by = "Envoy alone" if plain else with_what
            effort.say(f"{by}: half of that, slice {n + 1} of {2 * rounds}")
            runs = alone if plain else half
            runs.append(_load(stand, seconds, rate=rate / 2, plain=plain))
    alone_ms = _cost_ms(alone, "plain")
    return [
        *_rate_rows(full, with_what, alone_ms),
        *_time_rows(half, alone, rate / 2, with_what),
    ]


def _load(stand: Stand, seconds: float, *, rate: float | None = None, plain: bool = False) -> Run:
    return stand.load(
        _MIX,
        plain=plain,
        connections=_CONNECTIONS if rate is None else 4 * _CONNECTIONS,
        rate=rate,
        seconds=seconds,
        max_tokens=_TOKENS,
    )


def _cost_ms(runs: list[Run], name: str) -> float:
    """CPU of a process per request."""
    answered = sum(run.result.answered for run in runs)
    return sum(run.cpu_s[name] for run in runs) / answered * 1e3


def _rate_rows(runs: list[Run], with_what: str, alone_ms: float) -> list[Row]:
    """``alone_ms``: what Envoy alone needs for a request."""
    costs_ms = {
        name: _cost_ms(runs, name)
        for name in runs[0].cpu_s
        if name == "envoy" or name.startswith("picker")
    }
    per_core = median(
        run.result.answered / sum(run.cpu_s[name] for name in costs_ms) for run in runs
    )
    rate = median(run.result.answered / run.result.seconds for run in runs)
    parts = ", ".join(f"{name} {number(cost_ms)} ms" for name, cost_ms in costs_ms.items())
    cores = ", ".join(
        f"{name} {median(run.cores(name) for run in runs):.2f}" for name in runs[0].cpu_s
    )
    return [
        Row(
            f"long prompts: requests per second and core, {with_what}",
            per_core,
            "1/s",
            f"prompts of 200, 300 and 400 kB, half of them streams, {_MIX.users} tenants with"
            f" budgets of tokens and money; requests / CPU seconds of Envoy and pickers: {parts}"
            f" a request; Envoy alone {number(alone_ms)} ms",
            aim=f"> {_AIM_RATE:g}",
            met=per_core > _AIM_RATE,
        ),
        Row(
            f"long prompts: requests per second reached, {with_what}",
            rate,
            "1/s",
            f"closed loop, {_CONNECTIONS} connections; cores used: {cores}",
        ),
    ]


def _time_rows(ours: list[Run], alone: list[Run], rate: float, with_what: str) -> list[Row]:
    mine, other = (
        spread([time_s for run in runs for time_s in run.result.latencies_s])
        for runs in (ours, alone)
    )
    rows = []
    for name, mine_s, other_s in (("p50", mine.p50, other.p50), ("p99", mine.p99, other.p99)):
        added_ms = (mine_s - other_s) * 1e3
        aim, met = below(added_ms, _AIM_P99_MS, "ms") if name == "p99" else ("", None)
        rows.append(
            Row(
                f"long prompts: added latency {name}, {with_what}",
                added_ms,
                "ms",
                f"open loop at {rate:.0f}/s, half of what was reached, whole answers and streams to"
                f" their end: {number(mine_s * 1e3)} ms, Envoy alone {number(other_s * 1e3)} ms",
                aim=aim,
                met=met,
            )
        )
    return rows


def _tenants(count: int) -> Mapping[str, object]:
    """Tenants with a key each, of a plan with budgets."""
    return {
        "identity": {},
        "plans": [{"name": "budgets", "limits": list(_BUDGETS)}],
        "tenants": [
            {
                "name": f"tenant-{n}",
                "plan": "budgets",
                "keys": [{"id": f"key-{n}", "sha256": sha256(api_key(n).encode()).hexdigest()}],
            }
            for n in range(count)
        ],
        "pricing": {"models": [{"model": "*", "input": 1, "output": 2}]},
    }
