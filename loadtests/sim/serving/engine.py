"""The engine behind one simulated replica, driven by the wall clock.

The HTTP surface submits jobs and waits for their progress; the engine model decides what runs when.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, replace
from math import inf

from loadtests.sim.model.engine import EngineEvent, EngineModel, EventKind
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.request import EngineRequest, Sequence
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.clock import ScaledClock
from loadtests.sim.serving.job import EngineJob
from loadtests.sim.serving.journal import KvJournal
from loadtests.sim.serving.stats import EngineStats
from loadtests.sim.serving.tokens import Tokens, block_ids, prefix_salt

logger = logging.getLogger(__name__)

_SHORTEST_SLEEP_S = 0.001
"""Resolution of the event loop's timer."""
_LONGEST_SLEEP_S = 3600.0
_EARLY_S = 0.0006
"""By this much a timer may fire too early: uvloop rounds to milliseconds."""


class EngineDeadError(Exception):
    """The engine has failed and computes nothing any more; the log says why."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine. A second of its time takes ``time_scale`` wall seconds (0: no waiting)."""

    profile: Profile
    limits: EngineLimits
    time_scale: float = 1.0


class Submission:
    """The jobs of one request; their progress is waited for here."""

    def __init__(self, engine: "RealTimeEngine", jobs: Ordered[EngineJob]) -> None:
        self.jobs = jobs
        self._engine = engine
        self._news: asyncio.Future[None] | None = None
        self._fresh = False

    @property
    def done(self) -> bool:
        """Whether all jobs are finished or aborted."""
        return all(job.done for job in self.jobs)

    async def progress(self) -> None:
        """Wait until something has happened since the last call returned. Only one task may wait.

        Raises EngineDeadError.
        """
        if not self._fresh:
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        self._fresh = False
        self._engine.check_alive()

    async def finished(self) -> None:
        """Wait until all jobs are done. Raises EngineDeadError."""
        while not self.done:
            await self.progress()

    def abort(self) -> None:
        """Drop the unfinished jobs, and free their KV blocks at once."""
        self._engine.abort(self)

    def notify(self) -> None:
        """Something has happened to the jobs."""
        self._fresh = True
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class RealTimeEngine:
    """Runs an engine model by the wall clock; while idle it has no task and no timer.

    A replica is as slow as its profile says, and as the event loop makes it: a step is over when
    its time has passed and the loop runs its timer. Use it from one event loop.
    """

    def __init__(self, settings: EngineSettings, *, journal: KvJournal | None = None) -> None:
        self.settings = settings
        self._clock = ScaledClock(settings.time_scale)
        profile = settings.profile
        # The time of an answer's way out is added to the way in: tokens leave when they are made.
        self._profile = replace(profile, input_s=profile.input_s + profile.output_s, output_s=0.0)
        self._model = EngineModel(self._profile, settings.limits, listener=journal, observer=self)
        self._journal = journal
        self.stats = EngineStats(settings.limits.max_model_len)
        """What has been counted so far."""
        self._open: dict[Sequence, tuple[EngineJob, Submission]] = {}
        self._news: dict[Submission, None] = {}
        self._adapters_changed = False
        self._asked_for: Counter[str] = Counter()
        """Running and waiting sequences, by adapter."""
        self._timer: asyncio.Handle | None = None
        self._due_s = inf
        self._closed = False
        self.dead = asyncio.Event()
        """Set for good when the model has failed."""

    @property
    def running_requests(self) -> int:
        """Sequences in the batch."""
        return self._model.running_sequences

    @property
    def waiting_requests(self) -> int:
        """Sequences in the queue or on the way to it."""
        return self._model.waiting_sequences

    @property
    def deferred_requests(self) -> int:
        """Waiting requests that lack nothing but a slot for their adapter."""
        limits = self.settings.limits
        if not limits.max_loras or self.running_requests >= limits.max_num_seqs:
            return 0
        running, _ = self._adapters()
        if len(running) < limits.max_loras:
            return 0
        waiting = self._model.scheduler.waiting
        return sum(1 for each in waiting if each.adapter and each.adapter not in running)

    @property
    def kv_usage(self) -> float:
        """Share of KV blocks that sequences hold, 0..1."""
        return self._model.kv_usage

    @property
    def paused(self) -> bool:
        """Whether nothing is computed."""
        return self._clock.stopped

    def check_alive(self) -> None:
        """Raises EngineDeadError when the engine is dead."""
        if self.dead.is_set():
            raise EngineDeadError

    def submit(self, jobs: Ordered[EngineJob]) -> Submission:
        """Queue all jobs, or none. Raises EngineDeadError; and ValueError for a prompt that is
        empty or leaves no room for an answer."""
        self.check_alive()
        for job in jobs:
            if not job.prompt_tokens:
                raise ValueError("a prompt is empty")
            if (reason := self._model.scheduler.refusal(job.prompt_tokens)) is not None:
                raise ValueError(reason)
        submission = Submission(self, jobs)
        size = self.settings.limits.block_size_tokens
        now_s, wall_s = self._now_s(), time.monotonic()
        for job in jobs:
            content = Tokens(job.prompt + job.answer)
            salt = prefix_salt(job.adapter, job.adapter_path, job.cache_salt)
            job.block_ids = block_ids(content, salt, size)
            request = EngineRequest(
                "", job.prompt_tokens, max(job.answer_tokens, 1), job.block_ids, job.adapter
            )
            job.sequence = self._model.add(request, now_s)
            job.sent_s = wall_s
            way_s = self._profile.input_s + self._profile.input_token_s * job.prompt_tokens
            job.queued_s = wall_s + way_s * self.settings.time_scale
            self._open[job.sequence] = (job, submission)
            if job.sequence.adapter:
                self._asked_for[job.sequence.adapter] += 1
            if self._journal is not None:
                self._journal.announce(
                    job.block_ids,
                    content,
                    job.adapter,
                    cache_salt=job.cache_salt,
                    session_id=job.session_id,
                )
        self._adapters_changed = True
        self._plan()
        return submission

    async def complete(self, jobs: Ordered[EngineJob]) -> None:
        """Submit and wait for the end; when cancelled, nothing stays in the engine."""
        submission = self.submit(jobs)
        try:
            await submission.finished()
        finally:
            submission.abort()

    def abort(self, submission: Submission) -> None:
        """Drop the unfinished jobs of a submission, and free their KV blocks at once."""
        if submission.done or self.dead.is_set():
            return
        now_s = self._now_s()
        self._advance(now_s)
        for job in submission.jobs:
            self._drop(job, now_s)
        self._settle()

    def abort_all(self) -> None:
        """Drop everything; answers end where they are."""
        now_s = self._now_s()
        self._advance(now_s)
        for job, _ in list(self._open.values()):
            self._drop(job, now_s)
            self.stats.finished["abort"] += 1
        self._settle()

    def forget_prefixes(self, *, running: bool = False) -> bool:
        """Empty the prefix cache. While sequences hold blocks it does nothing and returns False;
        with ``running`` they are preempted."""
        forgotten, events = self._model.forget_prefixes(self._now_s(), running=running)
        self._handle(events)
        self._settle()
        return forgotten

    def load_adapter(self, adapter: str) -> None:
        """Put an adapter's weights into a slot, if one is available."""
        self._model.scheduler.load_adapter(adapter)

    def slow_down(self, factor: float) -> None:
        """Steps that start from now on take ``factor`` times as long."""
        self._handle(self._model.slow_down(factor, self._now_s()))
        self._settle()

    def pause(self, *, drain: bool = False) -> None:
        """Compute nothing; what is submitted waits. With ``drain``, only admit no further
        request."""
        if drain:
            self._clock.go_on()
            self._handle(self._model.admit(False, self._now_s()))
        else:
            self._advance(self._now_s())
            self._clock.stop()
        self._settle()

    def resume(self) -> None:
        """Go on from where it stopped."""
        self._clock.go_on()
        self._handle(self._model.admit(True, self._now_s()))
        self._settle()

    async def close(self) -> None:
        """Stop at once; waiting submissions see no further progress."""
        self._closed = True
        self._plan()
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def stepped(self, sequences: Ordered[Sequence], steps: int, end_s: float) -> None:
        """The model has done a step."""
        jobs: list[EngineJob] = []
        for sequence in sequences:
            job, submission = self._open[sequence]
            self._news[submission] = None
            if job.admitted_s is None:
                self._admitted(sequence, job)
            if sequence.done:
                self._asks_no_more(sequence)
            jobs.append(job)
        self.stats.count_steps(jobs, steps, self._clock.wall_s(end_s))
        self._note_adapters()

    def _now_s(self) -> float:
        return self._clock.now_s(self._model.next_step_s())

    def _turn(self) -> None:
        """The timer fires. If the model fails here, nobody else would see it, so the engine
        ends."""
        self._timer = None
        try:
            self._catch_up()
        except Exception:
            logger.critical("the engine has failed and is dead", exc_info=True)
            self._die()

    def _die(self) -> None:
        self.dead.set()
        self._plan()
        for submission in {submission for _, submission in self._open.values()}:
            submission.notify()

    def _catch_up(self) -> None:
        """Let the model's time pass until now."""
        if self.settings.time_scale:
            # A step that ends within the timer's resolution counts as ended.
            early_s = _EARLY_S / self.settings.time_scale
            now_s = self._now_s()
            self._clock.jump(min(self._due_s, now_s + early_s))
            self._advance(self._now_s())
        else:
            end_s = time.monotonic() + _SHORTEST_SLEEP_S
            while (due_s := self._model.next_step_s()) < inf:
                self._clock.jump(due_s)
                self._advance(due_s)
                if time.monotonic() >= end_s:
                    break
        self._settle()

    def _advance(self, now_s: float) -> None:
        self._handle(self._model.advance(now_s))

    def _handle(self, events: list[EngineEvent]) -> None:
        for sequence in reversed(self._model.scheduler.running):
            job, _ = self._open[sequence]
            if job.admitted_s is None:
                self._admitted(sequence, job)
            elif not sequence.preemptions:  # those before it were admitted earlier
                break
        for event in events:
            if event.kind is EventKind.FINISHED:
                self._finished(event.sequence)
            elif event.kind is EventKind.PREEMPTED:
                self.stats.preemptions += 1
                self._adapters_changed = True

    def _admitted(self, sequence: Sequence, job: EngineJob) -> None:
        assert sequence.admitted_s is not None
        self.stats.count_admission(job, self._clock.wall_s(sequence.admitted_s))
        self._adapters_changed = True

    def _finished(self, sequence: Sequence) -> None:
        job, submission = self._open.pop(sequence)
        self.stats.count_end(job)
        self._left(job, submission)

    def _drop(self, job: EngineJob, now_s: float) -> None:
        if job.sequence is None or job.done:
            return
        _, submission = self._open.pop(job.sequence)
        self._model.abort(job.sequence, now_s)
        self._asks_no_more(job.sequence)
        self._left(job, submission)

    def _left(self, job: EngineJob, submission: Submission) -> None:
        self._news[submission] = None
        self._adapters_changed = True
        if self._journal is not None:
            self._journal.withdraw(job.block_ids)

    def _settle(self) -> None:
        """After a change: notify the waiting submissions, and plan the next step."""
        if self._journal is not None:
            self._journal.flush()
        self._note_adapters()
        news, self._news = self._news, {}
        for submission in news:
            submission.notify()
        self._plan()

    def _note_adapters(self) -> None:
        if self._adapters_changed and self.settings.limits.max_loras:
            self.stats.note_adapters(*self._adapters(), time.time())
        self._adapters_changed = False

    def _adapters(self) -> tuple[set[str], set[str]]:
        """Adapters of running sequences, and of waiting ones."""
        batch = self._model.scheduler.running
        running = Counter(each.adapter for each in batch if each.adapter)
        waiting = {name for name, count in self._asked_for.items() if count > running[name]}
        return set(running), waiting

    def _asks_no_more(self, sequence: Sequence) -> None:
        if sequence.adapter:
            self._asked_for[sequence.adapter] -= 1
            if not self._asked_for[sequence.adapter]:
                del self._asked_for[sequence.adapter]

    def _plan(self) -> None:
        """Set the timer for the end of the model's next step."""
        due_s = self._model.next_step_s()
        if self._closed or self._clock.stopped or self.dead.is_set():
            due_s = inf
        if self._timer is not None:
            if due_s == self._due_s:
                return
            self._timer.cancel()
            self._timer = None
        self._due_s = due_s
        if due_s == inf:
            return
        loop = asyncio.get_running_loop()
        if not self.settings.time_scale:
            self._timer = loop.call_soon(self._turn)
            return
        sleep_s = self._clock.wall_s(due_s) - time.monotonic()
        sleep_s = min(max(sleep_s, _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S)
        self._timer = loop.call_later(sleep_s, self._turn)
