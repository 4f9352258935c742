"""The picker: a request comes in by `begin` and `offer`, and its end by `complete`."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from picker.admission.admission import Admission
from picker.admission.loop import LoopHolding
from picker.bodies.apart import Apart, Here
from picker.decisions.left_out import Reasons, asked_of
from picker.decisions.ring import Decisions
from picker.flight.flights import Flights
from picker.flight.ledger import Ledger
from picker.flight.undecided import LEFT
from picker.pipeline.parse import too_large
from picker.pipeline.steps import Step, Steps, Tools, run, way
from picker.pipeline.tokenize import Tokenize
from picker.prompt.counting import Counting
from picker.prompt.forms import form_of
from picker.request.answer import Answer, Decision
from picker.request.context import RequestContext
from picker.request.head import RequestHead
from picker.request.rejection import Reason, Rejection
from picker.request.report import Ending, Report
from picker.request.response_ids import ResponseIds
from picker.seams.background import AtOnce, Background
from picker.seams.engine_counts import EngineCounts, NoEngineCounts
from picker.seams.engine_tokens import EngineTokens, NoEngineTokens
from picker.seams.gate import Gate, OpenGate
from picker.seams.holding import Holding
from picker.seams.limiter import Limiter, Unlimited
from picker.seams.observer import Answered, Observer, Rejected, Unobserved
from picker.seams.own_tokens import NoOwnTokens, OwnTokens
from picker.seams.peers import Alone, Peers
from picker.seams.watch import Unwatched, Watch
from picker.settings import PickerSettings
from picker.state.catalog import Catalog
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.learned import Learned
from picker.state.models import ServedModel
from picker.state.pools import Pools
from picker.state.spec import EndpointChanges

log = logging.getLogger(__name__)

_NO_SLOTS: Final = np.empty(0, np.intp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the picker needs of others."""

    observer: Observer = field(default_factory=Unobserved)
    gate: Gate = field(default_factory=OpenGate)
    limiter: Limiter = field(default_factory=Unlimited)
    peers: Peers = field(default_factory=Alone)
    watch: Watch = field(default_factory=Unwatched)
    counting: Counting = field(default_factory=Counting)
    engine_counts: EngineCounts = field(default_factory=NoEngineCounts)
    own_tokens: OwnTokens = field(default_factory=NoOwnTokens)
    engine_tokens: EngineTokens = field(default_factory=NoEngineTokens)
    apart: Apart = field(default_factory=Here)
    """Where heavy work on bodies is done."""
    background: Background = field(default_factory=AtOnce)
    """Where shadow policies rank."""
    read: Step | None = None
    """Instead of parsing bodies: see `Tools.read`."""
    holding: Holding | None = None
    """Where requests are held; None: in asyncio's event loop."""


class Picker:
    """Decides where requests go. Single-threaded; ``now`` is a monotonic clock in seconds."""

    def __init__(
        self, picker_id: str, parts: Parts, *, now: Callable[[], float], rng: random.Random
    ) -> None:
        self.id = picker_id
        self.now = now
        self.learned = Learned()
        self.pools = Pools(self.learned.ratio.bytes_per_token, now, parts.background)
        self.catalog = Catalog(self.pools, rng)
        self.decisions = Decisions(now)
        ledger = Ledger(self.pools.states)
        self.admission = Admission(
            self.pools,
            ledger,
            parts.holding or LoopHolding(now),
            now=now,
            rng=rng,
            name=picker_id,
            report=parts.peers.loads_changed,
        )
        self.flights = Flights(
            picker_id,
            self.pools,
            ledger,
            decisions=self.decisions,
            learned=self.learned,
            observer=parts.observer,
            limiter=parts.limiter,
            peers=parts.peers,
            watch=parts.watch,
            engine_counts=parts.engine_counts,
            own_tokens=parts.own_tokens,
            now=now,
            on_freed=self.admission.freed_by,
        )
        self.response_ids = ResponseIds(secrets.token_bytes(32))
        self.draining = False
        self._leaving = False
        self._observer = parts.observer
        self._reasons = Reasons()
        self.tokenize = Tokenize(self.pools, parts.own_tokens, parts.engine_tokens, now)
        self._tools = Tools(
            picker_id=picker_id,
            pools=self.pools,
            catalog=self.catalog,
            learned=self.learned,
            flights=self.flights,
            admission=self.admission,
            reasons=self._reasons,
            gate=parts.gate,
            limiter=parts.limiter,
            counting=parts.counting,
            engine_counts=parts.engine_counts,
            tokenize=self.tokenize,
            apart=parts.apart,
            is_draining=lambda: self.draining,
            now=now,
            rng=rng,
            response_ids=self.response_ids,
            read=parts.read,
        )
        self._count = 0
        self.configure(PickerSettings(()))

    def configure(self, settings: PickerSettings) -> None:
        """Take over new settings; pools that stay keep their state."""
        self.pools.configure(settings)
        self.catalog.configure(settings)
        self.learned.configure(settings.output_bound)
        self.max_body_bytes = settings.max_body_bytes
        self.foreign_fallbacks = settings.foreign_fallbacks
        self.foreign_wait = settings.foreign_wait
        self.decision_timeout_s = settings.decision_timeout_s
        self.admission.configure(settings)
        self._way = way(self._tools, settings)

    def leave(self) -> None:
        """Be not ready from now on, and go on serving."""
        self._leaving = True

    def close_queues(self) -> None:
        """Let no request wait for its pool from now on; those that wait are refused."""
        self.admission.drain()

    def drain(self) -> None:
        """Refuse requests from now on, and those that wait; those under way go on."""
        self.draining = True
        self.admission.drain()

    def apply_endpoints(self, changes: EndpointChanges) -> None:
        """Endpoints of a pool come, change and go."""
        self.pools.apply_endpoints(changes)

    @property
    def ready(self) -> bool:
        """Some endpoint can take requests, and the picker neither drains nor is about to."""
        return not (self.draining or self._leaving) and self.pools.any_candidate()

    # -- a request's way

    async def begin(self, head: RequestHead) -> RequestContext | Answer:
        """A request's headers: who sent it, and whether it is worth reading its body."""
        self._count += 1
        context = RequestContext(f"{self.id}-{self._count}", head, form_of(head.path))
        return await self._take(self._way.head, context) or context

    async def offer(self, context: RequestContext, body: bytes) -> Decision | Answer:
        """A begun request with its whole body: where it goes, or the picker's own answer. Never
        raises for bad input."""
        context.body = body
        outcome = await self._take(self._way.body, context) or context.decision
        assert outcome is not None
        return outcome

    def expect(self, context: RequestContext) -> None:
        """The data plane is told a begun request's id, and may report its end from now on: `over`
        or `left` follows."""
        self.flights.undecided.expect(context.id)

    def over(self, context: RequestContext) -> None:
        """An expected request is decided, or answered."""
        self.flights.catch_up(context.id)

    def left(self, context: RequestContext) -> None:
        """A begun request has ended without either: its client has left, or the data plane waits
        for its decision no longer."""
        now_s = self.now()
        queue_s = context.waited_s(now_s)
        decision_s = now_s - context.head.received_s - queue_s
        event = Rejected(context.labels(), 0, LEFT, decision_s, queue_s)
        self.flights.undecided.left(context.id, event)

    def refuse_size(self, context: RequestContext) -> Answer:
        """The answer to a body that is over the limit before its end."""
        return self._reject(context, too_large(self.max_body_bytes))

    async def _take(self, steps: Steps, context: RequestContext) -> Answer | None:
        try:
            await run(steps, context, self.now)
        except Rejection as rejection:
            return self._reject(context, rejection)
        except Exception:
            log.exception("request %s: the picker failed", context.request_id)
            failure = Rejection(Reason.INTERNAL, "The endpoint picker failed on this request.")
            return self._reject(context, failure)
        except BaseException:  # the client has left while a step waited
            self._give_back(context)
            raise
        if context.answer is not None:
            context.answer = context.answer.with_headers(context.id_header)
            if context.answer.handover is not None:
                return context.answer  # see `handed_over`
            self._observer.answered(
                Answered(
                    labels=context.labels(),
                    status=context.answer.status,
                    decision_s=self.now() - context.head.received_s,
                )
            )
        return context.answer

    def _reject(self, context: RequestContext, rejection: Rejection) -> Answer:
        """The answer to a request that goes no further; what it took is given back."""
        self._give_back(context)
        now_s = self.now()
        queue_s = context.waited_s(now_s)
        event = Rejected(
            labels=context.labels(),
            status=rejection.row.status,
            reason=rejection.row.code,
            decision_s=now_s - context.head.received_s - queue_s,
            queue_s=queue_s,
        )
        self._observer.rejected(event)
        left_out, pool = None, self.pools.get(context.pool)
        if rejection.reason is Reason.NO_ENDPOINTS and pool is not None:
            asked = asked_of(context, pool.profiles[-1].role)
            left_out = self._reasons.of(pool, _NO_SLOTS, _NO_SLOTS, asked, now_s)
        self.decisions.refused(context.id, event, rejection.message, left_out)
        return Answer(
            rejection.row.status,
            (*rejection.headers(), *context.response_headers, context.id_header),
            rejection.body(anthropic=context.anthropic),
        )

    def _give_back(self, context: RequestContext) -> None:
        self.admission.dropped(context)
        dropped = self.flights.drop(context.id)  # with its grant
        if not dropped and context.grant is not None:
            context.grant.release()

    # -- ends, and what replicas report

    def complete(self, report: Report) -> None:
        """The data plane saw a request end."""
        self.flights.complete(report)

    def lives(self, id: str, *, owner: str) -> None:  # noqa: A002 - the request's id
        """The data plane still serves a request that picker ``owner`` decided."""
        self.flights.lives(id, owner=owner)

    def may_be_evicted(self, context: RequestContext) -> bool:
        """A begun request may be ended for others until its answer begins: `evictable` and `began`
        follow when it is decided."""
        return self.admission.may_be_evicted(context)

    def evictable(
        self, context: RequestContext, decision: Decision, answer: Callable[[Answer], None]
    ) -> None:
        """A decided request can be ended by ``answer``, which the client gets, until `began`."""

        def evict(rejection: Rejection) -> None:
            row = rejection.row
            headers = (*rejection.headers(), *context.response_headers, context.id_header)
            answer(Answer(row.status, headers, rejection.body(anthropic=context.anthropic)))
            took_s = self.now() - context.head.received_s
            where = decision.addresses[0]
            self.complete(Report(decision.id, self.id, where, row.status, Ending.EVICTED, took_s))

        self.admission.evictable(context, evict)

    def began(self, context: RequestContext) -> None:
        """The answer to a request has begun, or it has ended. Harmless when it was said before."""
        self.admission.answered(context)

    def attend(self, decision: Decision) -> None:
        """The caller follows the request to its end, and reports that whatever happens."""
        self.flights.attend(decision.id)

    def abandon(self, decision: Decision) -> None:
        """A decision never reached the data plane: what it took is given back."""
        self.flights.abandon(decision.id)

    def refused_by_proxy(self, event: Rejected) -> None:
        """The data plane itself turned a request away that no picker decided."""
        self.flights.undecided.refused(event)

    def handed_over(self, event: Answered | Rejected) -> None:
        """Another process of this gateway has answered a request that was handed over."""
        if isinstance(event, Answered):
            self._observer.answered(event)
        else:
            self._observer.rejected(event)

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        """Signals of a scrape that began at ``started_s``; see `ScrapeSink`."""
        known = self.pools.apply_signals(
            pool, address, signals, began_s=started_s, now_s=self.now()
        )
        if known and signals.first_tokens is not None:
            self.flights.engine_told(pool, address, signals.first_tokens, at_s=started_s)
        if known and signals.running_requests == 0 and signals.waiting_requests == 0:
            self.flights.engine_idle(pool, address, since_s=started_s)
        if known:
            self.admission.reported(pool, address)

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        """What an endpoint lists under /v1/models; see `ScrapeSink`."""
        self.pools.apply_models(pool, address, models)

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        """What could not be read of an endpoint; see `ScrapeSink`."""
        self.pools.apply_lack(pool, address, lack, reason, began_s=started_s, now_s=self.now())

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        """Reading an endpoint failed for good; see `ScrapeSink`."""
        self.pools.mark_failed(pool, address, now_s=self.now(), reason=reason)
