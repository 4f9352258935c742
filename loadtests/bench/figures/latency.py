"""What the gateway adds to the latency of Envoy alone: to a single request at a time, and at full
load, as others publish it; and at half of the rate that it reached there.

A single request takes less than the disturbances of a shared machine. So at concurrency 1 the ways
are taken in turn, request by request, and each round has a figure of its own: the difference of the
percentiles. The median of the rounds counts; how far they lie apart is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from loadtests.bench.figures.decision import SATURATING_CONNECTIONS
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.prompts import PromptShape
from loadtests.bench.result import Result
from loadtests.bench.rows import Row, number
from loadtests.bench.stand import Run, Stand, Turns
from loadtests.bench.stats import Spread, spread

_SHAPE = PromptShape(2_000)
_STREAM_TOKENS = 8
_FEW_TOKENS = 2
"""Of a stream of which only the first byte counts; with one token it would end at once."""
_CONNECTIONS = 256
_SETTLE = 0.2
"""The first part of each slice, which does not count: connections are new in both gateways."""


@dataclass(frozen=True, slots=True)
class _Answers:
    """What is asked for, and which of its times counts."""

    max_tokens: int
    stream: bool

    @property
    def what(self) -> str:
        return "TTFT" if self.stream else "latency"

    @property
    def kind(self) -> str:
        return f"streams of {self.max_tokens} tokens" if self.stream else "whole answers"

    def times_s(self, result: Result) -> list[float]:
        """To the first byte of a stream, to the last of a whole answer."""
        return result.first_bytes_s if self.stream else result.latencies_s

    def settled_s(self, run: Run) -> list[float]:
        times = self.times_s(run.result)
        return times[int(_SETTLE * len(times)) :]


_WHOLE = _Answers(1, stream=False)
_STREAMED = _Answers(_STREAM_TOKENS, stream=True)


@dataclass(frozen=True, slots=True)
class _Load:
    """How it is asked for; ``rate`` None: closed loop."""

    about: str
    how: str
    connections: int
    rate: float | None = None


def added(stand: Stand, effort: Effort) -> list[Row]:
    """Added latency of whole answers, and of the first bytes of streams."""
    rows: list[Row] = []
    for answers in (_WHOLE, _STREAMED):
        rows += _one_at_a_time(stand, effort, answers)

        how = f"closed loop, {SATURATING_CONNECTIONS} connections"
        full = _Load("full load", how, SATURATING_CONNECTIONS)
        runs = _in_turn(stand, effort, answers, full)
        rows += (*_rows(answers, full, runs), _rate_row(answers, runs))

        rate = 0.5 * _rate(runs[False])
        how = f"open loop at {rate:.0f}/s, from the time a request was due"
        half = _Load("half load", how, _CONNECTIONS, rate)
        runs = _in_turn(stand, effort, answers, half)
        rows += _rows(answers, half, runs)
        if answers is _WHOLE:
            rows.append(_envoy_row(runs))
    return rows


def _one_at_a_time(stand: Stand, effort: Effort, answers: _Answers) -> list[Row]:
    rounds = effort.of(9, 5)
    requests = effort.of(300, 150) if answers.stream else effort.of(600, 300)
    tokens = min(answers.max_tokens, _FEW_TOKENS)
    turns: list[Turns] = []
    for n in range(rounds):
        effort.say(f"{answers.what}, one at a time: round {n + 1} of {rounds}")
        turns.append(
            stand.in_turn(_SHAPE, requests=requests, max_tokens=tokens, stream=answers.stream)
        )
    spreads = [
        tuple(spread(answers.times_s(one)) for one in (turn.direct, turn.plain, turn.gateway))
        for turn in turns
    ]
    how = (
        f"; {answers.what} of {requests} requests of 2 kB each way in turn, {rounds} rounds;"
        " median of the rounds"
    )
    return [
        _added_row(answers, "p50", [tuple(way.p50 for way in ways) for ways in spreads], how),
        _added_row(answers, "p99", [tuple(way.p99 for way in ways) for ways in spreads], ""),
    ]


def _added_row(answers: _Answers, name: str, rounds_s: list[tuple[float, ...]], how: str) -> Row:
    """``rounds_s``: the percentile of each round, without a gateway, through Envoy alone and
    through the gateway."""
    added_ms = [(ours_s - alone_s) * 1e3 for _, alone_s, ours_s in rounds_s]
    direct_ms, alone_ms, ours_ms = (median(way) * 1e3 for way in zip(*rounds_s, strict=True))
    return Row(
        f"added {answers.what} {name}, concurrency 1",
        median(added_ms),
        "ms",
        f"rounds from {number(min(added_ms))} to {number(max(added_ms))}; {number(ours_ms)} ms,"
        f" Envoy alone {number(alone_ms)} ms, no gateway {number(direct_ms)} ms{how}",
    )


def _in_turn(
    stand: Stand, effort: Effort, answers: _Answers, load: _Load
) -> Mapping[bool, list[Run]]:
    """Runs through the gateway (False) and through Envoy alone (True), slice by slice."""
    slices, slice_s = effort.of(6, 2), effort.of(2.5, 1.0)
    runs: dict[bool, list[Run]] = {False: [], True: []}
    for n in range(slices):
        for plain in (False, True) if n % 2 else (True, False):
            by = "Envoy alone" if plain else "gateway"
            effort.say(f"{answers.what}, {load.about}: slice {n + 1} of {slices}, {by}")
            run = stand.load(
                _SHAPE,
                plain=plain,
                connections=load.connections,
                rate=load.rate,
                seconds=slice_s,
                max_tokens=answers.max_tokens,
                stream=answers.stream,
            )
            runs[plain].append(run)
    return runs


def _envoy_row(runs: Mapping[bool, list[Run]]) -> Row:
    """From the same load: what the filters cost Envoy."""
    ours_us, alone_us = (
        sum(run.cpu_s[name] for run in runs[plain])
        / sum(run.result.answered for run in runs[plain])
        * 1e6
        for plain, name in ((False, "envoy"), (True, "plain"))
    )
    return Row(
        "Envoy CPU per request, our filters",
        ours_us,
        "us",
        f"the same load; Envoy alone {number(alone_us)} us: {ours_us / alone_us:.1f} times",
    )


def _rows(answers: _Answers, load: _Load, runs: Mapping[bool, list[Run]]) -> list[Row]:
    ours, alone = (
        spread([time_s for run in runs[plain] for time_s in answers.settled_s(run)])
        for plain in (False, True)
    )
    count = sum(run.result.answered for run in runs[False])
    how = f"{answers.kind}, prompt of 2 kB, {load.how}; {len(runs[False])} slices each way in turn"
    return _percentiles(answers, load, ours, alone, f"{how}, {count} requests")


def _percentiles(
    answers: _Answers, load: _Load, ours: Spread, alone: Spread, how: str
) -> list[Row]:
    percentiles = ("p50", ours.p50, alone.p50), ("p99", ours.p99, alone.p99)
    return [
        Row(
            f"added {answers.what} {name}, {load.about}",
            (mine_s - alone_s) * 1e3,
            "ms",
            f"{number(mine_s * 1e3)} ms, Envoy alone {number(alone_s * 1e3)} ms:"
            f" {mine_s / alone_s:.2f} times" + (f"; {how}" if name == "p50" else ""),
        )
        for name, mine_s, alone_s in percentiles
    ]


def _rate_row(answers: _Answers, runs: Mapping[bool, list[Run]]) -> Row:
    ours, alone = (_rate(runs[plain]) for plain in (False, True))
    return Row(
        f"requests per second, full load, {answers.kind}",
        ours,
        "1/s",
        f"the same load; Envoy alone {number(alone)}/s",
    )


def _rate(runs: list[Run]) -> float:
    """Requests per second over all of them."""
    return sum(run.result.answered for run in runs) / sum(run.result.seconds for run in runs)
