"""What one more streamed token costs the picker, and Envoy with and without our filters."""

from __future__ import annotations

from loadtests.bench.figures.measurement import Effort
from loadtests.bench.prompts import PromptShape
from loadtests.bench.rows import Row, number
from loadtests.bench.stand import Run, Stand
from loadtests.bench.stats import Cost, Estimate, slope
from loadtests.bench.upstream import TICK_S

_SHAPE = PromptShape(500)
_SHORT = 10
_RATE = 40.0
_CONNECTIONS = 128
_NOTHING_US = 0.5
"""About the resolution of this measurement; Envoy alone needs ten times as much for a token."""


def per_token(stand: Stand, effort: Effort) -> list[Row]:
    """Slopes between short and long streams: the same requests at the same times in the same
    window, so that everything but the tokens cancels out."""
    rounds, seconds, tokens = effort.of(5, 2), effort.of(2.5, 0.8), effort.of(500, 200)
    gateway: list[tuple[Run, Run]] = []
    alone: list[tuple[Run, Run]] = []
    window_s = seconds + 1.2 * tokens * TICK_S + 0.4
    stand.load(_SHAPE, connections=8, seconds=0.5, max_tokens=tokens, stream=True)
    for n in range(rounds):
        for pairs, plain in ((gateway, False), (alone, True)):
            who = "Envoy alone" if plain else "gateway"
            effort.say(f"{who}: round {n + 1} of {rounds}")
            short = _run(stand, _SHORT, seconds, window_s, plain=plain)
            pairs.append((short, _run(stand, tokens, seconds, window_s, plain=plain)))
    picker = _microseconds(_slope(gateway, "picker"))
    ours, theirs = (
        _microseconds(_slope(gateway, "envoy")),
        _microseconds(_slope(alone, "plain")),
    )
    counted = sum(long.result.events for _, long in gateway)
    zero = "; zero lies within the error" if picker.includes_zero else ""
    return [
        Row(
            "picker CPU per streamed token",
            picker.value,
            "us",
            f"slope between streams of {_SHORT} and {tokens} tokens, {_RATE:g} requests/s,"
            f" {counted:,} tokens in {rounds} rounds{zero}",
            error=picker.error,
            aim=f"none (< {_NOTHING_US:g} us)",
            met=picker.below(_NOTHING_US),
        ),
        Row(
            "Envoy CPU per streamed token, our filters",
            ours.value,
            "us",
            "the same runs; usage is asked for on the client's behalf and cut out again; "
            + _pieces(gateway),
            error=ours.error,
        ),
        Row(
            "Envoy CPU per streamed token, Envoy alone",
            theirs.value,
            "us",
            f"the same load, in turn; {_pieces(alone)}",
            error=theirs.error,
        ),
        Row(
            "Envoy CPU per streamed token, ratio",
            ours.value / theirs.value,
            "times",
            f"our filters add {number(ours.value - theirs.value)} us",
        ),
    ]


def _run(stand: Stand, tokens: int, seconds: float, window_s: float, *, plain: bool) -> Run:
    return stand.load(
        _SHAPE,
        plain=plain,
        connections=_CONNECTIONS,
        rate=_RATE,
        seconds=seconds,
        max_tokens=tokens,
        stream=True,
        window_s=window_s,
    )


def _slope(pairs: list[tuple[Run, Run]], name: str) -> Estimate:
    return slope(
        [
            (
                Cost(short.cpu_s[name], short.result.events),
                Cost(long.cpu_s[name], long.result.events),
            )
            for short, long in pairs
        ]
    )


def _microseconds(seconds: Estimate) -> Estimate:
    error = None if seconds.error is None else seconds.error * 1e6
    return Estimate(seconds.value * 1e6, error)


def _pieces(pairs: list[tuple[Run, Run]]) -> str:
    events = sum(long.result.events for _, long in pairs)
    reads = sum(long.result.reads for _, long in pairs)
    return f"{events / reads:.2f} tokens a piece"
