"""The engine behind one simulated replica, driven in real time: the seam to the HTTP surface.

The surface submits groups of sequences and waits for progress; how steps are scheduled and how long
they take is the scheduler's business.
"""

import asyncio
import time
from collections.abc import Sequence as Ordered

from loadtests.sim.scheduler import EngineSettings, Scheduler, Sequence, Step
from loadtests.sim.stats import EngineStats

_SHORTEST_SLEEP_S = 0.001  # what the event loop's timer can tell apart
_LONGEST_LAG_S = 0.05  # a loop that was held up does not catch up more than this
_STAT_SERIES = 64


class Submission:
    """Sequences of one request, and the place where their progress is waited for."""

    def __init__(self, engine: "Engine", sequences: Ordered[Sequence]) -> None:
        self.sequences = sequences
        self._engine = engine
        self._news: asyncio.Future[None] | None = None
        self._fresh = False

    @property
    def done(self) -> bool:
        """All sequences are finished or aborted."""
        return all(sequence.done for sequence in self.sequences)

    async def progress(self) -> None:
        """Wait until something has happened since the last call returned. One waiter at a time."""
        if not self._fresh:
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        self._fresh = False

    async def finished(self) -> None:
        """Wait until all sequences are done."""
        while not self.done:
            await self.progress()

    def abort(self) -> None:
        """Drop what is not finished and free its KV blocks at once."""
        self._engine.abort(self)

    def notify(self) -> None:
        """Something has happened."""
        self._fresh = True
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Engine:
    """Runs a scheduler's steps in wall time; while idle it has no task and no timer."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._scheduler = Scheduler(settings)
        self._owner: dict[Sequence, Submission] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def stats(self) -> EngineStats:
        """What has been counted so far."""
        return self._scheduler.stats

    @property
    def running_requests(self) -> int:
        """Sequences in the batch."""
        return len(self._scheduler.running)

    @property
    def waiting_requests(self) -> int:
        """Sequences in the queue."""
        return len(self._scheduler.waiting)

    @property
    def kv_usage(self) -> float:
        """Share of KV blocks that sequences hold, 0..1."""
        return self._scheduler.pool.used_blocks / self.settings.num_blocks

    def submit(self, sequences: Ordered[Sequence]) -> Submission:
        """Queue sequences; each must fit into max_model_tokens."""
        submission = Submission(self, sequences)
        now_s = time.monotonic()
        for sequence in sequences:
            self._owner[sequence] = submission
            self._scheduler.add(sequence, now_s)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return submission

    def abort(self, submission: Submission) -> None:
        """Drop what is not finished of a submission."""
        for sequence in submission.sequences:
            if self._owner.pop(sequence, None) is not None:
                self._scheduler.abort(sequence)
        self._note_adapters()
        submission.notify()

    def forget_prefixes(self) -> None:
        """Empty the prefix cache, except for what is in use."""
        self._scheduler.pool.forget_free()

    async def close(self) -> None:
        """Stop at once; waiting submissions see no further progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        try:
            # Requests that arrive in the same turn of the loop share the first step.
            await asyncio.sleep(0)
            due_s = yielded_s = time.monotonic()
            while (step := self._scheduler.schedule(time.monotonic())) is not None:
                self._note_adapters()
                now_s = time.monotonic()
                due_s = max(due_s, now_s - _LONGEST_LAG_S)
                due_s += step.duration_s * self.settings.time_scale
                # Steps shorter than the timer can tell apart run together.
                if due_s - now_s >= _SHORTEST_SLEEP_S:
                    await asyncio.sleep(due_s - now_s)
                    yielded_s = time.monotonic()
                elif now_s - yielded_s >= _SHORTEST_SLEEP_S:
                    await asyncio.sleep(0)
                    yielded_s = time.monotonic()
                self._finish(step)
            self._note_adapters()
        finally:
            self._task = None

    def _finish(self, step: Step) -> None:
        for sequence in self._scheduler.complete(step, time.monotonic()):
            owner = self._owner.pop(sequence) if sequence.done else self._owner[sequence]
            owner.notify()

    def _note_adapters(self) -> None:
        if not self.settings.max_loras:
            return
        running, waiting = self._scheduler.adapters()
        seen = self.stats.adapters_seen_s
        names = (",".join(sorted(running)), ",".join(sorted(waiting)))
        # Like vLLM's gauge, series of earlier states stay; the newest has the largest value.
        seen.pop(names, None)
        seen[names] = time.time()
        if len(seen) > _STAT_SERIES:
            del seen[next(iter(seen))]
