"""The picker: live state, the pipeline over it, and what happens when a request ends."""

from __future__ import annotations

import base64
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from picker import names
from picker.catalog import Catalog
from picker.completion import Report
from picker.decision import Answer, Decision, RequestHead
from picker.events import Completed, Observer, Rejected, RequestLabels
from picker.pipeline.context import RequestContext
from picker.pipeline.estimate import Estimate
from picker.pipeline.mutate import mutate
from picker.pipeline.parse import parse
from picker.pipeline.rejection import Reason, Rejection
from picker.pipeline.resolve import Resolve
from picker.pipeline.schedule import Schedule, session_id
from picker.pool import PoolRuntime
from picker.prompt.forms import form_of
from picker.settings import PickerSettings
from picker.state.endpoints import EndpointSpec, PoolState, ServedModel, Signals
from picker.state.ledger import InFlight, Ledger
from picker.state.prefix import PrefixIndex
from picker.state.sessions import Sessions
from policies.routing.types import Observation
from policies.tokens import TokenRatio

log = logging.getLogger(__name__)

_MAX_SESSIONS = 100_000
_SESSION_TTL_S = 3600.0


class Peers(Protocol):
    """Tells other pickers what this one did, so that all know the same."""

    def dispatched(self, entry: InFlight, chains: Iterable[list[int]]) -> None: ...

    def finished(self, report: Report) -> None: ...


class Watch(Protocol):
    """Whoever reads the endpoints' signals."""

    def touch(self, pool: str, address: str) -> None:
        """A request was sent there: read it more often."""

    def poke(self, pool: str, address: str) -> None:
        """Something is wrong there: read it now."""


class Unwatched:
    """Nobody reads signals."""

    def touch(self, pool: str, address: str) -> None:
        return

    def poke(self, pool: str, address: str) -> None:
        return


@dataclass(frozen=True, slots=True)
class PeerDispatch:
    """A request that another picker sent."""

    id: str
    pool: str
    address: str
    prompt_tokens: float
    uncached_tokens: float
    output_tokens: float
    chains: tuple[list[int], ...]


class Alone:
    """No other pickers."""

    def dispatched(self, entry: InFlight, chains: Iterable[list[int]]) -> None:
        return

    def finished(self, report: Report) -> None:
        return


@dataclass(slots=True)
class _Dispatch:
    """What this picker keeps of a request it sent, until it ends."""

    context: RequestContext
    decision_s: float


class Picker:
    """Decides where requests go. Single-threaded; ``now`` is a monotonic clock in seconds."""

    def __init__(
        self,
        id: str,  # noqa: A002 - the picker's id
        *,
        observer: Observer,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.id = id
        self.now = now
        self.pools: dict[str, PoolRuntime] = {}
        self.states: dict[str, PoolState] = {}
        self.ledger = Ledger(self.states)
        self.ratio = TokenRatio()
        self.catalog = Catalog(self.pools, rng)
        self.peers: Peers = Alone()
        self.draining = False
        self.watch: Watch = Unwatched()
        self._observer = observer
        self._rng = rng
        self._settings = PickerSettings(())
        self._dispatches: dict[str, _Dispatch] = {}
        self._count = 0
        self._resolve = Resolve(self.catalog)
        self._estimate = Estimate(self.catalog, self.ratio, 0.0)
        self._schedule = Schedule(self.ratio, rng)

    # -- configuration and endpoints

    def configure(self, settings: PickerSettings) -> None:
        """Take over new settings; pools that stay keep their state."""
        for pool in settings.pools:
            runtime = self.pools.get(pool.name)
            if runtime is None:
                state = PoolState(pool.name, stale_after_s=settings.stale_after_s)
                self.states[pool.name] = state
                sessions = Sessions(max_sessions=_MAX_SESSIONS, ttl_s=_SESSION_TTL_S)
                self.pools[pool.name] = PoolRuntime(pool, state, PrefixIndex(), sessions)
            else:
                runtime.settings = pool
                runtime.state.stale_after_s = settings.stale_after_s
        kept = {pool.name for pool in settings.pools}
        for name in [name for name in self.pools if name not in kept]:
            self.sync_endpoints(name, ())
            del self.pools[name], self.states[name]
        self._settings = settings
        self.catalog.configure(settings)
        self._estimate = Estimate(self.catalog, self.ratio, settings.default_output_tokens)

    def sync_endpoints(self, pool: str, specs: Iterable[EndpointSpec]) -> None:
        """Make the pool's endpoints be these."""
        runtime = self.pools[pool]
        wanted = list(specs)
        addresses = {spec.address for spec in wanted}
        for address, slot in list(runtime.state.slot_of.items()):
            if address not in addresses:
                for entry in self.ledger.close_endpoint(pool, address):
                    self._forget(entry, "upstream_error")
                runtime.prefix.clear_slot(slot)
        runtime.state.sync(wanted)

    def apply_signals(
        self, pool: str, address: str, signals: Signals, *, began_s: float, now_s: float
    ) -> None:
        """Signals of a scrape that began at ``began_s``."""
        runtime = self.pools.get(pool)
        if runtime is None or address not in runtime.state.slot_of:
            return
        runtime.state.apply_signals(address, signals, now_s)
        slot = runtime.state.slot_of[address]
        capacity_tokens = float(runtime.state.view.kv_capacity_tokens[slot])
        model = next(iter(runtime.state.models.known()), "")
        runtime.prefix.set_capacity(slot, capacity_tokens * self.ratio.bytes_per_token(model))
        if signals.running_requests == 0 and signals.waiting_requests == 0:
            for entry in self.ledger.reconcile(pool, address, idle_since_s=began_s):
                self._forget(entry, "lease_expired")

    def apply_models(self, pool: str, address: str, models: list[ServedModel]) -> None:
        """What an endpoint lists under /v1/models."""
        runtime = self.pools.get(pool)
        if runtime is not None:
            runtime.state.apply_models(address, models)

    def mark_failed(self, pool: str, address: str, *, now_s: float, reason: str) -> None:
        """An endpoint could not be reached."""
        runtime = self.pools.get(pool)
        if runtime is not None:
            runtime.state.mark_failed(address, now_s, reason)

    @property
    def ready(self) -> bool:
        """Some endpoint can take requests, and the picker is not draining."""
        now_s = self.now()
        known = (pool.state.candidates(now_s).size > 0 for pool in self.pools.values())
        return not self.draining and any(known)

    @property
    def max_body_bytes(self) -> int:
        return self._settings.max_body_bytes

    # -- deciding

    async def decide(self, head: RequestHead, body: bytes) -> Decision | Answer:
        """One request to a decision, or to the picker's own answer; never raises for bad input."""
        context = self._context(head, body)
        try:
            self._run(context)
            if context.answer is not None:
                return context.answer
            return self._dispatch(context)
        except Rejection as rejection:
            return self._reject(context, rejection)
        except Exception:
            log.exception("request %s: the picker failed", context.request_id)
            failure = Rejection(Reason.INTERNAL, "The endpoint picker failed on this request.")
            return self._reject(context, failure)

    def refuse_size(self, head: RequestHead) -> Answer:
        """The answer to a body over the limit."""
        limit = self._settings.max_body_bytes
        refusal = Rejection(Reason.TOO_LARGE, f"The request body is over {limit} bytes.")
        return self._reject(self._context(head, b""), refusal)

    def abandon(self, decision: Decision) -> None:
        """A decision that never reached the data plane: give back what it took."""
        self.complete(
            Report(
                id=decision.id,
                owner=self.id,
                address="",
                status=0,
                reason="client_aborted",
                input_tokens=0,
                output_tokens=0,
                cached_tokens=0,
                streamed_events=0,
                ttft_s=None,
                duration_s=0.0,
            )
        )

    def _context(self, head: RequestHead, body: bytes) -> RequestContext:
        self._count += 1
        return RequestContext(f"{self.id}-{self._count}", head, body, form_of(head.path))

    def _run(self, context: RequestContext) -> None:
        if self.draining:
            raise Rejection(Reason.SHUTTING_DOWN, "This gateway is shutting down.")
        if len(context.body) > self._settings.max_body_bytes:
            limit = self._settings.max_body_bytes
            raise Rejection(Reason.TOO_LARGE, f"The request body is over {limit} bytes.")
        parse(context)
        self._resolve(context)
        if context.answer is not None:
            return
        self._estimate(context)
        now_s = self.now()
        self.ledger.settle_prefills(now_s)
        self._schedule(context, now_s)
        mutate(context)

    def _dispatch(self, context: RequestContext) -> Decision:
        pool = context.pool
        assert pool is not None
        now_s = self.now()
        address = context.addresses[0]
        entry = self.ledger.open(
            context.id,
            pool=pool.name,
            address=address,
            prompt_tokens=context.prompt_tokens,
            uncached_tokens=context.prompt_tokens - context.matched_tokens,
            output_tokens=context.output_tokens,
            now_s=now_s,
            lease_s=self._settings.lease_s,
        )
        chains: Iterable[list[int]] = ()
        if context.blocks is not None:
            chains = context.blocks.chains
            pool.prefix.insert(entry.slot, chains)
        if context.adapter:
            pool.state.expect_adapter(address, context.adapter)
        session = session_id(context)
        if session:
            pool.sessions.bind(session, address, now_s)
        self._dispatches[context.id] = _Dispatch(context, now_s - context.head.received_s)
        self.peers.dispatched(entry, chains)
        self.watch.touch(pool.name, address)
        return self._decision(context, pool)

    def _decision(self, context: RequestContext, pool: PoolRuntime) -> Decision:
        metadata: dict[str, object] = {"id": context.id, "picker": self.id}
        rename = None
        if context.strip_usage:
            metadata["strip_usage"] = True
        if context.served_model and context.asked_model not in ("", context.served_model):
            rename = (context.served_model, context.asked_model)
            metadata["served_model"], metadata["asked_model"] = rename
        headers = context.head.headers
        if names.SESSION_ID in headers or names.SESSION_TOKEN in headers:
            token = base64.b64encode(context.addresses[0].encode()).decode()
            metadata["session_token"] = token
        scores = None
        if self._settings.report_scores and context.ranking is not None:
            values = context.ranking.scores.tolist()
            scores = dict(zip(context.addresses, values, strict=True))
        return Decision(
            id=context.id,
            pool=pool.name,
            addresses=context.addresses,
            set_headers=tuple(context.set_headers),
            remove_headers=tuple(
                name for name in names.CLIENT_MAY_NOT_SET if name in context.head.headers
            ),
            body=context.changed_body,
            rename=rename,
            strip_usage=context.strip_usage,
            metadata=metadata,
            scores=scores,
        )

    def _reject(self, context: RequestContext, rejection: Rejection) -> Answer:
        self._observer.rejected(
            Rejected(
                labels=self._labels(context),
                status=rejection.verdict.status,
                reason=rejection.verdict.code,
                decision_s=self.now() - context.head.received_s,
            )
        )
        return Answer(
            rejection.verdict.status,
            tuple(rejection.headers()),
            rejection.body(anthropic=context.anthropic),
        )

    def _labels(self, context: RequestContext) -> RequestLabels:
        return RequestLabels(
            request_id=context.request_id,
            tenant=context.tenant,
            model=context.asked_model,
            pool=context.pool.name if context.pool is not None else "",
            path=context.head.path,
        )

    # -- ends of requests

    def complete(self, report: Report) -> None:
        """The data plane saw a request end. Reports may come twice, late, or for a request that
        another picker decided."""
        if self._end(report) or report.owner != self.id:
            self.peers.finished(report)

    def peer_dispatched(self, entry: PeerDispatch) -> None:
        """Another picker sent a request somewhere."""
        runtime = self.pools.get(entry.pool)
        if runtime is None or entry.address not in runtime.state.slot_of:
            return  # our endpoints are not up to date yet, or theirs are not
        if entry.id in self.ledger:
            return
        opened = self.ledger.open(
            entry.id,
            pool=entry.pool,
            address=entry.address,
            prompt_tokens=entry.prompt_tokens,
            uncached_tokens=entry.uncached_tokens,
            output_tokens=entry.output_tokens,
            now_s=self.now(),
            lease_s=self._settings.lease_s,
        )
        runtime.prefix.insert(opened.slot, entry.chains)

    def peer_finished(self, report: Report) -> None:
        """Another picker learned that a request has ended, perhaps one of ours."""
        self._end(report)

    def _end(self, report: Report) -> bool:
        now_s = self.now()
        dispatch = self._dispatches.pop(report.id, None)
        if dispatch is not None:
            self._finish(dispatch, report, now_s)
            return True
        return self.ledger.close(report.id, now_s=now_s) is not None

    def tick(self) -> None:
        """Close what the data plane never reported; call about once a second."""
        now_s = self.now()
        self.ledger.settle_prefills(now_s)
        for entry in self.ledger.expire(now_s):
            self._forget(entry, "lease_expired")

    def _forget(self, entry: InFlight, reason: str) -> None:
        """The ledger has closed an entry without a report."""
        dispatch = self._dispatches.pop(entry.id, None)
        if dispatch is None:
            return
        report = Report(
            id=entry.id,
            owner=self.id,
            address=entry.address,
            status=0,
            reason=reason,
            input_tokens=None,
            output_tokens=None,
            cached_tokens=None,
            streamed_events=0,
            ttft_s=None,
            duration_s=self.now() - entry.started_s,
        )
        self._observer.completed(self._completed(dispatch, report))

    def _finish(self, dispatch: _Dispatch, report: Report, now_s: float) -> None:
        context = dispatch.context
        pool = context.pool
        assert pool is not None
        ok = report.status == 200
        entry = self.ledger.close(report.id, ttft_s=report.ttft_s if ok else None, now_s=now_s)
        used = report.address
        if used and used != context.addresses[0]:
            self._moved(context, pool, used, now_s)
        if report.upstream_failed and used:
            pool.state.mark_failed(used, now_s, "the data plane could not reach it")
            self.watch.poke(pool.name, used)
        prompt = context.prompt
        if ok and report.input_tokens and prompt is not None:
            if prompt.token_ids == 0 and prompt.media_items == 0:
                self.ratio.observe(context.served_model, prompt.text_bytes, report.input_tokens)
        completed = self._completed(dispatch, report)
        slot = pool.state.slot_of.get(used)
        if entry is not None and slot is not None:
            cached = completed.cached_tokens if completed.usage_reported else entry.prompt_tokens
            pool.settings.policy.observe(
                Observation(
                    slot=slot,
                    prompt_tokens=completed.input_tokens,
                    uncached_tokens=max(0.0, completed.input_tokens - cached),
                    output_tokens=completed.output_tokens,
                    backlog_tokens=entry.backlog_tokens,
                    ttft_s=report.ttft_s,
                    duration_s=report.duration_s,
                    ok=ok,
                ),
                now_s,
            )
        self._observer.completed(completed)

    def _moved(self, context: RequestContext, pool: PoolRuntime, used: str, now_s: float) -> None:
        """A fallback served: what we believed of the first choice is true of another."""
        slot = pool.state.slot_of.get(used)
        if slot is not None and context.blocks is not None:
            pool.prefix.insert(slot, context.blocks.chains)
        session = session_id(context)
        if session:
            pool.sessions.bind(session, used, now_s)

    def _completed(self, dispatch: _Dispatch, report: Report) -> Completed:
        context = dispatch.context
        reported = report.output_tokens is not None or report.input_tokens is not None
        # Without usage: a failed request cost nothing we know of, an aborted stream what it sent.
        streamed = report.streamed_events
        input_tokens = report.input_tokens
        if input_tokens is None:
            input_tokens = round(context.prompt_tokens) if streamed else 0
        return Completed(
            labels=self._labels(context),
            endpoint=report.address,
            status=report.status,
            reason=report.reason,
            streaming=context.fields is not None and context.fields.stream,
            input_tokens=input_tokens,
            output_tokens=streamed if report.output_tokens is None else report.output_tokens,
            cached_tokens=report.cached_tokens or 0,
            usage_reported=reported,
            estimated_input_tokens=context.prompt_tokens,
            matched_tokens=context.matched_tokens,
            ttft_s=report.ttft_s,
            duration_s=report.duration_s,
            queue_s=0.0,
            decision_s=dispatch.decision_s,
        )

    def snapshot(self) -> Mapping[str, Mapping[str, str | None]]:
        """By pool and address: why an endpoint takes no requests, None when it does."""
        now_s = self.now()
        return {
            name: {a: pool.state.why_not(a, now_s) for a in pool.state.slot_of}
            for name, pool in self.pools.items()
        }
