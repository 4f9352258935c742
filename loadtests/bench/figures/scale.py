"""What many replicas cost the picker: a decision among them, and reading them all."""

from __future__ import annotations

from statistics import median
from typing import Final

from loadtests.bench.figures.decision import request_costs
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.prompts import PromptShape
from loadtests.bench.rows import Row, below, number
from loadtests.bench.stand import Stand
from loadtests.bench.upstream import METRICS_BYTES

_AIMS: Final = ((100, 0.7), (1_000, 1.5))
"""Replicas, aim in ms."""
_SHAPE: Final = PromptShape(20_000, conversations=256)
_SELDOM: Final = {"interval_s": 300, "idle_interval_s": 300, "stale_after_s": 3600}
"""Each replica is read once, at the start."""
_READ: Final = 1_000
_START_S: Final = 90.0


def per_request(effort: Effort) -> list[Row]:
    """The whole picker process but for reading replicas, by their number."""
    rows = []
    for replicas, aim_ms in _AIMS:
        effort.say(f"starting the gateway and {replicas:,} replicas")
        sections = {"picker": {"workers": 1, "scrape": _SELDOM}}
        with Stand(replicas, sections=sections, start_s=_START_S) as stand:
            costs_ms, rate = request_costs(stand, effort, _SHAPE, f"{replicas:,} replicas")
        cost_ms = median(costs_ms)
        aim, met = below(cost_ms, aim_ms, "ms")
        rows.append(
            Row(
                f"picker CPU per request, {replicas:,} replicas",
                cost_ms,
                "ms",
                f"prompt of 20 kB; whole process, without reading the replicas;"
                f" {number(rate)} requests/s; median of {', '.join(map(number, costs_ms))}",
                aim=aim,
                met=met,
            )
        )
    return rows


def reading(effort: Effort) -> list[Row]:
    """CPU of reading busy replicas, by the number of workers."""
    return [_reading(effort, workers) for workers in (1, 2)]


def _reading(effort: Effort, workers: int) -> Row:
    seconds, rounds = effort.of(10.0, 4.0), effort.of(3, 1)
    words = "one worker" if workers == 1 else f"each of {workers} workers"
    effort.say(f"starting {_READ:,} busy replicas, {words}")
    sections = {"picker": {"workers": workers}}
    with Stand(_READ, sections=sections, running=1, start_s=_START_S) as stand:
        names = [name for name in stand.pids if name.startswith("picker")]
        stand.rest(effort.of(5.0, 3.0))
        costs, rates = [], []
        for n in range(rounds):
            effort.say(f"{words} reading: round {n + 1} of {rounds}")
            scrapes = stand.scrapes()
            used_s = stand.rest(seconds)
            rates.append((stand.scrapes() - scrapes) / seconds)
            costs.append(median(used_s[name] for name in names) / seconds)
    return Row(
        f"CPU of {words}, {_READ:,} busy replicas",
        median(costs),
        "cores",
        f"no requests; {number(median(rates))} reads/s in all, of metrics pages of"
        f" {METRICS_BYTES / 1000:g} kB; median of {', '.join(map(number, costs))}",
    )
