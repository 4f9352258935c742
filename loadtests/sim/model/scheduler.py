"""What an engine computes in each step, without a clock: vLLM V1's scheduling in short.

A step has a token budget. Running sequences take their share first: one token each in decode, a
chunk in prefill. Then waiting sequences are admitted in order of arrival, while budget, KV blocks,
places and adapter slots last. A running sequence that finds no free block preempts the youngest
running one, which starts over later, before those that wait. `schedule` and `complete` may overlap
by one step: with asynchronous scheduling, the next step is prepared while one is being computed.

Longer than a module should be: admission, preemption and completion change the same queues and
blocks, and each relies on the order in which the others leave them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from loadtests.sim.model.kv import BlockListener, BlockPool
from loadtests.sim.model.request import EngineRequest, Sequence, SequenceState
from loadtests.sim.model.step import Step


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """An engine's size, in vLLM's names."""

    num_blocks: int
    """Usable blocks: vLLM's num_gpu_blocks without its placeholder."""
    block_size_tokens: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int = 32768
    long_prefill_token_threshold: int = 0
    """Longest prefill chunk while other sequences want a share of the step; 0: only the budget
    counts."""
    max_loras: int = 0
    prefix_caching: bool = True
    reserve_full_prompt: bool = True
    """A sequence is admitted only when there are free blocks for all tokens that it has so far."""
    async_scheduling: bool = True

    def __post_init__(self) -> None:
        for name in (
            "num_blocks",
            "block_size_tokens",
            "max_num_seqs",
            "max_num_batched_tokens",
            "max_model_len",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("long_prefill_token_threshold", "max_loras"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must not be negative")
        held = self.num_blocks * self.block_size_tokens
        if self.max_model_len > held:
            raise ValueError(
                f"a sequence of max_model_len {self.max_model_len} does not fit into {held} KV "
                "tokens: raise num_blocks or lower max_model_len"
            )


class Scheduler:
    """The engine's state: its queue, its running sequences, its KV blocks."""

    def __init__(self, limits: EngineLimits, listener: BlockListener | None = None) -> None:
        self.limits = limits
        self.pool = BlockPool(limits.num_blocks, caching=limits.prefix_caching, listener=listener)
        self._listener = listener
        self.admitting = True
        """Whether waiting sequences may start."""
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preempted: list[Sequence] = []
        """Sequences that the last `schedule` preempted."""
        self.preemptions = 0
        self.resident_adapters: OrderedDict[str, None] = OrderedDict()
        """Adapters in the slots, the least recently used first."""
        self._serial = 0

    def refusal(self, prompt_tokens: int) -> str | None:
        """Why a prompt can never run, or None."""
        if prompt_tokens >= self.limits.max_model_len:
            return (
                f"{prompt_tokens} prompt tokens leave no room for an answer in max_model_len "
                f"{self.limits.max_model_len}"
            )
        return None

    def enter(self, request: EngineRequest, now_s: float) -> Sequence:
        """A sequence for a request, not queued yet. Raises ValueError if `refusal` has a reason."""
        reason = self.refusal(request.prompt_tokens)
        if reason is not None:
            raise ValueError(f"request {request.request_id}: {reason}")
        self._serial += 1
        room = self.limits.max_model_len - request.prompt_tokens
        return Sequence(
            request,
            self._serial,
            request.prompt_tokens,
            min(request.output_tokens, room),
            request.adapter if self.limits.max_loras else None,
            arrived_s=now_s,
        )

    def add(self, request: EngineRequest, now_s: float) -> Sequence:
        """Queue a request. Raises ValueError when `refusal` has a reason."""
        sequence = self.enter(request, now_s)
        self.waiting.append(sequence)
        return sequence

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence and free its blocks at once; nothing happens if it is done."""
        if sequence.done:
            return
        if sequence.state is SequenceState.RUNNING:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.state = SequenceState.ABORTED
        self._free(sequence)

    def preempt_all(self) -> list[Sequence]:
        """All running sequences start over, in the same order as before."""
        victims = self.running[::-1]
        self.running.clear()
        for sequence in victims:
            self._preempt(sequence)
        return victims

    def load_adapter(self, adapter: str) -> None:
        """Put the adapter into a slot, if there is one that no running sequence uses."""
        used = {each.adapter for each in self.running if each.adapter}
        resident = self.resident_adapters
        if adapter in resident or len(resident) < self.limits.max_loras or set(resident) - used:
            self._use_slot(adapter, used)

    def schedule(self, now_s: float) -> Step | None:
        """The next step, or None when there is nothing to compute."""
        step = Step()
        self.preempted = []
        threshold = self.limits.long_prefill_token_threshold
        if threshold and len(self.running) + len(self.waiting) <= 1:
            threshold = 0
        budget = self._continue_running(step, self.limits.max_num_batched_tokens, threshold)
        if self.waiting and self.admitting and not self.preempted:
            self._admit_waiting(step, budget, threshold, now_s)
        if not step.decode and not step.prefill:
            return None
        return step

    def complete(self, step: Step) -> list[Sequence]:
        """The step is over. Returns the sequences that have a new token, finished ones included."""
        advanced: list[Sequence] = []
        finished = False
        over = (SequenceState.FINISHED, SequenceState.ABORTED)
        for sequence in step.producing:
            if sequence.state in over:
                continue
            sequence.generated_tokens += 1
            advanced.append(sequence)
            if sequence.generated_tokens >= sequence.output_tokens:
                if sequence.state is SequenceState.WAITING:
                    # It was preempted after its last step was prepared.
                    self.waiting.remove(sequence)
                else:
                    self._publish(sequence, sequence.scheduled_tokens)
                sequence.state = SequenceState.FINISHED
                self._free(sequence)
                finished = True
        if finished:
            self.running = [each for each in self.running if each.state is SequenceState.RUNNING]
        self._step_over()
        return advanced

    def steady_rounds(self) -> int:
        """For how many further schedules every running sequence gets exactly one token.

        This holds while nobody arrives or is aborted: no sequence finishes, KV blocks suffice, and
        waiting sequences keep waiting (see `blocked`).
        """
        rounds = min(each.output_tokens - each.promised_tokens for each in self.running)
        free = self.pool.free_blocks
        if rounds < 1:
            return 0
        wanted = self.blocks_after()
        if wanted(rounds) <= free:
            return rounds
        low, high = 0, rounds
        while high - low > 1:
            middle = (low + high) // 2
            if wanted(middle) <= free:
                low = middle
            else:
                high = middle
        return low

    def blocked(self) -> bool:
        """Whether no sequence can be admitted until another finishes, because there is no place or
        no KV block.

        Call it after a schedule of decodes only, with budget left.
        """
        if not self.waiting or not self.admitting:
            return True
        if len(self.running) >= self.limits.max_num_seqs:
            return True
        head = self.waiting[0]
        if self.limits.max_loras and any(each.adapter for each in self.waiting):
            return False
        cached = self._match(head)
        # No chunk is shorter than a token: a sequence without room for one cannot start with any
        # budget.
        return not self._fits(head, cached, 1) and not self._finds_more(head, len(cached))

    def repeat(self, rounds: int) -> None:
        """Do `rounds` schedules and completions of one token for each running sequence, at once."""
        if self._listener is None:
            self._repeat_unseen(rounds)
        else:
            self._repeat_in_order(rounds)

    def _repeat_unseen(self, rounds: int) -> None:
        """As `_repeat_in_order`, when nobody looks at the steps between: which block a sequence
        gets does not matter, nor the order of what nobody else has."""
        size = self.limits.block_size_tokens
        lag = int(self.limits.async_scheduling)
        pool = self.pool
        fresh = pool.take_fresh(self.blocks_after()(rounds))
        given = 0
        turns: list[tuple[int, int, Sequence, int]] = []
        for order, sequence in enumerate(self.running):
            before = sequence.scheduled_tokens
            after = before + rounds
            sequence.scheduled_tokens = after
            sequence.promised_tokens += rounds
            sequence.generated_tokens += rounds
            blocks = sequence.blocks
            wanted = -(-after // size) - len(blocks)
            if wanted:
                blocks.extend(fresh[given : given + wanted])
                given += wanted
            first, end = sequence.published_blocks, (after - lag) // size
            if first >= end:
                continue
            if first < len(sequence.request.block_ids):
                turns += (
                    ((index + 1) * size - before - 1 + lag, order, sequence, index)
                    for index in range(first, end)
                )
            else:
                self._publish(sequence, end * size)
        turns.sort(key=lambda turn: turn[:2])
        for _, _, sequence, index in turns:
            self._publish(sequence, (index + 1) * size)

    def _repeat_in_order(self, rounds: int) -> None:
        size = self.limits.block_size_tokens
        lag = int(self.limits.async_scheduling)
        turns: list[tuple[int, int, Sequence, int]] = []
        for order, sequence in enumerate(self.running):
            before = sequence.scheduled_tokens
            turns += (
                (max(index * size - before, 0) * 2, order, sequence, index)
                for index in range(len(sequence.blocks), (before + rounds - 1) // size + 1)
            )
            turns += (
                (((index + 1) * size - before - 1 + lag) * 2 + 1, order, sequence, index)
                for index in range(sequence.published_blocks, (before + rounds - lag) // size)
            )
            sequence.scheduled_tokens = before + rounds
            sequence.promised_tokens += rounds
            sequence.generated_tokens += rounds
        # The same order as step by step: within a round as they run, a block taken before one
        # filled.
        turns.sort(key=lambda turn: (turn[0] >> 1, turn[1], turn[0] & 1))
        self._step_over()
        latest = 0
        for turn, _, sequence, index in turns:
            if turn >> 1 > latest:
                latest = turn >> 1
                self._step_over()
            if turn & 1:
                self._publish(sequence, (index + 1) * size)
            else:
                sequence.blocks.extend(self.pool.take_fresh(1))
        if latest < rounds - 1:
            self._step_over()

    def _step_over(self) -> None:
        if self._listener is not None:
            self._listener.stepped()

    def blocks_after(self) -> Callable[[int], int]:
        """A function that says how many blocks more the running sequences hold after so many rounds
        of a token for each."""
        size = self.limits.block_size_tokens
        held = 0
        filled = [0] * size
        """Number of sequences by the tokens in their last block; a full one has 0 in the next."""
        for each in self.running:
            blocks, tokens = divmod(each.scheduled_tokens + size - 1, size)
            held += len(each.blocks) - blocks
            filled[tokens] += 1
        by_tokens = [(tokens, count) for tokens, count in enumerate(filled) if count]

        def after(rounds: int) -> int:
            return sum(count * ((tokens + rounds) // size) for tokens, count in by_tokens) - held

        return after

    def _continue_running(self, step: Step, budget: int, threshold: int) -> int:
        position = 0
        size = self.limits.block_size_tokens
        running, decode, producing = self.running, step.decode, step.producing
        context_tokens = 0
        while position < len(running) and budget > 0:
            sequence = running[position]
            position += 1
            if sequence.promised_tokens >= sequence.output_tokens:
                continue  # its last token is being computed
            before = sequence.scheduled_tokens
            known = sequence.prompt_tokens + sequence.promised_tokens
            tokens = known - before
            if tokens == 1 and known <= len(sequence.blocks) * size:
                # `_compute` in short, for the usual case: there is room for the token.
                filled = min(known, sequence.prompt_tokens + sequence.generated_tokens)
                if sequence.published_blocks < filled // size:
                    self._publish(sequence, filled)
                sequence.scheduled_tokens = known
                decode.append(sequence)
                context_tokens += known
                if not sequence.promised_tokens:
                    step.first_tokens += 1
                sequence.promised_tokens += 1
                producing.append(sequence)
                budget -= 1
                continue
            if tokens > 1:
                if 0 < threshold < tokens:
                    tokens = threshold
                tokens = min(tokens, budget)
            fresh = -(-(before + tokens) // size) - len(sequence.blocks)
            while fresh > self.pool.free_blocks:
                victim = running.pop()
                self._preempt(victim)
                if victim is sequence:
                    break
            else:
                self._compute(step, sequence, tokens, fresh)
                budget -= tokens
                continue
            break
        step.decode_sequences = len(decode)
        step.decode_context_tokens += context_tokens
        return budget

    def _admit_waiting(self, step: Step, budget: int, threshold: int, now_s: float) -> None:
        limits = self.limits
        slots = {each.adapter for each, _ in step.prefill if each.adapter}
        slots.update(each.adapter for each in step.decode if each.adapter)
        skipped: list[Sequence] = []
        while self.waiting and budget > 0 and len(self.running) < limits.max_num_seqs:
            sequence = self.waiting[0]
            adapter = sequence.adapter
            if adapter and adapter not in slots and len(slots) >= limits.max_loras:
                skipped.append(self.waiting.popleft())
                continue
            cached = self._match(sequence)
            tokens = sequence.known_tokens - len(cached) * limits.block_size_tokens
            if 0 < threshold < tokens:
                tokens = threshold
            tokens = min(tokens, budget)
            if not self._fits(sequence, cached, tokens):
                break
            self.waiting.popleft()
            self._admit(sequence, cached, now_s)
            if adapter:
                slots.add(adapter)
                step.adapter_loads += self._use_slot(adapter, slots)
            after = sequence.scheduled_tokens + tokens
            fresh = -(-after // limits.block_size_tokens) - len(sequence.blocks)
            self._compute(step, sequence, tokens, fresh)
            budget -= tokens
        self.waiting.extendleft(reversed(skipped))

    def _match(self, sequence: Sequence) -> list[int]:
        """Cached blocks of a prompt. The last token is always computed: the answer starts from
        it."""
        if not self.limits.prefix_caching:
            return []
        usable = (sequence.known_tokens - 1) // self.limits.block_size_tokens
        ids = sequence.request.block_ids
        cached = self.pool.match(ids[:usable] if len(ids) > usable else ids)
        if len(cached) == len(ids) < usable and sequence.preemptions:
            cached += self.pool.match(list(map(sequence.block_id, range(len(ids), usable))))
        return cached

    def _fits(self, sequence: Sequence, cached: list[int], tokens: int) -> bool:
        """Whether there are free blocks to admit it with so many tokens in its first step."""
        size = self.limits.block_size_tokens
        wanted = sequence.known_tokens
        if not self.limits.reserve_full_prompt:
            wanted = min(wanted, len(cached) * size + tokens)
        return self.pool.can_take(cached, -(-wanted // size) - len(cached))

    def _finds_more(self, sequence: Sequence, cached_blocks: int) -> bool:
        """Whether a running sequence is about to fill the next block that this one lacks."""
        ids = sequence.request.block_ids
        usable = (sequence.known_tokens - 1) // self.limits.block_size_tokens
        if not self.limits.prefix_caching or cached_blocks >= min(usable, len(ids)):
            return False
        return any(
            each.published_blocks <= cached_blocks
            and each.block_id(cached_blocks) == ids[cached_blocks]
            for each in self.running
        )

    def _admit(self, sequence: Sequence, cached: list[int], now_s: float) -> None:
        self.pool.take_cached(cached)
        sequence.blocks = cached
        sequence.published_blocks = len(cached)
        sequence.scheduled_tokens = len(cached) * self.limits.block_size_tokens
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.scheduled_tokens
            sequence.admitted_s = now_s
        sequence.state = SequenceState.RUNNING
        self.running.append(sequence)

    def _use_slot(self, adapter: str, slots: set[str]) -> int:
        """Put an adapter into a slot; 1 if it must be loaded, else 0."""
        resident = self.resident_adapters
        if adapter in resident:
            resident.move_to_end(adapter)
            return 0
        if len(resident) >= self.limits.max_loras:
            del resident[next(each for each in resident if each not in slots)]
        resident[adapter] = None
        return 1

    def _compute(self, step: Step, sequence: Sequence, tokens: int, fresh: int) -> None:
        """Add a sequence to the step, with ``tokens`` and ``fresh`` further blocks."""
        before = sequence.scheduled_tokens
        after = before + tokens
        if fresh > 0:
            sequence.blocks.extend(self.pool.take_fresh(fresh))
        # A block's id cannot contain a token that a step in flight has yet to produce.
        self._publish(sequence, min(after, sequence.prompt_tokens + sequence.generated_tokens))
        sequence.scheduled_tokens = after
        if tokens == 1:
            step.decode.append(sequence)
            step.decode_sequences += 1
            step.decode_context_tokens += after
        else:
            step.prefill.append((sequence, tokens))
            step.prefill_tokens += tokens
            step.prefill_pairs += tokens * (before + tokens / 2)
            step.prefill_context_tokens += after
        if after == sequence.prompt_tokens + sequence.promised_tokens:
            if not sequence.promised_tokens:
                step.first_tokens += 1
            sequence.promised_tokens += 1
            step.producing.append(sequence)

    def _publish(self, sequence: Sequence, tokens: int) -> None:
        """Let other sequences find the blocks that so many of this one's tokens fill."""
        first, end = sequence.published_blocks, tokens // self.limits.block_size_tokens
        if first < end:
            ids = [sequence.block_id(index) for index in range(first, end)]
            parent = sequence.block_id(first - 1) if first else None
            self.pool.publish(sequence.blocks[first:end], ids, parent)
            sequence.published_blocks = end

    def _preempt(self, sequence: Sequence) -> None:
        self._free(sequence)
        sequence.state = SequenceState.WAITING
        sequence.scheduled_tokens = 0
        sequence.preemptions += 1
        self.preemptions += 1
        self.preempted.append(sequence)
        self.waiting.appendleft(sequence)

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        if sequence.adapter is not None and sequence.adapter in self.resident_adapters:
            self.resident_adapters.move_to_end(sequence.adapter)
