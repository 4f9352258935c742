"""A run in figures: latencies, goodput, throughput, cache, balance.

Latencies, goodput and hit rates are of the requests that *arrived* in a window. Throughput is of
the window itself: the tokens of a prompt count when its answer begins, those of an answer evenly
between its first and its last token, so that a request at the edge counts in part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from loadtests.lab.outcome import REFUSED, Outcome, Sample, Served
from loadtests.workloads.arrivals import Stage

_BINS = 100
_LEAST_TTFT_S = 0.05
"""Errors of the prediction of shorter ones are left out: nobody waits for those."""
_LARGE = 0.9
"""Quantile of the prompts' lengths from which on a request is one of the largest."""
_Spread = tuple[float | None, float | None, float | None, float | None]
"""Mean, p50, p90, p99."""


@dataclass(frozen=True, slots=True)
class Slo:
    """What a good answer is: it begins, and goes on, soon enough."""

    ttft_s: float = 2.0
    tpot_s: float = 0.05

    def met_by(self, served: Served) -> bool:
        """Whether the answer is good. A failed request never is; an answer of one token has no
        TPOT."""
        if served.failed or served.ttft_s is None or served.ttft_s > self.ttft_s:
            return False
        return served.tpot_s is None or served.tpot_s <= self.tpot_s


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left out at both ends of a run.

    Fleets begin empty and cold, and end with fewer and fewer requests: neither is the load that was
    asked for. The window closes when all but ``cool_down`` of the requests have arrived, and opens
    after ``warm_up`` of the time until then. With 0 and 0 the window is the whole run, from the
    first arrival to the last answer.
    """

    warm_up: float = 0.2
    cool_down: float = 0.1

    def __post_init__(self) -> None:
        for name in ("warm_up", "cool_down"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share from 0 to under 1, got {getattr(self, name)}")

    def window(self, outcome: Outcome) -> Window:
        """The window of a run; the whole run when all requests arrive at one time. Raises
        ValueError without requests."""
        if not outcome.served:
            raise ValueError("no request was served: nothing to summarize")
        arrivals_s = sorted(served.arrival_s for served in outcome.served)
        first_s = arrivals_s[0]
        last_s = max(served.finished_s for served in outcome.served)
        kept = math.ceil(len(arrivals_s) * (1.0 - self.cool_down))
        end_s = arrivals_s[kept] if kept < len(arrivals_s) else math.nextafter(last_s, math.inf)
        begin_s = first_s + self.warm_up * (end_s - first_s)
        if end_s <= first_s or not any(begin_s <= at_s < end_s for at_s in arrivals_s):
            return Window(first_s, math.nextafter(last_s, math.inf))
        return Window(begin_s, end_s)


@dataclass(frozen=True, slots=True)
class Window:
    """A time of the run, in seconds of its clock; the end does not belong to it."""

    begin_s: float
    end_s: float

    @property
    def span_s(self) -> float:
        """Its length in seconds."""
        return self.end_s - self.begin_s

    def holds(self, at_s: float) -> bool:
        """Whether the instant lies in the window."""
        return self.begin_s <= at_s < self.end_s


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one window. None: nothing was there to measure. Shares are from 0 to 1."""

    ttft_mean_s: float | None
    ttft_p50_s: float | None
    ttft_p90_s: float | None
    ttft_p99_s: float | None
    tpot_mean_s: float | None
    tpot_p50_s: float | None
    tpot_p90_s: float | None
    tpot_p99_s: float | None
    latency_mean_s: float | None
    latency_p50_s: float | None
    latency_p90_s: float | None
    latency_p99_s: float | None
    good_share: float | None
    """Requests answered within the SLO, of all that arrived."""
    goodput_per_s: float
    """Requests that arrived and were answered within the SLO."""
    arrived_per_s: float
    finished_per_s: float
    input_tokens_per_s: float
    """Tokens of prompts, cached ones included."""
    output_tokens_per_s: float
    hit_rate: float | None
    """Share of the prompt tokens that the engines had cached."""
    expected_hit_rate: float | None
    """Share of the prompt tokens that the picker's index believed to be cached."""
    captured_reuse: float | None
    """Prompt tokens that the engines had cached, of those that they would have had if each request
    had gone where the most of it was cached at its decision."""
    largest_ttft_p99_s: float | None
    """Of the tenth of the requests with the longest prompts."""
    ttft_error: float | None
    """Median of |predicted / seen - 1|, of requests whose TTFT was over 50 ms."""
    tpot_error: float | None
    in_flight_cv: float | None
    """Standard deviation over mean of running and waiting requests across replicas at an instant,
    averaged over instants."""
    requests: int
    """Requests that arrived."""
    failed: int
    """Those that failed, refused ones included."""
    refused: int
    """Those for which no replica was chosen."""


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """One tenant's figures of one window."""

    tenant: str
    requests: int
    good_share: float | None
    ttft_p50_s: float | None
    ttft_p90_s: float | None
    ttft_p99_s: float | None
    tpot_p90_s: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures of a whole run."""

    duration_s: float
    requests: int
    failed: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class Whole(Totals):
    """Figures of a whole simulated run."""

    busy_share: float
    """Share of the replicas' time."""
    busy_max_over_mean: float | None
    """1 when all replicas were busy for equally long."""
    steps: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """Requests running and waiting by replica (rows) and time (columns), means of each column."""

    column_s: float
    in_flight: tuple[tuple[float, ...], ...]
    kv_usage: tuple[tuple[float, ...], ...]


def figures(outcome: Outcome, window: Window, slo: Slo) -> Figures:
    """Compute the figures of a window."""
    arrived = [served for served in outcome.served if window.holds(served.arrival_s)]
    answered = [served for served in arrived if not served.failed]
    ttft = _spread(served.ttft_s for served in answered)
    tpot = _spread(served.tpot_s for served in answered)
    latency = _spread(served.latency_s for served in answered)
    good = sum(map(slo.met_by, arrived))
    input_tokens = sum(served.input_tokens for served in answered)
    span_s = window.span_s
    finished = sum(not each.failed and window.holds(each.finished_s) for each in outcome.served)
    return Figures(
        *ttft,
        *tpot,
        *latency,
        good_share=good / len(arrived) if arrived else None,
        goodput_per_s=good / span_s,
        arrived_per_s=len(arrived) / span_s,
        finished_per_s=finished / span_s,
        input_tokens_per_s=_input_tokens(outcome.served, window) / span_s,
        output_tokens_per_s=_output_tokens(outcome.served, window) / span_s,
        hit_rate=_share(_sum(served.cached_tokens for served in answered), input_tokens),
        expected_hit_rate=_share(
            _sum(served.expected_cached_tokens for served in answered), input_tokens
        ),
        captured_reuse=_captured(answered),
        largest_ttft_p99_s=_largest_ttft_p99_s(answered),
        ttft_error=_median_error(
            (each.predicted_ttft_s, each.ttft_s)
            for each in answered
            if each.ttft_s is not None and each.ttft_s > _LEAST_TTFT_S
        ),
        tpot_error=_median_error((each.predicted_tpot_s, each.tpot_s) for each in answered),
        in_flight_cv=_in_flight_cv(outcome.samples, window),
        requests=len(arrived),
        failed=len(arrived) - len(answered),
        refused=sum(served.replica == REFUSED for served in arrived),
    )


def by_tenant(outcome: Outcome, window: Window, slo: Slo) -> tuple[TenantFigures, ...]:
    """The figures of each tenant, by name; () when there are not two."""
    found: dict[str, list[Served]] = {}
    for served in outcome.served:
        if window.holds(served.arrival_s):
            found.setdefault(served.tenant, []).append(served)
    if len(found) < 2:
        return ()
    rows: list[TenantFigures] = []
    for tenant, arrived in sorted(found.items()):
        answered = [served for served in arrived if not served.failed]
        _, p50_s, p90_s, p99_s = _spread(served.ttft_s for served in answered)
        tpot_p90_s = _spread(served.tpot_s for served in answered)[2]
        good = sum(map(slo.met_by, arrived)) / len(arrived)
        rows.append(TenantFigures(tenant, len(arrived), good, p50_s, p90_s, p99_s, tpot_p90_s))
    return tuple(rows)


def whole(outcome: Outcome) -> Whole:
    """Compute the figures of a whole run."""
    busy_s = outcome.busy_s
    mean_s = sum(busy_s) / len(busy_s) if busy_s else 0.0
    return Whole(
        duration_s=outcome.duration_s,
        requests=len(outcome.served),
        failed=sum(served.failed for served in outcome.served),
        preemptions=outcome.preemptions,
        busy_share=mean_s / outcome.duration_s if outcome.duration_s else 0.0,
        busy_max_over_mean=max(busy_s) / mean_s if mean_s else None,
        steps=outcome.steps,
    )


def stage_windows(stages: Sequence[Stage]) -> list[Window]:
    """When each stage of a ramp lasts. Nothing is cut off: stages are short, and the queue that an
    earlier stage leaves is part of a ramp."""
    windows: list[Window] = []
    begin_s = 0.0
    for stage in stages:
        windows.append(Window(begin_s, begin_s + stage.duration_s))
        begin_s += stage.duration_s
    return windows


def timeline(outcome: Outcome, *, bins: int = _BINS) -> Timeline:
    """The samples in at most ``bins`` columns."""
    replicas = 1 + max((sample.replica for sample in outcome.samples), default=-1)
    instants = len(outcome.samples) // replicas if replicas else 0
    each = max(1, -(-instants // bins))
    between_s = 0.0
    if instants > 1:
        last = outcome.samples[(instants - 1) * replicas]
        between_s = (last.at_s - outcome.samples[0].at_s) / (instants - 1)
    by_replica = [outcome.samples[index::replicas] for index in range(replicas)]
    return Timeline(
        each * between_s,
        tuple(_binned([s.running + s.waiting for s in row], each) for row in by_replica),
        tuple(_binned([s.kv_usage for s in row], each) for row in by_replica),
    )


def _binned(values: Sequence[float], each: int) -> tuple[float, ...]:
    starts = range(0, len(values), each)
    return tuple(float(np.mean(values[start : start + each])) for start in starts)


def _spread(values: Iterable[float | None]) -> _Spread:
    known = np.array([value for value in values if value is not None])
    if not known.size:
        return (None, None, None, None)
    p50, p90, p99 = map(float, np.percentile(known, (50, 90, 99)))
    return (float(known.mean()), p50, p90, p99)


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum; None when one of the values is unknown."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _captured(answered: Sequence[Served]) -> float | None:
    best_tokens = _sum(each.best_cached_tokens for each in answered)
    if not best_tokens:
        return None
    return (_sum(each.cached_tokens for each in answered) or 0.0) / best_tokens


def _largest_ttft_p99_s(answered: Sequence[Served]) -> float | None:
    if not answered:
        return None
    least_tokens = np.quantile([each.input_tokens for each in answered], _LARGE)
    return _spread(each.ttft_s for each in answered if each.input_tokens >= least_tokens)[3]


def _median_error(pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    errors = [
        abs(predicted / seen - 1.0) for predicted, seen in pairs if predicted is not None and seen
    ]
    return float(np.median(errors)) if errors else None


def _share(part: float | None, of: int) -> float | None:
    return part / of if of and part is not None else None


def _input_tokens(served: Sequence[Served], window: Window) -> float:
    return sum(
        each.input_tokens
        for each in served
        if each.first_token_s is not None and window.holds(each.first_token_s)
    )


def _output_tokens(served: Sequence[Served], window: Window) -> float:
    total = 0.0
    for each in served:
        first_s, end_s = each.first_token_s, each.finished_s
        if first_s is None:
            continue
        if end_s <= first_s:
            total += each.output_tokens * window.holds(first_s)
            continue
        inside_s = min(end_s, window.end_s) - max(first_s, window.begin_s)
        total += each.output_tokens * max(0.0, inside_s) / (end_s - first_s)
    return total


def _in_flight_cv(samples: Sequence[Sample], window: Window) -> float | None:
    by_instant: dict[float, list[int]] = {}
    for sample in samples:
        if window.holds(sample.at_s):
            by_instant.setdefault(sample.at_s, []).append(sample.running + sample.waiting)
    table = [row for row in by_instant.values() if any(row)]
    if not table:
        return None
    counts = np.array(table, float)
    return float((counts.std(axis=1) / counts.mean(axis=1)).mean())
