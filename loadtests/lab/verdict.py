"""The answer of a comparison in words: which contender is best, by how much, and how certainly."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.bench.stats import Estimate
from loadtests.lab.points import Point, difference
from loadtests.lab.source import Level
from loadtests.lab.summary import Slo

CARRIED = 0.9
"""A load is carried when this share of it is answered within the SLO."""
_PAR = 0.05
_GOODPUT, _TTFT = "goodput_per_s", "ttft_mean_s"


class Placing(enum.Enum):
    """How a contender compares with the best one."""

    BEST = "best"
    PAR = "on a par"
    """The difference is certainly small: within 5 %."""
    OPEN = "open"
    """There may or may not be a difference: more seeds would show it."""
    BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class Rank:
    """A contender at the load at which contenders are compared."""

    point: Point
    behind: Estimate | None
    """The best one's figure minus this one's, by paired seeds; None for the best, or without
    figures."""
    standing: Placing
    carries: Level | None
    """The highest load up to which all loads are carried; None: not even the lowest is."""
    peak: Point
    """The point at which it answers most requests within the SLO."""


@dataclass(frozen=True, slots=True)
class FleetVerdict:
    """The verdict on one size of fleet."""

    replicas: int
    level: Level
    """The load at which contenders are compared: the one with the highest goodput of all."""
    figure: str
    """What they are compared by: goodput, or the mean TTFT when nobody meets the SLO."""
    ranks: tuple[Rank, ...]
    """Best first."""

    @property
    def best(self) -> Point:
        """The best contender's point."""
        return self.ranks[0].point


def verdicts(points: Sequence[Point]) -> list[FleetVerdict]:
    """One verdict for each size of fleet."""
    sizes = dict.fromkeys(point.replicas for point in points)
    return [_verdict([point for point in points if point.replicas == size]) for size in sizes]


def _verdict(points: Sequence[Point]) -> FleetVerdict:
    peak = max(points, key=_goodput)
    figure, level = _GOODPUT, peak.level
    if not _goodput(peak):
        figure, level = _TTFT, min(point.level for point in points)
    there = [point for point in points if point.level == level]
    there.sort(key=lambda point: _badness(point, figure))
    best = there[0]
    ranks = tuple(
        Rank(
            point,
            None if point is best else difference(best, point, figure),
            _standing(best, point, figure),
            _carries(mine := [each for each in points if each.contender == point.contender]),
            max(mine, key=_goodput),
        )
        for point in there
    )
    return FleetVerdict(best.replicas, level, figure, ranks)


def _standing(best: Point, point: Point, figure: str) -> Placing:
    if point is best:
        return Placing.BEST
    behind = difference(best, point, figure)
    if behind is None:
        return Placing.BEHIND
    near = _PAR * abs(best.mean(figure) or 0.0)
    if behind.error is None:  # with one seed nothing is certain
        return Placing.OPEN if abs(behind.value) <= near else Placing.BEHIND
    if abs(behind.value) + behind.error <= near:
        return Placing.PAR
    return Placing.OPEN if behind.includes_zero else Placing.BEHIND


def _goodput(point: Point) -> float:
    return point.mean(_GOODPUT) or 0.0


def _failed(point: Point) -> float:
    """Share of its requests that failed; their waiting is in no TTFT."""
    return sum(point.values("failed")) / max(1.0, sum(point.values("requests")))


def _badness(point: Point, figure: str) -> tuple[float, float]:
    """Sorts the best first. When TTFT decides, fewer failures (by a percent) come first: TTFT must
    not win by failing."""
    value = point.mean(figure)
    if figure == _TTFT:
        return round(_failed(point), 2), float("inf") if value is None else value
    return 0.0, -_goodput(point)


def _carries(points: Sequence[Point]) -> Level | None:
    carried: Level | None = None
    for point in sorted(points, key=lambda point: point.level):
        if (point.mean("good_share") or 0.0) < CARRIED:
            break
        carried = point.level
    return carried


def sentences(verdict: FleetVerdict, slo: Slo) -> list[str]:
    """The verdict in words, the main sentence first."""
    best, rest = verdict.ranks[0], verdict.ranks[1:]
    first = [_opening(verdict, slo)]
    par = [rank.point.contender for rank in rest if rank.standing is Placing.PAR]
    if par:
        first.append(f"On a par with it, within {_PAR:.0%}: {_listed(par)}.")
    first += [_behind(verdict, rank) for rank in rest if rank.standing is not Placing.PAR]
    if len(best.point.by_seed) == 1 and rest:
        first.append("One seed only: nothing is known of how much of this is chance.")
    return first


def _opening(verdict: FleetVerdict, slo: Slo) -> str:
    best = verdict.best
    fleet = f"{verdict.replicas} replica{'' if verdict.replicas == 1 else 's'}"
    within = f"TTFT up to {slo.ttft_s:g} s, TPOT up to {slo.tpot_s * 1000:g} ms"
    if verdict.figure == _TTFT:
        nobody = f"Nobody meets the SLO ({within}) under any load tried on {fleet}."
        ttft = best.estimate(_TTFT)
        if ttft is None:
            return f"{nobody} No request was answered at {verdict.level.label}."
        least = "has the lowest mean TTFT"
        if any(_failed(rank.point) for rank in verdict.ranks):
            least = f"fails fewest, {_failed(best):.0%}, and answers the others with the mean TTFT"
            least = least if len(verdict.ranks) > 1 else f"fails {_failed(best):.0%}; mean TTFT"
        return f"{nobody} {best.contender} {least} at {verdict.level.label}: {shown(ttft)} s."
    share = best.mean("good_share") or 0.0
    what = "the most requests" if len(verdict.ranks) > 1 else "at best"
    return (
        f"{best.contender} answers {what} within the SLO ({within}) on {fleet}:"
        f" {shown(best.estimate(_GOODPUT))} a second at {verdict.level.label},"
        f" {share:.0%} of those that came."
    )


def _behind(verdict: FleetVerdict, rank: Rank) -> str:
    best, point, figure = verdict.best, rank.point, verdict.figure
    unit = "s" if figure == _TTFT else "requests/s"
    mine, its = best.mean(figure), point.mean(figure)
    if mine is None or its is None or rank.behind is None:
        return f"{point.contender} answered nothing there."
    text = f"{point.contender}: {shown(point.estimate(figure))} {unit}"
    gap = Estimate(abs(rank.behind.value), rank.behind.error)
    text += f", {shown(gap)} {'more' if figure == _TTFT else 'fewer'}"
    low, high = sorted((mine, its))
    if low > 0 and high >= 1.05 * low:
        text += f" (a factor of {high / low:.2g})"
    if rank.standing is Placing.OPEN:
        text += ", which may be chance: more seeds would tell"
    if figure == _TTFT and _failed(point):
        text += f"; {_failed(point):.0%} of its requests failed"
    if figure == _GOODPUT and rank.peak.level != point.level:
        text += f"; at its own best, {rank.peak.level.label}, {shown(rank.peak.estimate(figure))}"
    return f"{text}."


def shown(found: Estimate | None, *, digits: int = 3) -> str:
    """A value with its 95 % interval, as in ``12.3 ± 0.4``."""
    if found is None:
        return "-"
    value = rounded(found.value, digits)
    return value if found.error is None else f"{value} ± {rounded(found.error, 2)}"


def rounded(value: float, digits: int = 3) -> str:
    """A value with so many significant digits, without an exponent."""
    if value == 0:
        return "0"
    text = f"{float(f'{value:.{digits}g}'):,.10f}".rstrip("0").rstrip(".")
    return text or "0"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
