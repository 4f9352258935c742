"""Picker CPU per request by prompt size, and how many requests a core of it decides."""

from __future__ import annotations

from statistics import median

from loadtests.bench.figures.measurement import Effort
from loadtests.bench.prompts import PromptShape
from loadtests.bench.rows import Row, below, number
from loadtests.bench.stand import Run, Stand

_SIZES = ((500, 0.5), (20_000, 0.6), (400_000, 2.5))
"""Prompt bytes, aim in ms."""
_CONNECTIONS = 16
SATURATING_CONNECTIONS = 64
SMALL = PromptShape(500)


def per_request(stand: Stand, effort: Effort) -> list[Row]:
    """The whole picker process, by prompt size."""
    rows = []
    for size_bytes, aim_ms in _SIZES:
        name = f"{size_bytes / 1000:g} kB"
        costs_ms, rate = request_costs(stand, effort, PromptShape(size_bytes), name)
        cost_ms = median(costs_ms)
        aim, met = below(cost_ms, aim_ms, "ms")
        rows.append(
            Row(
                f"picker CPU per request, prompt of {name}",
                cost_ms,
                "ms",
                f"whole process, user + system, access log included; {_CONNECTIONS} connections,"
                f" {number(rate)} requests/s; median of"
                f" {', '.join(map(number, costs_ms))}",
                aim=aim,
                met=met,
            )
        )
    return rows


def request_costs(
    stand: Stand, effort: Effort, shape: PromptShape, name: str
) -> tuple[list[float], float]:
    """CPU of the whole picker process per request, ms, a figure each round; and requests/s."""
    seconds, rounds = effort.of(2.5, 1.0), effort.of(3, 1)
    effort.say(f"{name}: warming up")
    stand.load(shape, connections=_CONNECTIONS, seconds=seconds / 2)
    costs_ms, rates = [], []
    for n in range(rounds):
        effort.say(f"{name}: round {n + 1} of {rounds}")
        run = stand.load(shape, connections=_CONNECTIONS, seconds=seconds)
        costs_ms.append(_picker_ms(run))
        rates.append(run.result.answered / run.result.seconds)
    return costs_ms, median(rates)


def saturation(stand: Stand, effort: Effort) -> list[Row]:
    """Requests per second and core."""
    seconds, rounds = effort.of(4.0, 1.5), effort.of(2, 1)
    effort.say("warming up")
    stand.load(SMALL, connections=SATURATING_CONNECTIONS, seconds=seconds / 3)
    runs = []
    for n in range(rounds):
        effort.say(f"as fast as it goes: round {n + 1} of {rounds}")
        runs.append(stand.load(SMALL, connections=SATURATING_CONNECTIONS, seconds=seconds))
    per_core = median(1e3 / _picker_ms(run) for run in runs)
    rate = median(run.result.answered / run.result.seconds for run in runs)
    shares = ", ".join(
        f"{name} {median(run.cores(name) for run in runs):.2f}"
        for name in ("picker", "envoy", "upstream", "load", "supervisor")
    )
    return [
        Row(
            "requests per second and core of the picker",
            per_core,
            "1/s",
            f"requests / CPU seconds of the picker at saturation, prompt of 0.5 kB, one worker,"
            f" {SATURATING_CONNECTIONS} connections",
        ),
        Row("requests per second reached", rate, "1/s", f"the same run; cores used: {shares}"),
    ]


def _picker_ms(run: Run) -> float:
    return run.cpu_s["picker"] / run.result.answered * 1e3
