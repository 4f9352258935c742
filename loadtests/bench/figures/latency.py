"""What the gateway adds to the latency of Envoy alone, at half of the rate that saturates it."""

from __future__ import annotations

from loadtests.bench.figures.decision import saturated_rate
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.prompts import PromptShape
from loadtests.bench.rows import Row, number
from loadtests.bench.stand import Run, Stand
from loadtests.bench.stats import Spread, spread

_SHAPE = PromptShape(2_000)
_STREAM_TOKENS = 8
_CONNECTIONS = 256
_SETTLE = 0.2
"""The first part of each slice, which does not count: connections are new in both gateways."""


def added(stand: Stand, effort: Effort) -> list[Row]:
    """Added latency of whole answers, and of the first bytes of streams."""
    rows = _compare(stand, effort, max_tokens=1, stream=False)
    return rows + _compare(stand, effort, max_tokens=_STREAM_TOKENS, stream=True)


def _compare(stand: Stand, effort: Effort, *, max_tokens: int, stream: bool) -> list[Row]:
    slices, slice_s = effort.of(6, 2), effort.of(2.5, 1.0)
    what = "TTFT" if stream else "latency"
    effort.say(f"{what}: looking for the rate that saturates")
    rate = 0.5 * saturated_rate(
        stand, _SHAPE, effort.of(2.0, 1.0), max_tokens=max_tokens, stream=stream
    )
    times_s: dict[bool, list[float]] = {False: [], True: []}
    runs: dict[bool, list[Run]] = {False: [], True: []}
    for n in range(slices):
        for plain in (False, True) if n % 2 else (True, False):
            effort.say(
                f"{what}: slice {n + 1} of {slices}, {'Envoy alone' if plain else 'gateway'}"
            )
            run = stand.load(
                _SHAPE,
                plain=plain,
                connections=_CONNECTIONS,
                rate=rate,
                seconds=slice_s,
                max_tokens=max_tokens,
                stream=stream,
            )
            runs[plain].append(run)
            result = run.result
            times = result.first_bytes_s if stream else result.latencies_s
            times_s[plain] += times[int(_SETTLE * len(times)) :]
    kind = f"streams of {max_tokens} tokens" if stream else "whole answers"
    how = (
        f"{kind}, prompt of 2 kB, open loop at {rate:.0f}/s (half of saturation), from the time a"
        f" request was due; {slices} slices of {slice_s:g} s each way in turn,"
        f" {len(times_s[False])} requests"
    )
    rows = _rows(what, spread(times_s[False]), spread(times_s[True]), how)
    if not stream:
        rows.append(_envoy_row(runs[False], runs[True]))
    return rows


def _envoy_row(ours: list[Run], alone: list[Run]) -> Row:
    """From the same load: what the filters cost Envoy."""
    ours_us, alone_us = (
        sum(run.cpu_s[name] for run in runs) / sum(run.result.answered for run in runs) * 1e6
        for name, runs in (("envoy", ours), ("plain", alone))
    )
    return Row(
        "Envoy CPU per request, our filters",
        ours_us,
        "us",
        f"the same load; Envoy alone {number(alone_us)} us: {ours_us / alone_us:.1f} times",
    )


def _rows(what: str, ours: Spread, alone: Spread, how: str) -> list[Row]:
    rows = []
    for name, mine_s, alone_s in (
        ("p50", ours.p50, alone.p50),
        ("p99", ours.p99, alone.p99),
    ):
        rows.append(
            Row(
                f"added {what} {name}",
                (mine_s - alone_s) * 1e3,
                "ms",
                f"{number(mine_s * 1e3)} ms, Envoy alone {number(alone_s * 1e3)} ms:"
                f" {mine_s / alone_s:.2f} times" + (f"; {how}" if name == "p50" else ""),
            )
        )
    return rows
