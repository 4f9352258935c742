"""What a workload consists of: sizes, repetition and pace, on a server that never lets anybody
wait."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loadtests.workloads.sessions import UNLOADED_S_PER_TOKEN, UNLOADED_TTFT_S, Request
from loadtests.workloads.traffic import Traffic

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures over the requests of one run, in tokens and seconds; shares are from 0 to 1."""

    requests: int
    sessions: int
    tenants: int
    adapters: int
    duration_s: float
    """From the first arrival to the last."""
    prompt_mean: float
    prompt_p50: float
    prompt_p99: float
    output_mean: float
    output_p50: float
    output_p99: float
    repeated: float
    """Share of the prompt tokens in blocks that an earlier request had in its prompt or answer: the
    prefix hit rate of one cache without bounds."""
    repeated_elsewhere: float
    """The part of ``repeated`` that the request's own session had not had before."""
    gap_cv: float
    """Coefficient of variation of the time between arrivals: 1 for a Poisson process."""


def walk(
    traffic: Traffic,
    *,
    ttft_s: float = UNLOADED_TTFT_S,
    s_per_token: float = UNLOADED_S_PER_TOKEN,
) -> Iterator[Request]:
    """All requests of ``traffic`` in order of arrival. A server without limits answers them: after
    ``ttft_s``, with a token every ``s_per_token``."""
    order = itertools.count()
    ends: list[tuple[float, int, Request]] = []
    while True:
        due_s = traffic.next_s()
        if ends and (due_s is None or ends[0][0] <= due_s):
            end_s, _, request = heapq.heappop(ends)
            traffic.answered(request, end_s)
        elif due_s is None:
            return
        else:
            for request in traffic.take(due_s):
                end_s = request.arrival_s + ttft_s + s_per_token * request.output_tokens
                heapq.heappush(ends, (end_s, next(order), request))
                yield request


def summarize(requests: Iterator[Request], *, block_tokens: int = BLOCK_TOKENS) -> Summary:
    """The figures of ``requests``, in order of arrival. Raises ValueError when there are none."""
    seen: dict[int, str] = {}
    """By block, the last session that had it."""
    prompts: list[int] = []
    outputs: list[int] = []
    arrivals: list[float] = []
    sessions: Counter[str] = Counter()
    tenants: set[str] = set()
    adapters: set[str] = set()
    repeated = elsewhere = 0
    for request in requests:
        ids = request.block_ids(block_tokens)
        own = 0
        for place, block in enumerate(ids[: request.prompt_tokens // block_tokens]):
            owner = seen.get(block)
            if owner is None:
                repeated += place
                break
            own += owner == request.session
        else:
            place = request.prompt_tokens // block_tokens
            repeated += place
        elsewhere += place - own if ids else 0
        seen.update(dict.fromkeys(ids, request.session))
        prompts.append(request.prompt_tokens)
        outputs.append(request.output_tokens)
        arrivals.append(request.arrival_s)
        sessions[request.session] += 1
        tenants.add(request.tenant)
        adapters.add(request.adapter)
    if not prompts:
        raise ValueError("no request to summarize")
    total = sum(prompts)
    gaps = np.diff(np.array(arrivals))
    return Summary(
        requests=len(prompts),
        sessions=len(sessions),
        tenants=len(tenants - {""}),
        adapters=len(adapters - {""}),
        duration_s=arrivals[-1] - arrivals[0],
        prompt_mean=total / len(prompts),
        prompt_p50=float(np.percentile(prompts, 50)),
        prompt_p99=float(np.percentile(prompts, 99)),
        output_mean=sum(outputs) / len(outputs),
        output_p50=float(np.percentile(outputs, 50)),
        output_p99=float(np.percentile(outputs, 99)),
        repeated=repeated * block_tokens / total,
        repeated_elsewhere=elsewhere * block_tokens / total,
        gap_cv=float(gaps.std() / gaps.mean()) if gaps.size and gaps.mean() > 0 else 0.0,
    )
