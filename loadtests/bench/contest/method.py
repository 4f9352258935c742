"""The method: one request at a time, then rising load, then streams. After public comparisons of
gateways, whose upstream answers after 20 ms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import nan
from typing import Final

from loadtests.bench.contest.arena import Arena, Cost, Running
from loadtests.bench.contest.contenders import Contender
from loadtests.bench.load import Job
from loadtests.bench.prompts import PromptShape
from loadtests.bench.result import Result
from loadtests.bench.rows import Row, number
from loadtests.bench.stand import StandError
from loadtests.bench.stats import percentile, spread
from loadtests.bench.streams import StreamsJob, StreamsResult
from loadtests.bench.turns import TurnsJob

SHAPE: Final = PromptShape(450)
NO_GATEWAY: Final = "no gateway"
_KEYS: Final = 1
_TOKEN_S: Final = 0.020
_FEW_TOKENS: Final = 2
_HELD_TOKEN_S: Final = 0.100
_LIMIT: Final = 0.9
"""Share of their cores from which client and upstream are the limit, not the gateway."""
_PER_REQUEST_AT: Final = 32
"""Connections at which CPU per request is counted."""


@dataclass(frozen=True, slots=True)
class Method:
    """How much of everything."""

    alone: int
    """Requests one at a time, each way."""
    first_bytes: int
    """Streams one at a time, each way."""
    connections: tuple[int, ...]
    """The steps of rising load."""
    step_s: float
    paced: int
    """Streams with a token every 20 ms."""
    paced_tokens: int
    held: int
    """Streams with a token every 100 ms."""
    held_tokens: int


FULL: Final = Method(250, 100, (1, 8, 32, 128, 256), 2.0, 32, 100, 512, 25)
QUICK: Final = Method(100, 50, (1, 8, 32, 128, 256), 1.5, 32, 60, 512, 20)


def measured(
    arena: Arena, contender: Contender, method: Method, say: Callable[[str], None]
) -> list[Row]:
    """All figures of a gateway; those that it fails at say so."""
    say("starting")
    rows: list[Row] = []
    try:
        with arena.gateway(contender) as gateway:
            trial = _Trial(gateway, method, say)
            rows.extend(trial.rows())  # keeps those before an error
    except StandError as error:
        rows.append(not_measured(contender.title, str(error)))
    return rows


def without(arena: Arena, method: Method, say: Callable[[str], None]) -> list[Row]:
    """What client and upstream carry by themselves: no gateway can show more."""
    rows: list[Row] = []
    for connections in method.connections:
        say(f"concurrency {connections}")
        job = Job(
            arena.upstream_port,
            SHAPE,
            arena.next_seed(),
            connections,
            seconds=method.step_s / 2,
            keys=_KEYS,
        )
        rows += _load_rows(NO_GATEWAY, connections, arena.load(job), "")
    return rows


def _load_rows(title: str, connections: int, result: Result, how: str) -> list[Row]:
    rate = result.answered / result.seconds if result.answered else nan
    p99_ms = _p99(result.latencies_s) * 1e3 if result.answered else nan
    at = f"concurrency {connections}"
    return [
        Row(f"requests per second, {at}", rate, "1/s", how, subject=title),
        Row(f"latency p99, {at}", p99_ms, "ms", "", subject=title),
    ]


def not_measured(title: str, why: str) -> Row:
    """A row for a gateway that cannot be had, or ended in the middle."""
    words = " ".join(why.split())
    shown = words if len(words) <= 300 else f"... {words[-300:]}"
    return Row("not measured", nan, "", shown, subject=title)


class _Trial:
    def __init__(self, gateway: Running, method: Method, say: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._arena = gateway.arena
        self._method = method
        self._say = say

    def rows(self) -> Iterator[Row]:
        """In the order of the table."""
        idle_mb = self._gateway.memory_mb()
        self._arena.pace(_TOKEN_S)
        self._load(_PER_REQUEST_AT, self._method.step_s / 2)
        yield from self._added("latency", self._method.alone, stream=False)
        yield from self._rising_load()
        yield from self._added("TTFT", self._method.first_bytes, stream=True)
        yield from self._paced()
        yield from self._held()
        yield self._row("memory, idle", idle_mb, "MB")
        yield self._row("memory, after the load", self._gateway.memory_mb(), "MB")

    def _row(self, figure: str, value: float, unit: str, how: str = "") -> Row:
        return Row(figure, value, unit, how, subject=self._gateway.contender.title)

    def _added(self, what: str, requests: int, *, stream: bool) -> Iterator[Row]:
        self._say(f"{what}, one at a time")
        job = TurnsJob(
            [self._arena.upstream_port, self._gateway.port],
            SHAPE,
            self._arena.next_seed(),
            requests,
            max_tokens=2 if stream else 1,
            stream=stream,
            keys=_KEYS,
        )
        direct, through = self._arena.in_turn(job)
        if direct.failures:
            raise StandError(f"the upstream fails: {direct.failures}")
        failed = _failed(through)
        times = [
            spread(one.first_bytes_s if stream else one.latencies_s) if one.answered else None
            for one in (direct, through)
        ]
        alone, ours = times
        for name in ("p50", "p99"):
            added_ms = nan
            if alone is not None and ours is not None:
                added_ms = (getattr(ours, name) - getattr(alone, name)) * 1e3
            yield self._row(f"added {what} {name}, concurrency 1", added_ms, "ms", failed)

    def _load(self, connections: int, seconds: float) -> tuple[Result, Cost]:
        job = Job(
            self._gateway.port,
            SHAPE,
            self._arena.next_seed(),
            connections,
            seconds=seconds,
            keys=_KEYS,
        )
        with self._gateway.cost() as found:
            result = self._arena.load(job)
        return result, found[0]

    def _rising_load(self) -> Iterator[Row]:
        costs: list[Row] = []
        for connections in self._method.connections:
            self._say(f"{connections} connections")
            result, cost = self._load(connections, self._method.step_s)
            how = "; ".join(filter(None, (_failed(result), self._limited(cost))))
            yield from _load_rows(self._gateway.contender.title, connections, result, how)
            if connections == _PER_REQUEST_AT and result.answered:
                costs.append(self._cost_row("request", cost.by_part, result.answered))
        yield from costs

    def _limited(self, cost: Cost) -> str:
        share = cost.load_s / cost.seconds / len(self._arena.cores.load)
        return "client and upstream are the limit" if share > _LIMIT else ""

    def _cost_row(self, unit: str, by_part: Mapping[str, float], count: float) -> Row:
        """``by_part``: CPU seconds."""
        parts = {name: seconds / count * 1e6 for name, seconds in by_part.items() if name}
        how = ", ".join(f"{name} {number(part_us)}" for name, part_us in parts.items())
        whole_us = sum(by_part.values()) / count * 1e6
        return self._row(f"CPU per {unit}, all processes", whole_us, "us", how)

    def _streams(
        self, port: int, streams: int, tokens: int, token_s: float, window_s: float = 0.0
    ) -> tuple[StreamsResult, Cost]:
        lasts_s = tokens * token_s
        job = StreamsJob(
            port,
            SHAPE,
            self._arena.next_seed(),
            streams,
            tokens,
            # Their tokens arrive one by one.
            spread_s=0.5 if streams <= 64 else 2.0,
            longest_s=3 * lasts_s + 2.0,
            keys=_KEYS,
        )
        with self._gateway.cost(window_s) as found:
            result = self._arena.hold(job)
        return result, found[0]

    def _paced(self) -> Iterator[Row]:
        method = self._method
        self._say(f"{method.paced} streams")
        direct, _ = self._streams(
            self._arena.upstream_port, method.paced, method.paced_tokens, _TOKEN_S
        )
        ours, cost = self._streams(self._gateway.port, method.paced, method.paced_tokens, _TOKEN_S)
        added_ms = nan
        if direct.between_s and ours.between_s:
            added_ms = (_p99(ours.between_s) - _p99(direct.between_s)) * 1e3
        name = f"added time between tokens p99, {method.paced} streams"
        yield self._row(name, added_ms, "ms", _problems(ours))
        # The same streams without most of their tokens, over the same time.
        short, less = self._streams(
            self._gateway.port, method.paced, _FEW_TOKENS, _TOKEN_S, window_s=cost.window_s
        )
        if ours.tokens > short.tokens:
            by_part = {
                part: seconds - less.by_part.get(part, 0.0)
                for part, seconds in cost.by_part.items()
            }
            yield self._cost_row("token", by_part, ours.tokens - short.tokens)

    def _held(self) -> Iterator[Row]:
        method = self._method
        self._say(f"{method.held} streams at once")
        self._arena.pace(_HELD_TOKEN_S)
        found, cost = self._streams(
            self._gateway.port, method.held, method.held_tokens, _HELD_TOKEN_S
        )
        self._arena.pace(_TOKEN_S)
        how = "; ".join(filter(None, (_problems(found), self._limited(cost))))
        yield self._row(f"streams held of {method.held}", found.whole, "", how)
        late_ms = nan
        if found.whole == method.held:  # others are late as a whole, and then come in heaps
            late_ms = (_p99(found.between_s) - _HELD_TOKEN_S) * 1e3
        lost = method.held * method.held_tokens - found.tokens
        yield self._row("events lost or changed in them", lost, "")
        yield self._row("their time between tokens p99, over 100 ms", late_ms, "ms")


def _p99(samples: list[float]) -> float:
    return percentile(sorted(samples), 0.99)


def _failed(result: Result) -> str:
    listed = ", ".join(f"{count} times {what}" for what, count in result.failures.items())
    return f"failed: {listed}" if listed else ""


def _problems(result: StreamsResult) -> str:
    return ", ".join(f"{count} streams: {what}" for what, count in result.problems.items())
