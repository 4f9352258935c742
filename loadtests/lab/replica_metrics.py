"""What a replica counts, read from its /metrics page with vLLM's names."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class ReplicaCounters:
    """Counts since the replica's start, or between two reads."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    looked_up_tokens: int = 0
    """Tokens of prompts that were looked up in the prefix cache."""
    generation_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    """Requests that ended, for whatever reason the engine gives; vLLM does not count one whose
    client left."""

    def __sub__(self, other: ReplicaCounters) -> ReplicaCounters:
        return ReplicaCounters(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def computed_tokens(self) -> int:
        """Work done: prompt tokens that were not cached, and generated tokens."""
        return self.prompt_tokens - self.cached_tokens + self.generation_tokens


@dataclass(frozen=True, slots=True)
class ReplicaGauges:
    """The state at one instant."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0

    @property
    def idle(self) -> bool:
        """Nothing to do."""
        return not self.running and not self.waiting


def counters(page: bytes) -> ReplicaCounters:
    """The counters on a page; 0 for what is not there."""
    return ReplicaCounters(
        prompt_tokens=int(_sum(page, b"vllm:prompt_tokens_total")),
        cached_tokens=int(_sum(page, b"vllm:prefix_cache_hits_total")),
        looked_up_tokens=int(_sum(page, b"vllm:prefix_cache_queries_total")),
        generation_tokens=int(_sum(page, b"vllm:generation_tokens_total")),
        preemptions=int(_sum(page, b"vllm:num_preemptions_total")),
        finished=int(_sum(page, b"vllm:request_success_total")),
    )


def gauges(page: bytes) -> ReplicaGauges:
    """The gauges on a page; 0 for what is not there."""
    return ReplicaGauges(
        running=int(_sum(page, b"vllm:num_requests_running")),
        waiting=int(_sum(page, b"vllm:num_requests_waiting")),
        kv_usage=_sum(page, b"vllm:kv_cache_usage_perc"),
    )


def _sum(page: bytes, name: bytes) -> float:
    """The sum of a metric's samples. The page is searched, not parsed: a real replica's has
    thousands of lines, and the client that reads it also has streams to time."""
    total, place = 0.0, 0
    start = name + b"{"
    while (place := page.find(start, place)) >= 0:
        end = page.find(b"\n", place)
        line = page[place : end if end >= 0 else len(page)]
        if page[place - 1 : place] in (b"", b"\n"):
            total += float(line.rpartition(b" ")[2])
        place += len(line)
    return total
