"""What one engine has counted since it started, in terms of vLLM 0.32's metrics."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Final

from loadtests.sim.serving.job import EngineJob

_FIRST_TOKEN_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_BOUNDS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
_REQUEST_BOUNDS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_STEP_BOUNDS_TOKENS = (1.0, *(2.0**power for power in range(3, 15)))
_PREEMPTION_BOUNDS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
_ADAPTER_SERIES: Final = 64


class Histogram:
    """Observations counted into buckets; `counts` has one more entry than `bounds` (infinity)."""

    def __init__(self, name: str, meaning: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        """Of vLLM's metric, without ``vllm:``."""
        self.meaning = meaning
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value ``times`` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class EngineStats:
    """Counts what happens to jobs, as vLLM V1's loggers do. Times are wall time in seconds."""

    def __init__(self, max_model_len: int) -> None:
        """``max_model_len``, in tokens, bounds the buckets of the histograms of tokens."""
        self.prompt_tokens = 0
        """Tokens of prompts whose prefill has ended."""
        self.cached_tokens = 0
        """Those of them that were found cached."""
        self.generation_tokens = 0
        self.prefix_queries = 0
        """Tokens looked up in the prefix cache at an admission; not again after a preemption."""
        self.prefix_hits = 0
        self.preemptions = 0
        self.finished: Counter[str] = Counter()
        self.adapters_seen_s: dict[tuple[str, str], float] = {}
        """By (running, waiting) adapters, comma-separated: the Unix time when this was last so."""
        self.histograms: list[Histogram] = []
        """In the order of the page of metrics."""
        add, tokens = self._add, _token_bounds(max_model_len)
        self.request_prompt_tokens = add("request_prompt_tokens", "Of a prompt.", tokens)
        self.request_generation_tokens = add("request_generation_tokens", "Of an answer.", tokens)
        self.step_tokens = add("iteration_tokens_total", "Computed in a step.", _STEP_BOUNDS_TOKENS)
        self.request_max_tokens = add("request_params_max_tokens", "Asked for.", tokens)
        self.first_token_s = add("time_to_first_token_seconds", "TTFT.", _FIRST_TOKEN_BOUNDS_S)
        self.between_tokens_s = add(
            "inter_token_latency_seconds", "Between tokens.", _TOKEN_BOUNDS_S
        )
        self.output_token_s = add(
            "request_time_per_output_token_seconds", "Mean TPOT.", _TOKEN_BOUNDS_S
        )
        request_s = _REQUEST_BOUNDS_S
        self.whole_s = add("e2e_request_latency_seconds", "Arrival to last token.", request_s)
        self.queue_s = add("request_queue_time_seconds", "Time in the queue.", request_s)
        self.inference_s = add(
            "request_inference_time_seconds", "Admission to last token.", request_s
        )
        self.prefill_s = add("request_prefill_time_seconds", "Admission to first token.", request_s)
        self.decode_s = add("request_decode_time_seconds", "First to last token.", request_s)
        self.request_preemptions = add(
            "request_num_preemptions", "Of a request.", _PREEMPTION_BOUNDS
        )
        self.request_computed_tokens = add(
            "request_prefill_kv_computed_tokens", "Of a prompt, not found cached.", tokens
        )

    def count_admission(self, job: EngineJob, at_s: float) -> None:
        """The job is in the batch for the first time."""
        if job.admitted_s is not None:
            return
        job.admitted_s = at_s
        self.prefix_queries += job.prompt_tokens
        self.prefix_hits += job.cached_tokens

    def count_steps(self, jobs: Iterable[EngineJob], steps: int, at_s: float) -> None:
        """So many steps gave each job a token; the last step ended at ``at_s``.

        A job's first token must have come at the end of a single step.
        """
        decoded = computed_tokens = 0
        waits: Counter[float] = Counter()
        for job in jobs:
            if job.first_token_s is None:
                job.first_token_s = at_s
                self.first_token_s.observe(at_s - job.sent_s)
                self.prompt_tokens += job.prompt_tokens
                self.cached_tokens += job.cached_tokens
                computed_tokens += job.prompt_tokens - job.cached_tokens
                decoded += 1 if job.answer_tokens else 0
            else:
                waits[job.last_token_s] += 1
                decoded += 1
            job.last_token_s = at_s
        self.generation_tokens += decoded * steps
        self.step_tokens.observe(decoded + computed_tokens, steps)
        for before_s, tokens in waits.items():
            self.between_tokens_s.observe((at_s - before_s) / steps, tokens * steps)

    def count_end(self, job: EngineJob) -> None:
        """The job is generated to its end."""
        assert job.sequence is not None
        assert job.admitted_s is not None
        assert job.first_token_s is not None
        self.finished[job.finish_reason] += 1
        first_s, last_s = job.first_token_s, job.last_token_s
        self.whole_s.observe(last_s - job.sent_s)
        self.queue_s.observe(max(job.admitted_s - job.queued_s, 0.0))
        self.prefill_s.observe(first_s - job.admitted_s)
        self.decode_s.observe(last_s - first_s)
        self.inference_s.observe(last_s - job.admitted_s)
        self.output_token_s.observe((last_s - first_s) / max(job.answer_tokens - 1, 1))
        self.request_preemptions.observe(job.sequence.preemptions)
        self.request_prompt_tokens.observe(job.prompt_tokens)
        self.request_computed_tokens.observe(job.prompt_tokens - job.cached_tokens)
        self.request_generation_tokens.observe(job.answer_tokens)
        if job.max_tokens is not None:
            self.request_max_tokens.observe(job.max_tokens)

    def note_adapters(self, running: set[str], waiting: set[str], at_s: float) -> None:
        """The adapters of running and of waiting requests; ``at_s`` is Unix time."""
        seen = self.adapters_seen_s
        names = (",".join(sorted(running)), ",".join(sorted(waiting)))
        # As with vLLM's gauge, series of earlier states stay; the newest has the largest value.
        seen.pop(names, None)
        seen[names] = at_s
        if len(seen) > _ADAPTER_SERIES:
            del seen[next(iter(seen))]

    def _add(self, name: str, meaning: str, bounds: tuple[float, ...]) -> Histogram:
        self.histograms.append(Histogram(name, meaning, bounds))
        return self.histograms[-1]


def _token_bounds(most: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, ... up to ``most``."""
    bounds = [float(digit * 10**power) for power in range(len(str(most))) for digit in (1, 2, 5)]
    return tuple(bound for bound in bounds if bound <= most)
