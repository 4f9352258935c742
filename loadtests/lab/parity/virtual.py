"""The requests, run by the engine model step by step, without a clock.

Where a burst arrives during another, its step is taken from a recording. So the model sees the
same arrivals at the same steps as the server that was recorded, and must then do the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as SequenceOf

from loadtests.lab.parity.asks import Burst, ParityRequest
from loadtests.lab.parity.events import chain_of
from loadtests.lab.parity.order import order_of, waves_of
from loadtests.lab.parity.recording import Moment, ParityError, RecordedAnswer, Recording
from loadtests.sim.model.request import EngineRequest, Sequence, SequenceState
from loadtests.sim.model.scheduler import EngineLimits, Scheduler
from loadtests.sim.model.step import Step

FIRST_ANSWER_TOKEN = 1 << 30
"""The model's answers have tokens that no prompt has by itself."""


class _CacheHistory:
    """Which blocks the prefix cache has stored, and which of them it has given up."""

    def __init__(self) -> None:
        self.copies: Counter[int] = Counter()
        """Of each block that was ever stored."""
        self.order: list[int] = []
        """Stored blocks, in order."""

    def stored(self, block_ids: SequenceOf[int], parent_id: int | None) -> None:
        self.copies.update(block_ids)
        self.order += block_ids

    def removed(self, block_id: int) -> None:
        self.copies[block_id] -= 1

    def cleared(self) -> None:
        for block_id in self.copies:
            self.copies[block_id] = 0

    def stepped(self) -> None:
        """Nothing to do."""

    def gave_up(self, block_id: int) -> bool:
        """The block was stored, and no copy of it is left."""
        return block_id in self.copies and not self.copies[block_id]


def replay(
    bursts: SequenceOf[Burst],
    limits: EngineLimits,
    like: Recording | None = None,
    *,
    lag: int = 0,
    who: str = "model",
) -> Recording:
    """Run all bursts.

    ``like``: arrivals and answers are those of this recording; without it arrivals are as the
    bursts have them, and no two answers share anything. ``lag``: arrivals are seen so many steps
    later. Raises ParityError when the step of a burst's arrival is over before it can arrive: the
    recorded server cannot have done that.
    """
    return _Replay(limits, like, who).run(bursts, lag)


class _Replay:
    def __init__(self, limits: EngineLimits, like: Recording | None, who: str) -> None:
        self._history = _CacheHistory()
        self._limits = limits
        self._like = like
        self._scheduler = Scheduler(limits, self._history)
        self._recording = Recording(who)
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._flight: list[Step] = []
        self._sequences: dict[str, Sequence] = {}
        self._blocks: dict[str, tuple[int, ...]] = {}
        """Of the prompts."""

    def run(self, bursts: SequenceOf[Burst], lag: int) -> Recording:
        for number, burst in enumerate(bursts):
            if self._like is not None:
                came = self._like.came[number]
            elif burst.after_tokens is not None:
                came = Moment(bursts[number - 1].asks[0].name, burst.after_tokens)
            else:
                came = None
            if came is None:
                self._until_idle()
            else:
                self._until(self._sequences[came.request], came.tokens + lag)
            self._recording.came.append(came)
            for ask in burst.asks:
                self._sequences[ask.name] = self._add(ask)
        self._until_idle()
        waves = waves_of(bursts, self._recording.came, self._blocks)
        self._recording.admitted = order_of(waves, self._history.order)
        self._recording.preemptions = self._scheduler.preemptions
        self._recording.evicted_blocks = self._scheduler.pool.evicted_blocks
        self._recording.hit_tokens = sum(
            answer.cached_tokens for answer in self._recording.answers.values()
        )
        return self._recording

    def _add(self, ask: ParityRequest) -> Sequence:
        prompt = ask.tokens
        if ask.continues is not None:
            earlier = self._recording.answers[ask.continues]
            prompt = self._prompts[ask.continues] + earlier.tokens + prompt
        serial = len(self._prompts)
        self._prompts[ask.name] = prompt
        first = FIRST_ANSWER_TOKEN + serial * self._limits.max_model_len
        answer = tuple(range(first, first + ask.max_tokens))
        if self._like is not None:
            answer = self._like.answers[ask.name].tokens
        self._recording.answers[ask.name] = RecordedAnswer(len(prompt), 0, 0, answer)
        size = self._limits.block_size_tokens
        ids = chain_of(prompt + answer, ask.adapter, size)
        self._blocks[ask.name] = ids[: len(prompt) // size]
        return self._scheduler.add(
            EngineRequest(ask.name, len(prompt), ask.max_tokens, ids, ask.adapter), 0.0
        )

    def _until(self, watched: Sequence, tokens: int) -> None:
        while watched.generated_tokens < tokens:
            if watched.done:
                raise ParityError(f"{watched.request.request_id} never has {tokens} tokens")
            self._step()

    def _until_idle(self) -> None:
        while self._scheduler.running or self._scheduler.waiting or self._flight:
            self._step()

    def _step(self) -> None:
        """Schedules one step and completes one; with asynchronous scheduling, the one before."""
        waiting = {id(each) for each in self._scheduler.waiting if each.cached_tokens is None}
        step = self._scheduler.schedule(0.0)
        if step is not None:
            self._flight.append(step)
            self._note_admissions(waiting)
        if self._flight and (step is None or len(self._flight) > self._limits.async_scheduling):
            for sequence in self._scheduler.complete(self._flight.pop(0)):
                if sequence.state is SequenceState.FINISHED:
                    self._finished(sequence)

    def _note_admissions(self, waiting: set[int]) -> None:
        new = [
            each
            for each in self._scheduler.running
            if id(each) in waiting and each.cached_tokens is not None
        ]
        for sequence in new:
            name = sequence.request.request_id
            self._recording.stops[name] = self._why_no_further(sequence)

    def _why_no_further(self, sequence: Sequence) -> str:
        size = self._limits.block_size_tokens
        index = (sequence.cached_tokens or 0) // size
        if index >= (sequence.prompt_tokens - 1) // size:
            return "all of it found"
        gone = self._history.gave_up(sequence.block_id(index))
        return "evicted" if gone else "not there yet"

    def _finished(self, sequence: Sequence) -> None:
        answer = self._recording.answers[sequence.request.request_id]
        answer.cached_tokens = sequence.cached_tokens or 0
        answer.output_tokens = sequence.generated_tokens
