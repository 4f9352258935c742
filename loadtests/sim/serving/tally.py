"""Counts what happens to jobs, as vLLM V1's loggers do: into `EngineStats`."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from loadtests.sim.serving.job import EngineJob
from loadtests.sim.serving.stats import EngineStats

_ADAPTER_SERIES: Final = 64


class Tally:
    """Counts into the statistics. Times are wall time in seconds."""

    def __init__(self, max_model_len: int) -> None:
        self.stats = EngineStats(max_model_len)

    def admitted(self, job: EngineJob, at_s: float) -> None:
        """The job is in the batch for the first time."""
        if job.admitted_s is not None:
            return
        job.admitted_s = at_s
        self.stats.prefix_queries += job.prompt_tokens
        self.stats.prefix_hits += job.cached_tokens

    def stepped(self, jobs: Iterable[EngineJob], steps: int, at_s: float) -> None:
        """So many steps gave each job a token; the last step ended at ``at_s``.

        A job's first token must have come at the end of a single step.
        """
        stats = self.stats
        decoded = computed_tokens = 0
        waits: Counter[float] = Counter()
        for job in jobs:
            if job.first_token_s is None:
                job.first_token_s = at_s
                stats.first_token_s.observe(at_s - job.sent_s)
                stats.prompt_tokens += job.prompt_tokens
                stats.cached_tokens += job.cached_tokens
                computed_tokens += job.prompt_tokens - job.cached_tokens
                decoded += 1 if job.answer_tokens else 0
            else:
                waits[job.last_token_s] += 1
                decoded += 1
            job.last_token_s = at_s
        stats.generation_tokens += decoded * steps
        stats.step_tokens.observe(decoded + computed_tokens, steps)
        for before_s, tokens in waits.items():
            stats.between_tokens_s.observe((at_s - before_s) / steps, tokens * steps)

    def preempted(self) -> None:
        """A sequence must start over."""
        self.stats.preemptions += 1

    def finished(self, job: EngineJob) -> None:
        """The job is generated to its end."""
        assert job.sequence is not None
        assert job.admitted_s is not None
        assert job.first_token_s is not None
        stats = self.stats
        stats.finished[job.finish_reason] += 1
        first_s, last_s = job.first_token_s, job.last_token_s
        stats.whole_s.observe(last_s - job.sent_s)
        stats.queue_s.observe(max(job.admitted_s - job.queued_s, 0.0))
        stats.prefill_s.observe(first_s - job.admitted_s)
        stats.decode_s.observe(last_s - first_s)
        stats.inference_s.observe(last_s - job.admitted_s)
        stats.output_token_s.observe((last_s - first_s) / max(job.answer_tokens - 1, 1))
        stats.request_preemptions.observe(job.sequence.preemptions)
        stats.request_prompt_tokens.observe(job.prompt_tokens)
        stats.request_computed_tokens.observe(job.prompt_tokens - job.cached_tokens)
        stats.request_generation_tokens.observe(job.answer_tokens)
        if job.max_tokens is not None:
            stats.request_max_tokens.observe(job.max_tokens)

    def adapters(self, running: set[str], waiting: set[str], at_s: float) -> None:
        """The adapters of running and of waiting requests; ``at_s`` is Unix time."""
        seen = self.stats.adapters_seen_s
        names = (",".join(sorted(running)), ",".join(sorted(waiting)))
        # As with vLLM's gauge, series of earlier states stay; the newest has the largest value.
        seen.pop(names, None)
        seen[names] = at_s
        if len(seen) > _ADAPTER_SERIES:
            del seen[next(iter(seen))]
