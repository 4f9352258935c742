"""Which loads the added latency is measured under, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from loadtests.bench.figures import latency
from loadtests.bench.figures.decision import SATURATING_CONNECTIONS
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.prompts import PromptShape
from loadtests.bench.result import Result
from loadtests.bench.stand import Run, Stand, Turns


@dataclass
class FakeStand:
    """Envoy alone takes 1 ms, the gateway 3 ms."""

    asked: list[tuple[int, float | None, bool, bool]] = field(default_factory=list)
    rounds: int = 0

    def load(
        self,
        _: PromptShape,
        *,
        plain: bool = False,
        connections: int,
        rate: float | None = None,
        seconds: float,
        max_tokens: int,
        stream: bool,
    ) -> Run:
        self.asked.append((connections, rate, plain, stream))
        time_s = 0.001 if plain else 0.003
        count = int(seconds * connections / time_s) if rate is None else int(seconds * rate)
        times_s = [time_s] * 100
        result = Result(count, seconds, times_s, times_s)
        return Run(result, {"envoy": 0.2, "plain": 0.1}, seconds)

    def in_turn(self, _: PromptShape, *, requests: int, max_tokens: int, stream: bool) -> Turns:
        self.rounds += 1
        late_s = 0.1 if self.rounds == 2 else 0.0  # one round in which the machine was busy
        direct, plain, gateway = (
            Result(requests, 1.0, [time_s] * requests, [time_s] * requests)
            for time_s in (0.0005, 0.001, 0.003 + late_s)
        )
        assert max_tokens == (2 if stream else 1)
        return Turns(direct, plain, gateway)


def test_at_concurrency_1_at_full_load_and_at_half() -> None:
    stand = FakeStand()
    rows = latency.added(cast("Stand", stand), Effort(quick=True, say=lambda _: None))
    shown = {row.figure: row.value for row in rows}
    for what in ("latency", "TTFT"):
        for load in ("concurrency 1", "full load", "half load"):
            for name in ("p50", "p99"):
                assert shown[f"added {what} {name}, {load}"] == pytest.approx(2.0)
    full = SATURATING_CONNECTIONS / 0.003
    assert shown["requests per second, full load, whole answers"] == pytest.approx(full, rel=0.01)
    loads = {(connections, rate is None) for connections, rate, _, _ in stand.asked}
    assert loads == {(SATURATING_CONNECTIONS, True), (256, False)}
    (shown_spread,) = (row.how for row in rows if row.figure == "added latency p99, concurrency 1")
    assert shown_spread.startswith("rounds from 2.00 to 102;")
    halves = {rate for _, rate, _, stream in stand.asked if rate is not None and not stream}
    (half,) = halves
    assert half == pytest.approx(full / 2, rel=0.01)
