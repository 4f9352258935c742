"""What is measured of a live run, besides the figures that all runs have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from loadtests.lab.live.strain import Strain
from loadtests.lab.outcome import Served
from loadtests.lab.replica_metrics import ReplicaCounters
from loadtests.lab.summary import Totals


@dataclass(frozen=True, slots=True)
class LiveTotals(Totals):
    """Totals of a live run."""

    tokens_max_over_mean: float | None
    """Tokens computed by a replica; 1 when all replicas computed equally many."""
    requests_max_over_mean: float | None
    replicas_hit_rate: float | None
    """Prompt tokens found cached, by the replicas' own counters."""
    gateway_cpu_ms: float | None
    """The gateway's CPU time per request; None when the gateway is not ours."""


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """Tokens of a whole run, by the usage in the answers."""

    input: int
    cached: int
    output: int

    @classmethod
    def of(cls, served: Iterable[Served]) -> AnswerTokens:
        """The sum over requests that were answered."""
        whole = [each for each in served if not each.failed]
        return cls(
            sum(each.input_tokens for each in whole),
            sum(each.cached_tokens or 0 for each in whole),
            sum(each.output_tokens for each in whole),
        )


@dataclass(frozen=True, slots=True)
class LiveDetails:
    """What a live run leaves besides figures."""

    strain: Strain
    errors: Mapping[str, int]
    """Failed requests by kind of failure."""
    said: Mapping[str, str]
    """By kind of failure, the server's message about the first of them."""
    tokens: AnswerTokens
    uncounted: int
    """Answers without usage: their tokens are estimates."""
    by_replica: tuple[ReplicaCounters, ...]
    """What each replica counted during the run."""
    caches_emptied: bool
    """Whether the replicas' prefix caches were emptied before the run."""
    place: int
    """Place of the target among those of its seed, from 0; the order is drawn."""

    def as_data(self) -> Mapping[str, object]:
        return {
            "strain": self.strain.as_data(),
            "errors": dict(self.errors),
            "said": dict(self.said),
            "tokens": asdict(self.tokens),
            "uncounted": self.uncounted,
            "by_replica": [asdict(counters) for counters in self.by_replica],
            "caches_emptied": self.caches_emptied,
            "place": self.place,
        }


def totals(
    *,
    duration_s: float,
    requests: int,
    failed: int,
    by_replica: Sequence[ReplicaCounters],
    strain: Strain,
) -> LiveTotals:
    """The totals of one run."""
    prompt_tokens = sum(each.looked_up_tokens for each in by_replica)
    cpu_s = strain.gateway_cpu_s
    return LiveTotals(
        duration_s=duration_s,
        requests=requests,
        failed=failed,
        preemptions=sum(each.preemptions for each in by_replica),
        tokens_max_over_mean=_max_over_mean([each.computed_tokens for each in by_replica]),
        requests_max_over_mean=_max_over_mean([each.finished for each in by_replica]),
        replicas_hit_rate=sum(each.cached_tokens for each in by_replica) / prompt_tokens
        if prompt_tokens
        else None,
        gateway_cpu_ms=cpu_s * 1000 / requests if cpu_s is not None and requests else None,
    )


def _max_over_mean(values: Sequence[int]) -> float | None:
    total = sum(values)
    return max(values) * len(values) / total if total else None
