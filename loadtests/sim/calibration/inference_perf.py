"""inference-perf against the engine model: the load it sends and the numbers it reports.

Facts taken from its source and from its reports in `vllm-h100/measured.json`:
- a stage of "constant" load sends rate x duration requests at exponential intervals, scaled to
  fill the stage; the next stage begins when the last request of the one before is over;
- the prompts are made beforehand and sent in rounds. From the second round on, a server whose cache
  can hold them finds all of a prompt but its last block;
- a stream is read line by line, and every line gets a time, also the empty line after each event.
  So n tokens and [DONE] have 2 (n + 1) times, and the reported time per output token is half of
  what a user sees (`halves_token_times` finds out whether a report was made like that);
- the answer is tokenized before the clock is stopped; a request that takes 300 s fails.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from math import inf

import numpy as np

from loadtests.sim.calibration.measured import MeasuredError, MeasuredExperiment
from loadtests.sim.model.engine import EngineModel, EventKind
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.request import EngineRequest, Sequence
from loadtests.sim.model.scheduler import EngineLimits

TIMEOUT_S = 300.0
"""aiohttp's default for a whole request."""
DEFAULT_PROMPTS = 10 * 10
"""Groups x prompts, when inference-perf did not know the keys of its configuration."""
_TAIL_S = 0.0018
"""From the last line of a stream to the end of the request, as measured."""
_STAGE_GAP_S = 1.0


@dataclass(slots=True)
class StageResult:
    """A stage as the client saw it. Times in seconds, one for each completed request."""

    sent: int = 0
    failures: int = 0
    started_s: float = inf
    ended_s: float = 0.0
    latency_s: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)
    output_token_s: list[float] = field(default_factory=list)
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0

    @property
    def completed(self) -> int:
        """Requests that were answered in full."""
        return len(self.latency_s)

    @property
    def duration_s(self) -> float:
        """From the first request to the last answer."""
        return max(self.ended_s - self.started_s, 1e-9)

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens that the engine generated for completed requests."""
        return self.output_tokens / self.duration_s


def replay(
    experiment: MeasuredExperiment, profile: Profile, *, seed: int = 0, skip: bool = True
) -> list[StageResult]:
    """Run an experiment on a simulated server that has just started."""
    server = experiment.config
    blocks = profile.kv_blocks(server.block_size)
    if server.num_gpu_blocks is not None:
        blocks = server.num_gpu_blocks - 1  # vLLM keeps one of them as a placeholder
    try:
        limits = EngineLimits(
            num_blocks=blocks,
            block_size_tokens=server.block_size,
            max_num_seqs=server.max_num_seqs,
            max_num_batched_tokens=server.max_num_batched_tokens,
            max_model_len=server.max_model_len,
        )
    except ValueError as error:
        raise MeasuredError(f"{experiment.experiment}: config: {error}") from error
    engine = EngineModel(profile, limits, cold=True, skip=skip)
    generator = np.random.default_rng(seed)
    prompts = _prompts(experiment, generator)
    timeout_s = experiment.load.request_timeout or TIMEOUT_S
    results: list[StageResult] = []
    now_s = 0.0
    for load in experiment.load.stages:
        intervals = generator.exponential(1.0, int(load.rate * load.duration))
        stretch = load.duration / max(float(intervals.sum()), 1e-9)
        arrivals = now_s + np.cumsum(intervals) * stretch
        result = _run_stage(engine, prompts, arrivals.tolist(), timeout_s, experiment)
        results.append(result)
        now_s = max(result.ended_s, now_s + load.duration) + _STAGE_GAP_S
    return results


def halves_token_times(experiment: MeasuredExperiment) -> bool:
    """Whether the report's times per output token are half of what a user sees.

    Then they are half of the latency after the first token, divided by the tokens. When the report
    does not show it, the answer is what inference-perf is known to do.
    """
    tokens = experiment.prompts.output_len
    for stage in experiment.stages:
        latency, first = stage.request_latency.mean, stage.time_to_first_token.mean
        each = stage.time_per_output_token.mean
        if latency is not None and first is not None and each and tokens > 1:
            return (latency - first) / (each * tokens) > 1.4
    return experiment.config.app == "inference-perf"


def distinct_prompts(experiment: MeasuredExperiment) -> int:
    """How many different prompts the client sends.

    This follows from the reported mean prompt length: over whole rounds of p prompts it is a
    multiple of 1/p. When the report does not show it, the answer is what the configuration says.
    """
    workload = experiment.prompts
    configured = workload.num_unique_system_prompts * workload.num_users_per_system_prompt
    for stage, measured in enumerate(experiment.stages):
        mean, sent = measured.prompt_len.mean, experiment.sent(stage)
        if mean is None or measured.count != sent:
            continue
        for prompts in (configured, DEFAULT_PROMPTS):
            off = abs(mean * prompts - round(mean * prompts))
            if sent % prompts == 0 and off < 1e-6 * prompts:
                return prompts
    return configured if experiment.config.app != "inference-perf" else DEFAULT_PROMPTS


def _prompts(experiment: MeasuredExperiment, generator: np.random.Generator) -> list[EngineRequest]:
    workload, size = experiment.prompts, experiment.config.block_size
    count = distinct_prompts(experiment)
    groups = (
        workload.num_unique_system_prompts
        if count == workload.num_unique_system_prompts * workload.num_users_per_system_prompt
        else 10
    )
    nominal = workload.system_prompt_len + workload.question_len
    means = [s.prompt_len.mean for s in experiment.stages if s.prompt_len.mean is not None]
    mean = (
        means[0] if means else nominal * 1.045
    )  # a text of random tokens has more tokens when it is tokenized again
    p90 = next((s.prompt_len.p90 for s in experiment.stages if s.prompt_len.p90), None)
    spread = max((p90 - mean) / 1.2816, 0.0) if p90 is not None else 0.01 * mean
    lengths = np.rint(generator.normal(mean, spread, count)).astype(int) + 1  # and the BOS token
    shared = workload.system_prompt_len // size
    made: list[EngineRequest] = []
    for index in range(count):
        group = index * groups // count
        tokens = max(int(lengths[index]), 1)
        ids = tuple(
            group * 1_000_000 + block if block < shared else (index + 1) * 1_000_000_000 + block
            for block in range(tokens // size)
        )
        made.append(EngineRequest("", tokens, max(workload.output_len, 1), ids))
    generator.shuffle(made)
    return made


def _run_stage(
    engine: EngineModel,
    prompts: list[EngineRequest],
    arrivals: list[float],
    timeout_s: float,
    experiment: MeasuredExperiment,
) -> StageResult:
    result = StageResult(sent=len(arrivals))
    open_requests: dict[Sequence, float] = {}
    deadlines: list[tuple[float, int, Sequence]] = []
    position = 0
    limit = experiment.config.max_model_len
    halved = halves_token_times(experiment)
    while position < len(arrivals) or open_requests:
        arrival_s = arrivals[position] if position < len(arrivals) else inf
        deadline_s = deadlines[0][0] if deadlines else inf
        now_s = min(arrival_s, deadline_s, engine.next_event_s())
        if now_s == deadline_s:
            _, _, late = heapq.heappop(deadlines)
            if late in open_requests:
                events = engine.abort(late, now_s)
            else:
                continue
        else:
            events = engine.advance(now_s)
        for event in events:
            if event.kind is EventKind.FINISHED and event.sequence in open_requests:
                sent_s = open_requests.pop(event.sequence)
                _note(result, event.sequence, sent_s, event.at_s, halved=halved)
        if now_s == deadline_s and late in open_requests:
            del open_requests[late]
            result.failures += 1
            result.ended_s = max(result.ended_s, now_s)
        if now_s == arrival_s:
            prompt = prompts[position % len(prompts)]
            position += 1
            result.started_s = min(result.started_s, now_s)
            if prompt.prompt_tokens + prompt.output_tokens > limit:
                result.failures += 1  # vLLM answers 400
                result.ended_s = max(result.ended_s, now_s)
                continue
            sequence = engine.add(prompt, now_s)
            open_requests[sequence] = now_s
            heapq.heappush(deadlines, (now_s + timeout_s, position, sequence))
    return result


def _note(
    result: StageResult, sequence: Sequence, sent_s: float, at_s: float, *, halved: bool
) -> None:
    assert sequence.first_token_s is not None
    tokens = sequence.output_tokens
    result.ended_s = max(result.ended_s, at_s + _TAIL_S)
    result.latency_s.append(at_s + _TAIL_S - sent_s)
    result.first_token_s.append(sequence.first_token_s - sent_s)
    gaps = 2 * tokens + 1 if halved else max(tokens - 1, 1)
    result.output_token_s.append((at_s - sequence.first_token_s) / gaps)
    result.output_tokens += tokens
    result.prompt_tokens += sequence.prompt_tokens
    result.cached_tokens += sequence.cached_tokens or 0
    result.preemptions += sequence.preemptions
