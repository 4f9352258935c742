"""A small fleet in virtual time: enough engine to tell good routing from bad, nothing more.

Each replica works in steps: a chunk of prefill in order of arrival, and one token for every
sequence that decodes. The picker's own prefix index, ledger and pool state drive the policy.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import xxhash

from picker.flight.ledger import Ledger
from picker.flight.leg import Leg
from picker.prompt.blocks import HASH_MASK, block_ends
from picker.request.role import Role
from picker.state.cache.approximate import ApproximateIndex
from picker.state.endpoints import PoolState, Signals
from picker.state.spec import EndpointSpec
from policies.routing.types import RoutingPolicy, RoutingRequest

BYTES_PER_TOKEN = 4
KV_CAPACITY_TOKENS = 400_000
PREFILL_TOKENS_PER_S = 12_000.0
STEP_TOKENS = 2_048
STEP_BASE_S = 0.010
STEP_S_PER_KV_TOKEN = 4e-8
SCRAPE_EVERY_S = 0.5

Segments = tuple[tuple[str, int], ...]
"""A prompt as (what it says, tokens) from its beginning; equal beginnings are equal text."""


@dataclass(slots=True)
class Job:
    at_s: float
    segments: Segments
    output_tokens: int
    then: Callable[[float], Iterator[Job]] | None = None
    """Jobs that follow when this one ends, for instance the next turn."""
    leg: Leg | None = None
    slot: int = -1
    to_prefill: int = 0
    ttft_s: float = 0.0
    ends_at_step: int = 0

    @property
    def prompt_tokens(self) -> int:
        return sum(tokens for _, tokens in self.segments)


@dataclass(slots=True)
class Replica:
    waiting: deque[Job] = field(default_factory=deque)
    decoding: list[tuple[int, int, Job]] = field(default_factory=list)
    step: int = 0
    kv_tokens: int = 0
    busy: bool = False


@dataclass(slots=True)
class Result:
    ttft_s: list[float]
    latency_s: list[float]
    prompt_tokens: int
    cached_tokens: int
    by_slot: list[int]

    @property
    def mean_ttft_s(self) -> float:
        return float(np.mean(self.ttft_s))

    @property
    def hit_rate(self) -> float:
        return self.cached_tokens / max(1, self.prompt_tokens)


def chain_of(segments: Segments) -> list[int]:
    """Block hashes of a prompt: each names all the text up to its end."""
    chain: list[int] = []
    covered, said = 0, 0
    for text, tokens in segments:
        covered += tokens * BYTES_PER_TOKEN
        said = xxhash.xxh3_64_intdigest(text.encode(), said)
        while block_ends(len(chain) + 1)[len(chain) + 1] <= covered:
            chain.append(xxhash.xxh3_64_intdigest(b"block", said + len(chain)) & HASH_MASK)
    return chain


class Fleet:
    """Runs jobs through a policy over identical replicas."""

    def __init__(self, policy: RoutingPolicy, *, replicas: int, seed: int) -> None:
        self._policy = policy
        self._rng = random.Random(seed)
        self._pool = PoolState("fleet", stale_after_s=1e9)
        self._pool.sync([EndpointSpec(f"10.0.0.{n}:8000") for n in range(1, replicas + 1)])
        self._ledger = Ledger({"fleet": self._pool})
        capacity = KV_CAPACITY_TOKENS * BYTES_PER_TOKEN
        self._believed = ApproximateIndex(default_capacity_bytes=capacity)
        self._cached = ApproximateIndex(default_capacity_bytes=capacity)
        self._replicas = [Replica() for _ in range(self._pool.slots)]
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self.result = Result([], [], 0, 0, [0] * self._pool.slots)

    def run(self, jobs: list[Job], *, until_s: float) -> Result:
        self._scrape(0.0)
        for job in jobs:
            self._arrive_later(job)
        while self._events and self._events[0][0] <= until_s:
            now_s, _, happen = heapq.heappop(self._events)
            happen(now_s)
        return self.result

    def _at(self, time_s: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), happen))

    def _arrive_later(self, job: Job) -> None:
        self._at(job.at_s, lambda now_s: self._dispatch(job, now_s))

    def _scrape(self, now_s: float) -> None:
        for address, slot in self._pool.slot_of.items():
            replica = self._replicas[slot]
            signals = Signals(
                waiting_requests=len(replica.waiting),
                running_requests=len(replica.decoding),
                kv_usage=min(1.0, replica.kv_tokens / KV_CAPACITY_TOKENS),
                kv_capacity_tokens=KV_CAPACITY_TOKENS,
                kv_block_tokens=16,
                max_loras=0,
                running_adapters=frozenset(),
                waiting_adapters=frozenset(),
            )
            self._pool.apply_signals(address, signals, now_s)
        self._at(now_s + SCRAPE_EVERY_S, self._scrape)

    def _dispatch(self, job: Job, now_s: float) -> None:
        chain = chain_of(job.segments)
        self._ledger.settle_prefills(now_s)
        matched = self._believed.matched_bytes([chain], self._pool.slots) / BYTES_PER_TOKEN
        request = RoutingRequest(job.prompt_tokens, 0.0, matched)
        ranking = self._policy.rank(
            request, self._pool.view, self._pool.candidates(now_s), 1, now_s, self._rng
        )
        slot = int(ranking.slots[0])
        job.slot = slot
        job.leg = Leg(
            id=str(next(self._order)),
            role=Role.BOTH,
            pool="fleet",
            address=self._pool.address_of(slot),
            prompt_tokens=job.prompt_tokens,
            uncached_tokens=job.prompt_tokens - float(matched[slot]),
            output_tokens=300,  # nobody knows the length of an answer beforehand
        )
        self._ledger.open(job.leg, now_s)
        self._believed.sent(slot, [chain])
        self.result.by_slot[slot] += 1
        replica = self._replicas[slot]
        replica.waiting.append(job)
        if not replica.busy:
            replica.busy = True
            self._step(slot, now_s)

    def _step(self, slot: int, now_s: float) -> None:
        replica = self._replicas[slot]
        budget = STEP_TOKENS
        prefilled: list[Job] = []
        while replica.waiting and budget > 0:
            job = replica.waiting[0]
            if not job.to_prefill:
                if replica.decoding and replica.kv_tokens + job.prompt_tokens > KV_CAPACITY_TOKENS:
                    break
                self._admit(replica, job)
            chunk = min(budget, job.to_prefill)
            job.to_prefill -= chunk
            budget -= chunk
            if job.to_prefill:
                break
            prefilled.append(replica.waiting.popleft())
        if budget == STEP_TOKENS and not replica.decoding:
            replica.busy = False
            return
        took_s = (
            STEP_BASE_S
            + (STEP_TOKENS - budget) / PREFILL_TOKENS_PER_S
            + replica.kv_tokens * STEP_S_PER_KV_TOKEN
        )
        self._at(now_s + took_s, lambda end_s: self._stepped(slot, prefilled, end_s))

    def _admit(self, replica: Replica, job: Job) -> None:
        chain = chain_of(job.segments)
        cached = (
            int(self._cached.matched_bytes([chain], self._pool.slots)[job.slot]) // BYTES_PER_TOKEN
        )
        job.to_prefill = max(1, job.prompt_tokens - cached)
        replica.kv_tokens += job.prompt_tokens
        self.result.prompt_tokens += job.prompt_tokens
        self.result.cached_tokens += cached

    def _stepped(self, slot: int, prefilled: list[Job], now_s: float) -> None:
        replica = self._replicas[slot]
        replica.step += 1
        replica.kv_tokens += len(replica.decoding)
        for job in prefilled:
            self._cached.sent(slot, [chain_of(job.segments)])
            job.ttft_s = now_s - job.at_s
            self.result.ttft_s.append(job.ttft_s)
            job.ends_at_step = replica.step + job.output_tokens
            heapq.heappush(replica.decoding, (job.ends_at_step, next(self._order), job))
        while replica.decoding and replica.decoding[0][0] <= replica.step:
            job = heapq.heappop(replica.decoding)[2]
            replica.kv_tokens -= job.prompt_tokens + job.output_tokens
            self.result.latency_s.append(now_s - job.at_s)
            assert job.leg is not None
            self._ledger.close(job.leg, ttft_s=job.ttft_s, now_s=now_s)
            for following in job.then(now_s) if job.then else ():
                self._arrive_later(following)
        self._step(slot, now_s)


def conversations(
    *, count: int, per_s: float, turns: int, shared: int, own: int, ask: int, answer: int, seed: int
) -> list[Job]:
    """Conversations that begin at random; each turn follows the answer to the one before."""
    rng = random.Random(seed)

    def turn(n: int, segments: Segments, left: int, at_s: float) -> Job:
        segments = (*segments, (f"ask {n}.{left}", ask))

        def then(now_s: float) -> Iterator[Job]:
            if left > 1:
                said = (*segments, (f"answer {n}.{left}", answer))
                yield turn(n, said, left - 1, now_s + rng.uniform(1.0, 5.0))

        return Job(at_s, segments, answer, then)

    at_s, jobs = 0.0, []
    for n in range(count):
        at_s += rng.expovariate(per_s)
        jobs.append(turn(n, (("shared", shared), (f"own {n}", own)), turns, at_s))
    return jobs


def single_prompts(
    *, count: int, per_s: float, systems: Mapping[str, int], ask: int, answer: int, seed: int
) -> list[Job]:
    """Independent questions, each under one of the system prompts (name to tokens)."""
    rng = random.Random(seed)
    at_s, jobs = 0.0, []
    names = list(systems)
    for n in range(count):
        at_s += rng.expovariate(per_s)
        name = names[rng.randrange(len(names))]
        jobs.append(Job(at_s, ((name, systems[name]), (f"ask {n}", ask)), answer))
    return jobs
