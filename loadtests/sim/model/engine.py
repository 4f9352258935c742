"""One engine in virtual time: requests go in, events come out, and nothing happens in between.

The caller gives the time; the engine never waits. Decode steps that only add a token to every
running sequence are not computed one by one: a *plateau* of them is described by the end of its
first step and the arithmetic of the rest, and `advance` moves along it at once. Both ways give the
same bits, because the end of a plateau's n-th step is one expression either way.

Longer than a module should be: both ways read and write the same step, plateau and clock, and only
side by side can a reader see that they agree.
"""

from __future__ import annotations

import enum
import heapq
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from math import inf, sqrt
from typing import Protocol

from loadtests.sim.model.kv import BlockListener
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.request import EngineRequest, Sequence, SequenceState
from loadtests.sim.model.scheduler import EngineLimits, Scheduler
from loadtests.sim.model.step import Step
from loadtests.sim.model.step_time import StepTime

_FIRST_USES = 5
"""Number of steps with prefill in which a server meets kernels that it has not used yet: each has a
batch of another shape. This number explains the mean and the p99 of measured latencies together."""


class EventKind(enum.Enum):
    """What has happened."""

    FIRST_TOKEN = "first_token"  # noqa: S105
    FINISHED = "finished"
    PREEMPTED = "preempted"


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """Something that a client (or, for PREEMPTED, an observer) sees at ``at_s``.

    A sequence of one token has a FIRST_TOKEN and a FINISHED at the same time.
    """

    at_s: float
    kind: EventKind
    sequence: Sequence


class StepObserver(Protocol):
    """Is informed of every step, as a server that streams needs it."""

    def stepped(self, sequences: Ordered[Sequence], steps: int, end_s: float) -> None:
        """So many steps in a row gave each of these sequences a token; the last step ended at
        ``end_s``.

        Called before the step's events are returned. The list may change afterwards.
        """


@dataclass(slots=True)
class _Plateau:
    """Equal decode steps; step 0 is on the accelerator when it begins, and ends at ``end_s``."""

    end_s: float
    step_s: float
    """Duration of step 1."""
    growth_s: float
    """By which each step is longer than the one before it: every context grows by a token."""
    rounds: int
    """Steps after step 0 whose sequences are certain."""
    done: int = 0
    """Steps that are over."""
    owed: int = 0
    """Of these, the steps that the scheduler has not been told of: nobody looks at it meanwhile."""
    blocks_after: Callable[[int], int] | None = None
    """How many KV blocks the owed steps take, once somebody has asked."""

    def ends_s(self, step: int) -> float:
        """End of the plateau's step of that number, from 0."""
        return self.end_s + step * (self.step_s + self.growth_s * (step - 1) / 2)

    def over_at(self, now_s: float) -> int:
        """How many steps have ended by now, at most ``rounds``."""
        if now_s < self.end_s:
            return 0
        if now_s >= self.ends_s(self.rounds - 1):
            return self.rounds
        gap, half = now_s - self.end_s, self.growth_s / 2
        if half * gap > 1e-9 * self.step_s**2:
            slope = self.step_s - half
            guess = (sqrt(slope * slope + 4 * half * gap) - slope) / (2 * half)
        else:
            guess = gap / self.step_s
        steps = min(int(guess) + 1, self.rounds)
        while steps < self.rounds and self.ends_s(steps) <= now_s:
            steps += 1
        while steps and self.ends_s(steps - 1) > now_s:
            steps -= 1
        return steps


class EngineModel:
    """The engine of a profile. ``cold``: the server has just started, and pays for first uses.

    Times given to `add`, `abort` and `advance` must not decrease.
    """

    def __init__(
        self,
        profile: Profile,
        limits: EngineLimits,
        *,
        listener: BlockListener | None = None,
        observer: StepObserver | None = None,
        cold: bool = False,
        skip: bool = True,
    ) -> None:
        self.profile = profile
        self.scheduler = Scheduler(limits, listener)
        self.steps = 0
        """Steps that were computed or skipped."""
        self.iterations = 0
        """Steps that were computed."""
        self.first_tokens = 0
        """Sequences that have had their first token."""
        self.busy_s = 0.0
        """Time with a step on the accelerator."""
        self._observer = observer
        self._watched = observer is not None or listener is not None
        self._slowdown = 1.0
        self._time = StepTime(profile)
        self._ahead = limits.async_scheduling
        self._first_uses = _FIRST_USES if cold else 0
        self._skip = skip
        self._inbox: list[tuple[float, int, Sequence]] = []
        self._outbox: deque[EngineEvent] = deque()
        self._current: Step | None = None
        self._end_s = 0.0
        self._queued: Step | None = None
        self._plateau: _Plateau | None = None
        self._added = 0

    def add(self, request: EngineRequest, now_s: float) -> Sequence:
        """A client sends a request. Raises ValueError when it can never run."""
        self._added += 1
        profile = self.profile
        ready_s = now_s + profile.input_s + profile.input_token_s * request.prompt_tokens
        sequence = self.scheduler.enter(request, now_s)
        heapq.heappush(self._inbox, (ready_s, self._added, sequence))
        return sequence

    def abort(self, sequence: Sequence, now_s: float) -> list[EngineEvent]:
        """A client goes away; its blocks are free at once. Returns the events until now."""
        events = self.advance(now_s)
        if sequence.done:
            return events
        left = [entry for entry in self._inbox if entry[2] is not sequence]
        if len(left) < len(self._inbox):
            heapq.heapify(left)
            self._inbox = left
            sequence.state = SequenceState.ABORTED
        else:
            self._leave_plateau()
            self.scheduler.abort(sequence)
        return events

    @property
    def running_sequences(self) -> int:
        """Sequences in the batch."""
        return len(self.scheduler.running)

    @property
    def waiting_sequences(self) -> int:
        """Sequences in the queue, or on the way to it."""
        return len(self.scheduler.waiting) + len(self._inbox)

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks that sequences hold, 0..1, as of the last `advance`."""
        pool, plateau = self.scheduler.pool, self._plateau
        used_blocks = pool.used_blocks
        if plateau is not None and plateau.owed:
            if plateau.blocks_after is None:
                plateau.blocks_after = self.scheduler.blocks_after()
            used_blocks += plateau.blocks_after(plateau.owed)
        return used_blocks / pool.num_blocks

    def settle(self) -> None:
        """Bring `scheduler` and its sequences up to the last `advance`.

        Call it before looking at them. Steps that only add a token to every sequence are counted
        there together and as late as possible, unless there is a listener or an observer."""
        plateau = self._plateau
        if plateau is not None and plateau.owed:
            self.scheduler.repeat(plateau.owed)
            plateau.owed, plateau.blocks_after = 0, None

    def slow_down(self, factor: float, now_s: float) -> list[EngineEvent]:
        """From now on steps take ``factor`` times as long, and so does the rest of the one under
        way."""
        events = self.advance(now_s)
        self._leave_plateau()
        if self._current is not None:
            left_s = self._end_s - now_s
            self._end_s = now_s + left_s * factor / self._slowdown
            self.busy_s += self._end_s - now_s - left_s
        self._slowdown = factor
        return events

    def admit(self, admitting: bool, now_s: float) -> list[EngineEvent]:
        """Set whether waiting sequences may start from now on."""
        events = self.advance(now_s)
        self._leave_plateau()
        self.scheduler.admitting = admitting
        if self._current is None:
            self._start(max(self._end_s, now_s))
        return events

    def forget_prefixes(
        self, now_s: float, *, running: bool = False
    ) -> tuple[bool, list[EngineEvent]]:
        """Empty the prefix cache. False while sequences hold blocks; with ``running`` they start
        over."""
        events = self.advance(now_s)
        self.settle()
        if running:
            self._leave_plateau()
            events += [
                EngineEvent(now_s, EventKind.PREEMPTED, v) for v in self.scheduler.preempt_all()
            ]
        return self.scheduler.pool.forget_free(), events

    @property
    def idle(self) -> bool:
        """Nothing to compute, and no event to return."""
        return self._current is None and not self._inbox and not self._outbox

    def next_event_s(self) -> float:
        """The latest time at which `advance` must be called next; inf when idle.

        Nothing that anybody can see happens before it, unless a request is added or aborted.
        """
        soonest = self._outbox[0].at_s if self._outbox else inf
        if self._inbox and self._current is None:
            soonest = min(soonest, self._inbox[0][0])
        if self._current is not None:
            plateau = self._plateau
            if plateau is None:
                soonest = min(soonest, self._end_s)
            else:
                end_s = plateau.ends_s(plateau.rounds)
                if self._inbox and not self._full():
                    arrival_s = self._inbox[0][0]
                    end_s = min(end_s, max(arrival_s, plateau.ends_s(plateau.done)))
                soonest = min(soonest, end_s)
        return soonest

    def next_step_s(self) -> float:
        """When the next step ends, or starts if none is under way; inf when idle.

        When `advance` is called at each of these times, no token waits to be seen.
        """
        soonest = self._outbox[0].at_s if self._outbox else inf
        if self._current is not None:
            return min(soonest, self._end_s)
        return min(soonest, self._inbox[0][0]) if self._inbox else soonest

    def advance(self, now_s: float) -> list[EngineEvent]:
        """Let time pass until ``now_s``; returns the events that clients have seen by then, in
        order."""
        while True:
            if self._current is None:
                if not self._inbox or self._inbox[0][0] > now_s:
                    break
                self._receive(self._inbox[0][0])
                self._start(max(self._end_s, self.scheduler.waiting[0].arrived_s))
                continue
            if self._plateau is not None:
                if not self._move(now_s):
                    break
                continue
            if self._end_s > now_s:
                break
            self._finish_step()
        seen: list[EngineEvent] = []
        while self._outbox and self._outbox[0].at_s <= now_s:
            seen.append(self._outbox.popleft())
        return seen

    def _receive(self, now_s: float) -> None:
        """Move what has arrived by now into the scheduler's queue."""
        while self._inbox and self._inbox[0][0] <= now_s:
            ready_s, _, sequence = heapq.heappop(self._inbox)
            sequence.arrived_s = ready_s
            self.scheduler.waiting.append(sequence)

    def _full(self) -> bool:
        return len(self.scheduler.running) >= self.scheduler.limits.max_num_seqs

    def _start(self, now_s: float) -> None:
        """The accelerator is free: start the next step, and with `ahead` prepare the one after
        it."""
        step = self._schedule(now_s)
        self._current = step
        if step is None:
            return
        self._end_s = now_s + self._duration_s(step)
        if self._ahead:
            self._queued = self._schedule(now_s)
        self._try_plateau()

    def _finish_step(self) -> None:
        step = self._current
        assert step is not None
        now_s = self._end_s
        advanced = self.scheduler.complete(step)
        if self._observer is not None:
            self._observer.stepped(advanced, 1, now_s)
        self._tell(advanced, now_s)
        self._receive(now_s)
        if not self._ahead or self._queued is None:
            self._current = self._queued = None
            self._start(now_s)
            return
        self._current = self._queued
        self._end_s = now_s + self._duration_s(self._current)
        self._queued = self._schedule(now_s)
        self._try_plateau()

    def _schedule(self, now_s: float) -> Step | None:
        step = self.scheduler.schedule(now_s)
        for victim in self.scheduler.preempted:
            self._post(EngineEvent(now_s, EventKind.PREEMPTED, victim))
        return step

    def _duration_s(self, step: Step) -> float:
        duration_s = self._time.step_s(step) + step.adapter_loads * self.profile.adapter_load_s
        if self._first_uses and step.prefill:
            duration_s += self.profile.first_use_s
            self._first_uses -= 1
        duration_s *= self._slowdown
        self.steps += 1
        self.iterations += 1
        self.busy_s += duration_s
        return duration_s

    def _tell(self, advanced: list[Sequence], now_s: float) -> None:
        seen_s = now_s + self.profile.output_s
        finished = SequenceState.FINISHED
        for sequence in advanced:
            if sequence.generated_tokens == 1:
                sequence.first_token_s = seen_s
                self.first_tokens += 1
                self._post(EngineEvent(seen_s, EventKind.FIRST_TOKEN, sequence))
            if sequence.state is finished:
                sequence.finished_s = seen_s
                self._post(EngineEvent(seen_s, EventKind.FINISHED, sequence))

    def _post(self, event: EngineEvent) -> None:
        """Put the event into the outbox, which is in order of time."""
        later: list[EngineEvent] = []
        while self._outbox and self._outbox[-1].at_s > event.at_s:
            later.append(self._outbox.pop())
        self._outbox.append(event)
        self._outbox.extend(reversed(later))

    def _try_plateau(self) -> None:
        """Enter a plateau if the steps in flight are decodes of all running sequences."""
        self._plateau = None
        current, queued = self._current, self._queued
        running = self.scheduler.running
        if current is None or not current.plain or current.decode != running:
            return
        if self._ahead and (queued is None or not queued.plain or queued.decode != running):
            return
        if len(running) >= self.scheduler.limits.max_num_batched_tokens:
            return
        if not self.scheduler.blocked():
            return
        rounds = self.scheduler.steady_rounds()
        if rounds < 2:
            return
        context_tokens = current.decode_context_tokens + len(running)
        growth_s = self._time.reading_s(len(running)) * len(running) * self._slowdown
        step_s = self._time.decode_s(len(running), context_tokens) * self._slowdown
        self._plateau = _Plateau(self._end_s, step_s, growth_s, rounds)

    def _move(self, now_s: float) -> bool:
        """Move along the plateau until now, or to its end; False when no further step ends by
        now."""
        plateau = self._plateau
        assert plateau is not None
        over = plateau.over_at(now_s)
        if self._inbox and not self._full():
            # The step in which an arrival is seen is scheduled as any other.
            ready_s = self._inbox[0][0]
            if ready_s <= now_s:
                over = min(over, plateau.over_at(ready_s))
                seen = plateau.ends_s(over - 1) >= ready_s if over else False
                over -= seen
                if over <= plateau.done:
                    self._leave_plateau()
                    return True
        if not self._skip:
            over = min(over, plateau.done + 1)
        rounds = over - plateau.done
        if rounds:
            plateau.owed += rounds
            if self._watched:
                self.settle()
            self.steps += rounds
            self.busy_s += plateau.ends_s(over) - plateau.ends_s(plateau.done)
            if self._observer is not None:
                self._observer.stepped(self.scheduler.running, rounds, plateau.ends_s(over - 1))
            plateau.done = over
            self._end_s = plateau.ends_s(over)
            self._age(rounds)
        if over == plateau.rounds:
            self._leave_plateau()
            return True
        return rounds > 0

    def _leave_plateau(self) -> None:
        self.settle()
        self._plateau = None

    def _age(self, rounds: int) -> None:
        """The steps in flight become those of `rounds` later."""
        for step in (self._current, self._queued):
            if step is not None:
                step.decode_context_tokens += rounds * len(step.decode)
