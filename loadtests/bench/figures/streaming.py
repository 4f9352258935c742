"""What one more streamed token, and a whole answer, cost Envoy behind our gateway and alone: the
same load, in turn, in one run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from threading import Thread
from typing import Final, NamedTuple

from loadtests.bench import processes
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.rows import Row, number
from loadtests.bench.stats import Cost, estimate, slope
from loadtests.bench.tokens.answers import ALIAS, Api, Order
from loadtests.bench.tokens.clients import Got, ask_all
from loadtests.bench.tokens.proxies import Proxy, compared

_STREAMS: Final = {2: 12, 20: 48}
"""At once, by the ms between two tokens: few enough that tokens come one by one on two cores."""
_SHORT: Final = 5
_FLUSH_S: Final = 0.15
"""Envoy hands over its access log every 50 ms."""
_AIM: Final = 1.25
_NOTHING_US: Final = 0.5
"""About the resolution of this measurement; Envoy alone needs far more for a token."""
_SIZES: Final = ((1_000, "1 kB", 40), (50_000, "50 kB", 20), (1_000_000, "1 MB", 4))
_CLIENTS: Final = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """Streams that the gateway treats in one way."""

    name: str
    api: Api
    asks_usage: bool = True
    renamed: bool = False

    def order(self, pace_ms: int, tokens: int) -> Order:
        """A stream of that kind through the gateway."""
        model = {"model": ALIAS} if self.renamed else {}
        return Order(self.api, pace_ms, tokens, asks_usage=self.asks_usage, **model)

    def alone(self, pace_ms: int, tokens: int) -> Order:
        """The same stream through Envoy alone, which changes nothing of it."""
        return Order(self.api, pace_ms, tokens)


KINDS: Final = (
    Kind("chat", Api.CHAT),
    Kind("chat, usage taken out", Api.CHAT, asks_usage=False),
    Kind("chat, renamed, usage taken out", Api.CHAT, asks_usage=False, renamed=True),
    Kind("Messages", Api.MESSAGES),
    Kind("Responses", Api.RESPONSES),
)


@dataclass(slots=True)
class _Runs:
    """Of one load through one proxy: by round, the short and the long streams."""

    envoy: list[tuple[Cost, Cost]] = field(default_factory=list)
    picker: list[tuple[Cost, Cost]] = field(default_factory=list)
    events: int = 0
    reads: int = 0

    def us(self) -> list[float]:
        """Envoy's CPU a token, by round."""
        return [slope([pair]).value * 1e6 for pair in self.envoy]


def per_token(effort: Effort) -> list[Row]:
    """Slopes between short and long streams: everything but the tokens cancels out."""
    rounds = effort.of(5, 2)
    tokens = {2: effort.of(600, 300), 20: effort.of(60, 30)}
    runs = {(kind.name, pace_ms): (_Runs(), _Runs()) for kind in KINDS for pace_ms in tokens}
    answers: dict[int, tuple[list[float], list[float]]] = {size: ([], []) for size, *_ in _SIZES}
    with compared() as (ours, alone):
        idle = {proxy: _idle(proxy, effort.of(3.0, 1.0)) for proxy in (ours, alone)}
        ask_all(ours.port, KINDS[1].order(2, 100), clients=_STREAMS[2])
        for turn in range(rounds):
            for kind in KINDS:
                for pace_ms, long in tokens.items():
                    effort.say(f"round {turn + 1} of {rounds}: {kind.name}, {pace_ms} ms")
                    with_gateway, without = runs[kind.name, pace_ms]
                    steps = [
                        (ours, kind.order, with_gateway),
                        (alone, kind.alone, without),
                    ]
                    for proxy, order, into in steps if turn % 2 else reversed(steps):
                        _pair(
                            proxy, order(pace_ms, _SHORT), order(pace_ms, long), idle[proxy], into
                        )
            for size, name, each in _SIZES:
                effort.say(f"round {turn + 1} of {rounds}: answers of {name}")
                for proxy, into_s in zip((ours, alone), answers[size], strict=True):
                    into_s.append(_answer_s(proxy, size, effort.of(4, 1) * each))
    rows = [_picker_row(runs)]
    rows += [
        _token_row(kind, pace_ms, *runs[kind.name, pace_ms]) for pace_ms in tokens for kind in KINDS
    ]
    return [*rows, *(_answer_row(name, *answers[size]) for size, name, _ in _SIZES)]


def _pair(proxy: Proxy, short: Order, long: Order, idle: _Used, into: _Runs) -> None:
    envoy, picker = [], []
    for order in (short, long):
        began_s = time.monotonic()
        got, used = _cost(proxy, order, each=1)
        took_s = time.monotonic() - began_s
        tokens = float(order.size * _STREAMS[order.pace_ms])
        envoy.append(Cost(used.envoy - idle.envoy * took_s, tokens))
        picker.append(Cost(used.picker - idle.picker * took_s, tokens))
        if order is long:
            into.events += got.events
            into.reads += got.reads
    into.envoy.append((envoy[0], envoy[1]))
    into.picker.append((picker[0], picker[1]))


class _Used(NamedTuple):
    """CPU of a proxy's processes: seconds, or cores."""

    envoy: float
    picker: float


def _used(proxy: Proxy) -> _Used:
    """Seconds so far."""
    picker = 0.0 if proxy.picker is None else processes.cpu_s(proxy.picker)
    return _Used(processes.cpu_s(proxy.envoy), picker)


def _idle(proxy: Proxy, seconds: float) -> _Used:
    """Cores while streams are open and next to nothing comes."""
    silent = Order(Api.CHAT, 1_000, ceil(seconds) + 1)
    clients = Thread(target=ask_all, args=(proxy.port, silent), kwargs={"clients": _CLIENTS})
    clients.start()
    time.sleep(0.5)
    before = _used(proxy)
    time.sleep(seconds)
    after = _used(proxy)
    clients.join()
    return _Used((after.envoy - before.envoy) / seconds, (after.picker - before.picker) / seconds)


def _cost(proxy: Proxy, order: Order, *, each: int) -> tuple[Got, _Used]:
    """What was got, and the seconds that it took."""
    clients = _STREAMS.get(order.pace_ms, _CLIENTS)
    before = _used(proxy)
    got = ask_all(proxy.port, order, clients=clients, each=each)
    time.sleep(_FLUSH_S)
    after = _used(proxy)
    return got, _Used(after.envoy - before.envoy, after.picker - before.picker)


def _answer_s(proxy: Proxy, size: int, each: int) -> float:
    got, used = _cost(proxy, Order(Api.CHAT, 0, size), each=each)
    return used.envoy / got.answers


def _picker_row(runs: dict[tuple[str, int], tuple[_Runs, _Runs]]) -> Row:
    pairs = [
        pair for (_, pace_ms), (ours, _) in runs.items() if pace_ms == 2 for pair in ours.picker
    ]
    samples = [slope([pair]).value * 1e6 for pair in pairs]
    found = estimate(samples)
    zero = "; zero lies within the error" if found.includes_zero else ""
    return Row(
        "picker CPU per streamed token",
        found.value,
        "us",
        f"slope between streams of {_SHORT} tokens and of more, all kinds at 2 ms,"
        f" less its time while streams are silent{zero}",
        error=found.error,
        aim=f"none (< {_NOTHING_US:g} us)",
        met=found.below(_NOTHING_US),
    )


def _token_row(kind: Kind, pace_ms: int, ours: _Runs, alone: _Runs) -> Row:
    with_us, without_us = ours.us(), alone.us()
    ratios = [mine / theirs for mine, theirs in zip(with_us, without_us, strict=True)]
    return Row(
        f"Envoy CPU per token against Envoy alone: {kind.name}, {pace_ms} ms",
        median(with_us) / median(without_us),
        "times",
        f"{_range(with_us)} against {_range(without_us)} us; a round had {_range(ratios)} times;"
        f" {_STREAMS[pace_ms]} streams, {_pieces(ours)} and {_pieces(alone)} events a piece",
        aim=f"<= {_AIM:g} times",
        met=median(with_us) <= _AIM * median(without_us),
    )


def _answer_row(name: str, ours_s: list[float], alone_s: list[float]) -> Row:
    ours, alone = ([each * 1e6 for each in side] for side in (ours_s, alone_s))
    return Row(
        f"Envoy CPU of a whole answer of {name} against Envoy alone",
        median(ours) / median(alone),
        "times",
        f"{_range(ours)} against {_range(alone)} us, the decision's exchange with the picker and"
        " its access log included",
    )


def _range(samples: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{number(median(samples))} ({number(min(samples))} to {number(max(samples))})"


def _pieces(runs: _Runs) -> str:
    return f"{runs.events / max(1, runs.reads):.2f}"
