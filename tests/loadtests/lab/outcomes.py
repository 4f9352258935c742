"""Outcomes made by hand."""

from collections.abc import Sequence

from loadtests.lab.outcome import Outcome, Sample, Served


def served(
    arrival_s: float,
    *,
    ttft_s: float | None = 1.0,
    output_tokens: int = 11,
    tpot_s: float = 0.1,
    input_tokens: int = 100,
    cached_tokens: int = 0,
    expected_cached_tokens: float = 0.0,
    replica: int = 0,
    failed: bool = False,
) -> Served:
    first_s = None if ttft_s is None else arrival_s + ttft_s
    began_s = arrival_s if first_s is None else first_s
    return Served(
        id=f"at {arrival_s}",
        session="",
        tenant="",
        replica=replica,
        arrival_s=arrival_s,
        first_token_s=first_s,
        finished_s=began_s + (output_tokens - 1) * tpot_s if output_tokens else began_s,
        input_tokens=input_tokens,
        cached_tokens=cached_tokens,
        expected_cached_tokens=expected_cached_tokens,
        output_tokens=output_tokens,
        failed=failed,
    )


def outcome(
    requests: Sequence[Served],
    *,
    samples: Sequence[Sample] = (),
    busy_s: Sequence[float] = (),
    preemptions: int = 0,
) -> Outcome:
    end_s = max((each.finished_s for each in requests), default=0.0)
    return Outcome(
        served=sorted(requests, key=lambda each: each.finished_s),
        samples=list(samples),
        duration_s=end_s,
        preemptions=preemptions,
        busy_s=list(busy_s),
    )
