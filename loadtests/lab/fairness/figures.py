"""Figures of one run under an order: by tenant, by size, and how far tenants are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise

import numpy as np

from loadtests.lab.fairness.cases import CHAT, OUTPUT_WORTH, Case
from loadtests.lab.outcome import Outcome, Served
from loadtests.lab.summary import Slo, Window, figures

SIZES = (0, 1_000, 3_000, 30_000)
"""Prompt tokens from which a size class begins."""


@dataclass(frozen=True, slots=True)
class TenantService:
    """What one tenant got. Of requests that arrived in the window, but tokens and cost: those are
    of the window itself."""

    requests: int
    refused: int
    good_per_s: float
    ttft_p50_s: float | None
    ttft_p90_s: float | None
    ttft_p99_s: float | None
    wait_p50_s: float | None
    wait_p99_s: float | None
    tokens_per_s: float
    """Prompt and output."""
    cost_per_s: float
    """As `cost_of`."""


@dataclass(frozen=True, slots=True)
class SizeService:
    """What requests of one size got."""

    least_tokens: int
    requests: int
    refused: int
    wait_p50_s: float | None
    wait_p99_s: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None


@dataclass(frozen=True, slots=True)
class Gap:
    """How far tenants that wait all the time are apart in what was given to them: cost by weight,
    as the queue counts it (`Item.spent`). What a request has cost in the end counts from when it
    was given out."""

    most: float
    """Between any two, over any part of the window."""
    largest: float
    """Request, by weight."""
    believed: float
    """The most that the queue itself had, by what it knew at the time."""


def cost_of(served: Served) -> float:
    """What a request has cost the pool, tokens of prefill."""
    return served.input_tokens - (served.cached_tokens or 0) + OUTPUT_WORTH * served.output_tokens


def measure(case: Case, outcome: Outcome) -> dict[str, object]:
    """All figures of a run, as data."""
    window = case.window
    names = dict.fromkeys(sender.tenant or sender.name for sender in case.senders)
    by_tenant = {name: [each for each in outcome.served if each.tenant == name] for name in names}
    tenants = {
        name: _tenant(served, window, case.slos.get(name, CHAT))
        for name, served in by_tenant.items()
    }
    whole = figures(outcome, window, CHAT)
    return {
        "tenants": {name: asdict(each) for name, each in tenants.items()},
        "sizes": {
            name: [asdict(each) for each in _by_size(served, window)]
            for name, served in by_tenant.items()
        },
        "gap": _gap(case, outcome, by_tenant),
        "tokens_per_s": whole.input_tokens_per_s + whole.output_tokens_per_s,
        "hit_rate": whole.hit_rate,
        "good_per_s": sum(each.good_per_s for each in tenants.values()),
        "preemptions": outcome.preemptions,
    }


def jain(values: Sequence[float]) -> float:
    """Jain's index (Jain, Chiu and Hawe, 1984): 1 when all are equal, 1/n when one has all."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _tenant(served: Sequence[Served], window: Window, slo: Slo) -> TenantService:
    found = figures(Outcome(list(served)), window, slo)
    arrived = [each for each in served if window.holds(each.arrival_s)]
    wait = _quantiles([each.queued_s for each in arrived if not each.failed], (50, 99))
    uncached = 1.0 - (found.hit_rate or 0.0)
    return TenantService(
        requests=found.requests,
        refused=found.refused,
        good_per_s=found.goodput_per_s,
        ttft_p50_s=found.ttft_p50_s,
        ttft_p90_s=found.ttft_p90_s,
        ttft_p99_s=found.ttft_p99_s,
        wait_p50_s=wait[0],
        wait_p99_s=wait[1],
        tokens_per_s=found.input_tokens_per_s + found.output_tokens_per_s,
        cost_per_s=uncached * found.input_tokens_per_s + OUTPUT_WORTH * found.output_tokens_per_s,
    )


def _by_size(served: Sequence[Served], window: Window) -> list[SizeService]:
    found: list[SizeService] = []
    for least, below in pairwise((*SIZES, 1 << 62)):
        arrived = [
            each
            for each in served
            if window.holds(each.arrival_s) and least <= each.input_tokens < below
        ]
        answered = [each for each in arrived if not each.failed]
        wait = _quantiles([each.queued_s for each in answered], (50, 99))
        ttft = _quantiles([each.ttft_s for each in answered if each.ttft_s is not None], (50, 99))
        refused = len(arrived) - len(answered)
        found.append(SizeService(least, len(arrived), refused, *wait, *ttft))
    return found


def _gap(
    case: Case, outcome: Outcome, by_tenant: Mapping[str, Sequence[Served]]
) -> dict[str, float] | None:
    """None when there are not two tenants that wait all the time."""
    window = case.window
    waiting = [name for name, served in by_tenant.items() if _waits_always(served, window)]
    if len(waiting) < 2:
        return None
    given: dict[str, list[tuple[float, float]]] = {}
    largest = 0.0
    for name in waiting:
        weight = case.terms[name].weight if name in case.terms else 1
        given[name] = [
            (at_s, _spent(outcome, each) / weight)
            for each in by_tenant[name]
            if not each.failed and window.holds(at_s := each.arrival_s + each.queued_s)
        ]
        largest = max(largest, max((cost for _, cost in given[name]), default=0.0))
    most = max(_apart(given[one], given[other]) for one, other in combinations(waiting, 2))
    believed = max(
        (gap for at_s, priority, gap in outcome.gaps if window.holds(at_s) and priority == 0),
        default=0.0,
    )
    return asdict(Gap(most, largest, believed))


def _spent(outcome: Outcome, served: Served) -> float:
    item = outcome.items.get(served.id)
    return cost_of(served) if item is None else item.spent


def _apart(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float:
    """The most by which one was given more than the other, over any part of the time."""
    steps = sorted([*one, *((at_s, -cost) for at_s, cost in other)])
    sums = np.cumsum([0.0, *(cost for _, cost in steps)])
    return float(sums.max() - sums.min())


def _waits_always(served: Sequence[Served], window: Window) -> bool:
    until_s = window.begin_s
    for each in sorted(served, key=lambda one: one.arrival_s):
        if each.arrival_s > until_s:
            break
        until_s = max(until_s, each.arrival_s + each.queued_s)
    return until_s >= window.end_s


def _quantiles(values: Sequence[float], of: tuple[int, int]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    low, high = np.percentile(values, of)
    return float(low), float(high)
