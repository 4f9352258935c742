"""One engine's scheduling, step by step, without a clock: what vLLM V1 does, told shortly.

A step has a token budget. Running sequences take their share first (one token each in decode, a
chunk in prefill), then waiting ones are admitted in order of arrival while budget, KV blocks,
sequence places and adapter slots last. When a running sequence finds no block, the youngest running
one is preempted and starts over later. Time passes only between `schedule` and `complete`.
"""

import enum
from collections import deque
from dataclasses import dataclass, field

import xxhash

from loadtests.sim.blocks import BlockPool
from loadtests.sim.stats import EngineStats
from loadtests.sim.tokens import NO_TOKENS, TOKEN_BYTES, Tokens, count


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine's size and speed. Defaults: a mid-size model on one accelerator, vLLM's limits.

    A step takes step_fixed_s + prefill_s_per_token * prompt tokens computed in it
    + decode_s_per_sequence * sequences that decode in it. Wall time is that times time_scale
    (0: as fast as the machine can).
    """

    num_blocks: int = 16384
    block_size_tokens: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_model_tokens: int = 262144
    max_loras: int = 0
    step_fixed_s: float = 0.008
    prefill_s_per_token: float = 60e-6
    decode_s_per_sequence: float = 60e-6
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size_tokens", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in (
            "step_fixed_s",
            "prefill_s_per_token",
            "decode_s_per_sequence",
            "time_scale",
            "max_loras",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must not be negative")
        held = self.num_blocks * self.block_size_tokens
        if self.max_model_tokens > held:
            raise ValueError(
                f"a sequence of max_model_tokens {self.max_model_tokens} does not fit into the KV "
                f"cache of {self.num_blocks} blocks * {self.block_size_tokens} tokens = {held} "
                "tokens: raise num_blocks or lower max_model_tokens"
            )


class State(enum.Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and the answer it will get; without an answer it is a pooling request.

    `salt` keeps prefixes apart that look alike but belong to different adapters or cache salts.
    """

    prompt: Tokens
    answer: Tokens = NO_TOKENS
    finish_reason: str = "stop"
    adapter: str | None = None
    salt: int = 0
    state: State = State.WAITING
    arrived_s: float = 0.0
    admitted_s: float | None = None
    first_token_s: float | None = None
    computed_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int | None = None
    blocks: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    prompt_tokens: int = field(init=False)
    answer_tokens: int = field(init=False)
    content: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = count(self.prompt)
        self.answer_tokens = count(self.answer)
        self.content = self.prompt + self.answer

    @property
    def known_tokens(self) -> int:
        """Prompt and what has been generated so far."""
        return self.prompt_tokens + self.generated_tokens

    @property
    def done(self) -> bool:
        """Finished or aborted."""
        return self.state in (State.FINISHED, State.ABORTED)


@dataclass(frozen=True, slots=True)
class Step:
    """What one forward pass computes, and how long it takes in model time."""

    work: list[tuple[Sequence, int]]
    prefill_tokens: int
    decode_sequences: int
    duration_s: float


class Scheduler:
    """The engine's state: its queue, what runs, its KV blocks."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.pool = BlockPool(settings.num_blocks)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.stats = EngineStats()

    def add(self, sequence: Sequence, now_s: float) -> None:
        """Queue a sequence. Its prompt and answer must fit into max_model_tokens."""
        sequence.arrived_s = now_s
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence and free its blocks at once; nothing happens if it is done."""
        if sequence.done:
            return
        if sequence.state is State.RUNNING:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._free(sequence)
        sequence.state = State.ABORTED

    def adapters(self) -> tuple[set[str], set[str]]:
        """Adapters of running and of waiting sequences."""
        return (
            {sequence.adapter for sequence in self.running if sequence.adapter},
            {sequence.adapter for sequence in self.waiting if sequence.adapter},
        )

    def schedule(self, now_s: float) -> Step | None:
        """The next step, or None when there is nothing to do."""
        if not self.running and not self.waiting:
            return None
        budget = self.settings.max_num_batched_tokens
        work: list[tuple[Sequence, int]] = []
        budget, preempted = self._continue_running(work, budget)
        if not preempted:
            self._admit_waiting(work, budget, now_s)
        prefill_tokens = decode_sequences = 0
        for sequence, tokens in work:
            if sequence.generated_tokens and tokens == 1:
                decode_sequences += 1
            else:
                prefill_tokens += tokens
        duration_s = (
            self.settings.step_fixed_s
            + self.settings.prefill_s_per_token * prefill_tokens
            + self.settings.decode_s_per_sequence * decode_sequences
        )
        return Step(work, prefill_tokens, decode_sequences, duration_s)

    def complete(self, step: Step, now_s: float) -> list[Sequence]:
        """The step is over: sequences that have a new token or are finished."""
        advanced: list[Sequence] = []
        finished = False
        for sequence, tokens in step.work:
            if sequence.state is not State.RUNNING:
                continue
            sequence.computed_tokens += tokens
            if sequence.computed_tokens < sequence.known_tokens:
                continue
            self._produce(sequence, now_s)
            finished = finished or sequence.done
            advanced.append(sequence)
        if finished:
            self.running = [sequence for sequence in self.running if not sequence.done]
        return advanced

    def _produce(self, sequence: Sequence, now_s: float) -> None:
        if sequence.first_token_s is None:
            sequence.first_token_s = now_s
            self.stats.prompt_tokens += sequence.prompt_tokens
            self.stats.ttft_s.observe(now_s - sequence.arrived_s)
        if sequence.answer_tokens:
            sequence.generated_tokens += 1
            self.stats.generation_tokens += 1
        if sequence.generated_tokens < sequence.answer_tokens:
            return
        sequence.state = State.FINISHED
        self._free(sequence)
        self.stats.finished[sequence.finish_reason] += 1
        self.stats.e2e_s.observe(now_s - sequence.arrived_s)
        if sequence.generated_tokens > 1:
            decode_s = now_s - sequence.first_token_s
            self.stats.tpot_s.observe(decode_s / (sequence.generated_tokens - 1))

    def _continue_running(self, work: list[tuple[Sequence, int]], budget: int) -> tuple[int, bool]:
        preempted = False
        position = 0
        while position < len(self.running) and budget > 0:
            sequence = self.running[position]
            tokens = min(sequence.known_tokens - sequence.computed_tokens, budget)
            while not self._grow(sequence, tokens):
                preempted = True
                victim = self.running.pop()
                self._preempt(victim)
                if victim is sequence:
                    return budget, preempted
            work.append((sequence, tokens))
            budget -= tokens
            position += 1
        return budget, preempted

    def _admit_waiting(self, work: list[tuple[Sequence, int]], budget: int, now_s: float) -> None:
        adapters = self.adapters()[0] if self.settings.max_loras else set()
        skipped: list[Sequence] = []
        while self.waiting and budget > 0 and len(self.running) < self.settings.max_num_seqs:
            sequence = self.waiting[0]
            if sequence.adapter and len(adapters | {sequence.adapter}) > self.settings.max_loras:
                skipped.append(self.waiting.popleft())
                continue
            tokens = self._admit(sequence, budget, now_s)
            if not tokens:
                break
            self.waiting.popleft()
            if sequence.adapter:
                adapters.add(sequence.adapter)
            work.append((sequence, tokens))
            budget -= tokens
        self.waiting.extendleft(reversed(skipped))

    def _admit(self, sequence: Sequence, budget: int, now_s: float) -> int:
        """Tokens of its first chunk, or 0 when there are not enough KV blocks."""
        size = self.settings.block_size_tokens
        # The last token is always computed: its logits are what the first output comes from.
        cacheable_blocks = (sequence.known_tokens - 1) // size
        self._hash(sequence, sequence.known_tokens // size)
        cached = self.pool.match(sequence.hashes[:cacheable_blocks])
        cached_tokens = len(cached) * size
        tokens = min(sequence.known_tokens - cached_tokens, budget)
        fresh = -(-(cached_tokens + tokens) // size) - len(cached)
        if not self.pool.can_take(cached, fresh):
            return 0
        self.pool.take_cached(cached)
        sequence.blocks = cached
        sequence.computed_tokens = cached_tokens
        if sequence.cached_tokens is None:
            sequence.cached_tokens = cached_tokens
            self.stats.prefix_queries += sequence.known_tokens
            self.stats.prefix_hits += cached_tokens
            sequence.admitted_s = now_s
            self.stats.queue_s.observe(now_s - sequence.arrived_s)
        self._grow(sequence, tokens)
        sequence.state = State.RUNNING
        self.running.append(sequence)
        return tokens

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Blocks for `tokens` more tokens; False (and nothing taken) when too few are free."""
        size = self.settings.block_size_tokens
        after = sequence.computed_tokens + tokens
        fresh = -(-after // size) - len(sequence.blocks)
        if fresh > self.pool.free_blocks:
            return False
        if fresh > 0:
            sequence.blocks.extend(self.pool.take_fresh(fresh))
        full_before, full_after = sequence.computed_tokens // size, after // size
        if full_after > full_before:
            self._hash(sequence, full_after)
            for index in range(full_before, full_after):
                self.pool.publish(sequence.blocks[index], sequence.hashes[index])
        return True

    def _hash(self, sequence: Sequence, blocks: int) -> None:
        """Extend the sequence's chain of block hashes to `blocks`."""
        size = self.settings.block_size_tokens * TOKEN_BYTES
        hashes = sequence.hashes
        previous = hashes[-1] if hashes else sequence.salt
        content = memoryview(sequence.content)
        for index in range(len(hashes), blocks):
            block = content[index * size : (index + 1) * size]
            previous = xxhash.xxh3_64_intdigest(block, seed=previous)
            hashes.append(previous)

    def _preempt(self, sequence: Sequence) -> None:
        self._free(sequence)
        sequence.state = State.WAITING
        sequence.computed_tokens = 0
        self.waiting.appendleft(sequence)
        self.stats.preemptions += 1

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
