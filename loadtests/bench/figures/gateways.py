"""Penstock among other gateways, by the public method; each is installed on first use."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.bench import peers
from loadtests.bench.contest.arena import Arena, Cores
from loadtests.bench.contest.contenders import CONTENDERS, Contender
from loadtests.bench.contest.method import FULL, QUICK, Method, measured, not_measured, without
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.rows import Row


def compared(effort: Effort) -> list[Row]:
    """All of them, or those that were asked for, one after the other."""
    wanted = effort.gateways or ("",)
    chosen = [one for one in CONTENDERS if any(part in one.title.lower() for part in wanted)]
    return among(chosen, effort.of(FULL, QUICK), effort)


def among(contenders: Sequence[Contender], method: Method, effort: Effort) -> list[Row]:
    """Those that are given; one that cannot be installed has a row that says why."""
    rows: list[Row] = []
    with Arena(Cores.halves()) as arena:
        unmediated = without(arena, method, lambda what: effort.say(f"no gateway: {what}"))
        for contender in contenders:

            def say(what: str, title: str = contender.title) -> None:
                effort.say(f"{title}: {what}")

            if contender.peer is not None:
                try:
                    peers.install(contender.peer, say)
                except peers.PeerError as error:
                    rows.append(not_measured(contender.title, str(error)))
                    continue
            rows += measured(arena, contender, method, say)
    return [*rows, *unmediated]
