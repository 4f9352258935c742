"""A run in virtual time: traffic, the live picker, engine models.

The picker is the one that serves real requests, entered where these enter it: every step of a
request's way, ledger, prefix index, sessions, the queue, scraped signals with their age, reports
with their delay. Only the step that parses a body is another one: prompts come as block hashes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final

from loadtests.lab.agenda import Agenda
from loadtests.lab.entry import MODEL, ReadAsked, SimulatedHold, SimulatedHolding
from loadtests.lab.fleet import POOL, Fleet
from loadtests.lab.outcome import REFUSED, Outcome, Served
from loadtests.lab.setting import Setting
from loadtests.sim.model.request import EngineRequest, Sequence
from loadtests.workloads.sessions import Request
from loadtests.workloads.traffic import Traffic
from picker.core import Parts, Picker
from picker.request.answer import Answer, Decision
from picker.request.choice import Choice
from picker.request.head import RequestHead
from picker.request.report import Ending, Report
from picker.settings import PickerSettings, PoolSettings

_SAMPLE_S: Final = 1.0
_LEASE_S: Final = 1e9
_STALE_AFTER_S: Final = 5.0
"""As a gateway has it by default."""


_Offered = Coroutine[SimulatedHold, None, tuple[Decision, Choice] | None]
"""A request on its way through the picker."""


@dataclass(slots=True)
class _UnderWay:
    """A request between its decision and its end."""

    request: Request
    decision: Decision
    choice: Choice
    replica: int
    blocks: tuple[int, ...]
    """KV block ids of prompt and answer."""
    best_cached_tokens: int
    repeated_tokens: int
    queued_s: float
    sequence: Sequence | None = None


class Simulation:
    """One simulated run; it runs once. Everything random comes from ``seed``."""

    def __init__(
        self,
        setting: Setting,
        traffic: Traffic,
        *,
        seed: int,
        skip: bool = True,
        on_progress: Callable[[float, int], None] | None = None,
    ) -> None:
        """``skip``: engines jump over equal steps, which changes only how long the simulation
        takes. ``on_progress`` is called from time to time with the virtual time and the number of
        requests served."""
        self._setting = setting
        self._traffic = traffic
        self._on_progress = on_progress
        self._outcome = Outcome()
        self._rng = random.Random(f"lab/{seed}")
        self._read = ReadAsked(setting)
        self._agenda = agenda = Agenda()
        self._picker = Picker(
            "lab",
            Parts(read=self._read, holding=SimulatedHolding(agenda)),
            now=lambda: agenda.now_s,
            rng=random.Random(f"picker/{seed}"),
        )
        pool = PoolSettings(POOL, setting.policy, (MODEL,), default=True, queue=setting.queue)
        stale_after_s = max(_STALE_AFTER_S, 4 * setting.seeing.scrape_interval_s)
        self._hears_first_tokens = getattr(setting.policy.build(), "hears_first_tokens", False)
        self._asked: set[int] = set()
        """KV blocks of all prompts and answers until now."""
        self._picker.configure(
            PickerSettings(
                (pool,), lease_s=_LEASE_S, stale_after_s=stale_after_s, flow=setting.flow
            )
        )
        self._fleet = Fleet(setting, self._picker, agenda, self._outcome, self._finished, skip=skip)
        self._replica_of = {address: index for index, address in enumerate(self._fleet.addresses)}
        self._by_sequence: dict[Sequence, _UnderWay] = {}
        self._arrival_s: float | None = None
        self._arrival_known = False
        """Whether ``_arrival_s`` still holds: nothing has happened to the traffic since it was
        asked."""

    def run(self) -> Outcome:
        """Run until the traffic has ended and every request is answered."""
        agenda, engines = self._agenda, self._fleet.engines
        self._fleet.open(self._rng)
        agenda.at(0.0, self._sample)
        while True:
            arrival_s = self._next_arrival_s()
            if arrival_s is not None and arrival_s <= agenda.next_s:
                agenda.now_s = max(agenda.now_s, arrival_s)
                self._arrival_known = False
                for request in self._traffic.take(agenda.now_s):
                    self._arrive(request)
            elif arrival_s is not None or self._traffic.in_flight:
                agenda.step()
            else:
                break
        outcome = self._outcome
        outcome.duration_s = agenda.now_s
        outcome.busy_s = [engine.busy_s for engine in engines]
        outcome.steps = sum(engine.steps for engine in engines)
        return outcome

    def _next_arrival_s(self) -> float | None:
        """Asks the traffic again only when its answer may have changed: most events are scrapes."""
        if not self._arrival_known:
            self._arrival_s = self._traffic.next_s()
            self._arrival_known = True
        return self._arrival_s

    def _sample(self) -> None:
        self._fleet.sample()
        now_s = self._agenda.now_s
        for pool in self._picker.admission.sight():
            self._outcome.gaps += [(now_s, one.priority, one.gap) for one in pool.classes]
        if self._on_progress is not None:
            self._on_progress(now_s, len(self._outcome.served))
        self._agenda.at(now_s + _SAMPLE_S, self._sample)

    # -- a request's way

    def _arrive(self, request: Request) -> None:
        self._fleet.serve_adapter(request.adapter)
        head = self._read.head(request, self._agenda.now_s)
        if self._hears_first_tokens:
            self._fleet.hear_first_tokens()
        self._read.asked = request
        self._go_on(self._offer(head, request), request)

    def _go_on(self, offered: _Offered, request: Request) -> None:
        """Take a request on its way through the picker, as far as it goes now."""
        try:
            hold = offered.send(None)
        except StopIteration as done:
            self._decided(request, done.value)
        else:
            hold.released = lambda: self._agenda.at(
                self._agenda.now_s, lambda: self._go_on(offered, request)
            )

    def _decided(self, request: Request, offered: tuple[Decision, Choice] | None) -> None:
        now_s = self._agenda.now_s
        if offered is None:
            self._refused(request)
            return
        decision, choice = offered
        blocks = tuple(request.block_ids(self._setting.limits.block_size_tokens))
        under_way = _UnderWay(
            request,
            decision,
            choice,
            self._replica_of[decision.addresses[0]],
            blocks,
            self._fleet.best_cached_tokens(request.prompt_tokens, blocks),
            self._repeated_tokens(request, blocks),
            now_s - request.arrival_s,
        )
        seeing = self._setting.seeing
        reached_s = now_s + seeing.decision_s + seeing.network_s
        self._agenda.at(reached_s, lambda: self._reach(under_way))

    async def _offer(self, head: RequestHead, request: Request) -> tuple[Decision, Choice] | None:
        begun = await self._picker.begin(head)
        if isinstance(begun, Answer):
            return None
        decision = await self._picker.offer(begun, b"")
        if begun.item is not None:
            self._outcome.items[request.id] = begun.item
        return None if isinstance(decision, Answer) else (decision, begun.choices[-1])

    def _repeated_tokens(self, request: Request, blocks: tuple[int, ...]) -> int:
        size = self._setting.limits.block_size_tokens
        usable = (request.prompt_tokens - 1) // size
        known = next(
            (index for index, block in enumerate(blocks) if block not in self._asked), len(blocks)
        )
        self._asked.update(blocks[known:])
        return size * min(known, usable)

    def _reach(self, under_way: _UnderWay) -> None:
        """The request arrives at its replica."""
        request = under_way.request
        asked = EngineRequest(
            request.id,
            request.prompt_tokens,
            request.output_tokens,
            under_way.blocks,
            request.adapter or None,
            request.arrival_s,
        )
        try:
            sequence = self._fleet.add(under_way.replica, asked)
        except ValueError:  # longer than the engine's context
            self._ended(under_way, None, failed=True)
            return
        under_way.sequence = sequence
        self._by_sequence[sequence] = under_way
        timeout_s = self._setting.client_timeout_s
        if timeout_s is not None:
            self._agenda.at(request.arrival_s + timeout_s, lambda: self._give_up(under_way))

    # -- its end

    def _finished(self, sequence: Sequence) -> None:
        under_way = self._by_sequence.pop(sequence, None)
        if under_way is not None:
            self._ended(under_way, sequence, failed=False)

    def _give_up(self, under_way: _UnderWay) -> None:
        sequence = under_way.sequence
        assert sequence is not None
        if self._by_sequence.pop(sequence, None) is not None:
            self._fleet.abort(under_way.replica, sequence)
            self._ended(under_way, sequence, failed=True)

    def _ended(self, under_way: _UnderWay, sequence: Sequence | None, *, failed: bool) -> None:
        request, seeing, agenda = under_way.request, self._setting.seeing, self._agenda
        finished_s = None if sequence is None else sequence.finished_s
        done_s = (agenda.now_s if finished_s is None else finished_s) + seeing.network_s
        first_s = None if sequence is None else sequence.first_token_s
        cached_tokens = 0 if sequence is None else sequence.cached_tokens or 0
        served = Served(
            id=request.id,
            session=request.session,
            tenant=request.tenant,
            replica=under_way.replica,
            arrival_s=request.arrival_s,
            first_token_s=None if first_s is None else first_s + seeing.network_s,
            finished_s=done_s,
            input_tokens=request.prompt_tokens,
            cached_tokens=cached_tokens,
            expected_cached_tokens=under_way.decision.picks[0].matched_tokens,
            output_tokens=0 if sequence is None else sequence.generated_tokens,
            failed=failed,
            best_cached_tokens=max(cached_tokens, under_way.best_cached_tokens),
            repeated_tokens=under_way.repeated_tokens,
            predicted_ttft_s=under_way.choice.predicted_ttft_s,
            predicted_tpot_s=under_way.choice.predicted_tpot_s,
            queued_s=under_way.queued_s,
        )
        agenda.at(done_s, lambda: self._answered(served, request))
        agenda.at(done_s + seeing.report_delay_s, lambda: self._report(served, under_way))

    def _answered(self, served: Served, request: Request) -> None:
        self._outcome.served.append(served)
        self._arrival_known = False
        if served.failed:
            self._traffic.failed(request, self._agenda.now_s)
        else:
            self._traffic.answered(request, self._agenda.now_s)

    def _report(self, served: Served, under_way: _UnderWay) -> None:
        """Report the end as Envoy does. Usage comes at the end of an answer, so there is none when
        the client left before; and no status when it left before the first token."""
        status, reason = 200, Ending.OK
        if under_way.sequence is None:
            status, reason = 400, Ending.HTTP_ERROR
        elif served.failed:
            status, reason = 0 if served.ttft_s is None else 200, Ending.CLIENT_ABORTED
        whole = reason is Ending.OK
        self._picker.complete(
            Report(
                id=under_way.decision.id,
                owner=self._picker.id,
                address=self._fleet.addresses[served.replica],
                status=status,
                reason=reason,
                input_tokens=served.input_tokens if whole else None,
                output_tokens=served.output_tokens if whole else None,
                cached_tokens=served.cached_tokens if whole else None,
                streamed_events=served.output_tokens,
                ttft_s=served.ttft_s,
                duration_s=served.latency_s,
            )
        )

    def _refused(self, request: Request) -> None:
        now_s = self._agenda.now_s
        served = Served(
            id=request.id,
            session=request.session,
            tenant=request.tenant,
            replica=REFUSED,
            arrival_s=request.arrival_s,
            first_token_s=None,
            finished_s=now_s,
            input_tokens=request.prompt_tokens,
            cached_tokens=0,
            expected_cached_tokens=0.0,
            output_tokens=0,
            failed=True,
            queued_s=now_s - request.arrival_s,
        )
        self._answered(served, request)
