"""The picker: live state, the pipeline over it, and what happens when a request ends."""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import orjson

from picker import names
from picker.catalog import Catalog
from picker.completion import Report
from picker.decision import Answer, Decision, RequestHead
from picker.dispatch import Dispatch
from picker.events import Observer, Rejected
from picker.peers import Alone, PeerDispatch, Peers
from picker.pipeline.closed import refuse_closed
from picker.pipeline.context import RequestContext
from picker.pipeline.estimate import Estimate
from picker.pipeline.mutate import mutate
from picker.pipeline.parse import parse
from picker.pipeline.rejection import Reason, Rejection
from picker.pipeline.resolve import Resolve
from picker.pipeline.schedule import Schedule, session_token
from picker.pool import PoolRuntime
from picker.prompt.forms import form_of
from picker.settings import PickerSettings
from picker.state.endpoints import EndpointSpec, PoolState, ServedModel, Signals
from picker.state.ledger import InFlight, Ledger
from picker.state.prefix import PrefixIndex
from picker.state.sessions import Sessions
from picker.watch import Unwatched, Watch
from policies.routing.types import Observation
from policies.tokens import TokenRatio

log = logging.getLogger(__name__)

_MAX_SESSIONS: Final = 100_000
_SESSION_TTL_S: Final = 3600.0
_MAX_EARLY_ENDS: Final = 10_000


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
        self._dispatches: dict[str, Dispatch] = {}
        self._generated: dict[str, InFlight] = {}
        """Of these, off the ledger because their engine is idle: its work is done, but a slow
        client may still be reading."""
        self._early_ends: OrderedDict[str, None] = OrderedDict()
        """Requests of others whose end was told here before their dispatch was."""
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
                # What it still serves stays in flight until the data plane reports its end.
                runtime.prefix.clear_slot(slot)
        runtime.state.sync(wanted)

    def apply_signals(
        self, pool: str, address: str, signals: Signals, *, began_s: float, now_s: float
    ) -> None:
        """Signals of a scrape that began at ``began_s``."""
        runtime = self.pools.get(pool)
        if runtime is None or address not in runtime.state.slot_of:
            return
        runtime.state.apply_signals(address, signals, now_s, began_s=began_s)
        slot = runtime.state.slot_of[address]
        capacity_tokens = float(runtime.state.view.kv_capacity_tokens[slot])
        model = next(iter(runtime.state.models.known()), "")
        runtime.prefix.set_capacity(slot, capacity_tokens * self.ratio.bytes_per_token(model))
        if signals.running_requests == 0 and signals.waiting_requests == 0:
            for entry in self.ledger.reconcile(pool, address, idle_since_s=began_s):
                if entry.id in self._dispatches:
                    self._generated[entry.id] = entry

    def apply_models(self, pool: str, address: str, models: list[ServedModel]) -> None:
        """What an endpoint lists under /v1/models."""
        runtime = self.pools.get(pool)
        if runtime is not None:
            runtime.state.apply_models(address, models)

    def mark_failed(self, pool: str, address: str, *, now_s: float, reason: str) -> None:
        """Reading an endpoint failed for good: what comes back there will have an empty cache."""
        runtime = self.pools.get(pool)
        if runtime is not None:
            runtime.state.mark_failed(address, now_s, reason)
            slot = runtime.state.slot_of.get(address)
            if slot is not None:
                runtime.prefix.clear_slot(slot)

    @property
    def ready(self) -> bool:
        """Some endpoint can take requests, and the picker is not draining."""
        now_s = self.now()
        known = (pool.state.candidates(now_s).size > 0 for pool in self.pools.values())
        return not self.draining and any(known)

    @property
    def max_body_bytes(self) -> int:
        """Longest request body taken."""
        return self._settings.max_body_bytes

    @property
    def in_flight(self) -> int:
        """Requests that this picker has sent and not seen the end of."""
        return len(self._dispatches)

    # -- deciding

    def next_id(self) -> str:
        """An id for one request, unique over all pickers."""
        self._count += 1
        return f"{self.id}-{self._count}"

    async def decide(
        self,
        head: RequestHead,
        body: bytes,
        id: str | None = None,  # noqa: A002 - the request's id
    ) -> Decision | Answer:
        """One request to a decision, or to the picker's own answer; never raises for bad input.
        ``id`` comes from ``next_id`` where the data plane had to know it before."""
        context = self._context(head, body, id)
        try:
            self._run(context)
            if context.answer is not None:
                return context.answer
            return self._dispatch(context)
        except Rejection as rejection:
            return self._reject(context, rejection)
        except Exception:
            log.exception("request %s: the picker failed", context.request_id)
            self._dispatches.pop(context.id, None)
            self.ledger.close(context.id)
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

    def _context(self, head: RequestHead, body: bytes, id: str | None = None) -> RequestContext:  # noqa: A002
        return RequestContext(id or self.next_id(), head, body, form_of(head.path))

    def _run(self, context: RequestContext) -> None:
        if self.draining:
            raise Rejection(Reason.SHUTTING_DOWN, "This gateway is shutting down.")
        if len(context.body) > self._settings.max_body_bytes:
            limit = self._settings.max_body_bytes
            raise Rejection(Reason.TOO_LARGE, f"The request body is over {limit} bytes.")
        refuse_closed(context)
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
        chains = context.blocks.chains if context.blocks is not None else ()
        self._note(pool, entry, chains, context.adapter, context.session, now_s)
        self._dispatches[context.id] = Dispatch.of(context, pool, now_s - context.head.received_s)
        self.peers.dispatched(
            PeerDispatch(
                id=entry.id,
                pool=entry.pool,
                address=address,
                prompt_tokens=entry.prompt_tokens,
                uncached_tokens=entry.uncached_tokens,
                output_tokens=entry.output_tokens,
                chains=chains,
                adapter=context.adapter,
                session=context.session,
            )
        )
        self.watch.touch(pool.name, address)
        return self._decision(context, pool)

    def _note(
        self,
        pool: PoolRuntime,
        entry: InFlight,
        chains: Iterable[list[int]],
        adapter: str,
        session: str,
        now_s: float,
    ) -> None:
        """What a request does to the endpoint it is sent to."""
        pool.prefix.insert(entry.slot, chains)
        if adapter:
            pool.state.expect_adapter(entry.address, adapter)
        if session:
            pool.sessions.bind(session, entry.address, now_s)

    def _decision(self, context: RequestContext, pool: PoolRuntime) -> Decision:
        metadata: dict[str, object] = {"id": context.id, "picker": self.id}
        rename = None
        if context.strip_usage:
            metadata["strip_usage"] = True
        if context.model_changed and context.asked_model:
            rename = (context.served_model, context.asked_model)
            for key, name in zip(("served_model", "asked_model"), rename, strict=True):
                metadata[key] = orjson.dumps(name).decode()  # as it stands in the response
        headers = context.head.headers
        wants_token = names.SESSION_ID in headers or names.SESSION_TOKEN in headers
        if wants_token:
            metadata["session_token"] = session_token(context.addresses[0])
        scores = None
        if self._settings.report_scores and context.ranking is not None:
            values = context.ranking.scores.tolist()
            scores = dict(zip(context.addresses, values, strict=True))
        return Decision(
            id=context.id,
            pool=pool.name,
            addresses=context.addresses,
            set_headers=tuple(context.set_headers),
            remove_headers=tuple(name for name in names.CLIENT_MAY_NOT_SET if name in headers),
            body=context.changed_body,
            rename=rename,
            strip_usage=context.strip_usage,
            wants_session_token=wants_token,
            metadata=metadata,
            scores=scores,
        )

    def _reject(self, context: RequestContext, rejection: Rejection) -> Answer:
        self._observer.rejected(
            Rejected(
                labels=context.labels(),
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

    # -- ends of requests

    def complete(self, report: Report) -> None:
        """The data plane saw a request end. Reports may come twice, late, or for a request that
        another picker decided."""
        if self._end(report) or report.owner != self.id:
            self.peers.finished(report)

    def refused_by_proxy(self, event: Rejected) -> None:
        """The data plane itself turned a request away that no picker decided."""
        self._observer.rejected(event)

    def peer_dispatched(self, sent: PeerDispatch) -> None:
        """Another picker sent a request somewhere."""
        runtime = self.pools.get(sent.pool)
        if runtime is None or sent.address not in runtime.state.slot_of:
            return  # our endpoints are not up to date yet, or theirs are not
        if sent.id in self.ledger:
            return
        now_s = self.now()
        entry = self.ledger.open(
            sent.id,
            pool=sent.pool,
            address=sent.address,
            prompt_tokens=sent.prompt_tokens,
            uncached_tokens=sent.uncached_tokens,
            output_tokens=sent.output_tokens,
            now_s=now_s,
            lease_s=self._settings.lease_s,
        )
        self._note(runtime, entry, sent.chains, sent.adapter, sent.session, now_s)
        if sent.id in self._early_ends:
            del self._early_ends[sent.id]
            self.ledger.close(sent.id, now_s=now_s)

    def peer_finished(self, report: Report) -> None:
        """Another picker learned that a request has ended, perhaps one of ours."""
        self._end(report)

    def _end(self, report: Report) -> bool:
        now_s = self.now()
        sent = self._dispatches.pop(report.id, None)
        self._generated.pop(report.id, None)
        if sent is not None:
            self._finish(sent, report, now_s)
            return True
        if self.ledger.close(report.id, now_s=now_s) is not None:
            return True
        if report.owner != self.id:
            self._early_ends[report.id] = None
            if len(self._early_ends) > _MAX_EARLY_ENDS:
                self._early_ends.popitem(last=False)
        return False

    def under_way(self, pool: str, address: str) -> int:
        """Requests that an endpoint may still serve: those in flight, and those of which its
        engine knows nothing while nobody has told their end. Drained when 0."""
        quiet = sum(
            entry.pool == pool and entry.address == address for entry in self._generated.values()
        )
        return self.ledger.in_flight(pool, address) + quiet

    def tick(self) -> None:
        """Close what the data plane never reported; call about once a second."""
        now_s = self.now()
        self.ledger.settle_prefills(now_s)
        unread = [entry for entry in self._generated.values() if entry.lease_until_s <= now_s]
        for entry in (*self.ledger.expire(now_s), *unread):
            self._forget(entry)

    def forget_all(self) -> None:
        """The data plane was started anew: nothing that was in flight will be reported."""
        for entry in (*self.ledger.close_all(), *self._generated.values()):
            self._forget(entry)

    def _forget(self, entry: InFlight) -> None:
        """The ledger has closed an entry without a report."""
        sent = self._dispatches.pop(entry.id, None)
        self._generated.pop(entry.id, None)
        if sent is None:
            return
        report = Report(
            id=entry.id,
            owner=self.id,
            address=entry.address,
            status=0,
            reason="unreported",
            input_tokens=None,
            output_tokens=None,
            cached_tokens=None,
            streamed_events=0,
            ttft_s=None,
            duration_s=self.now() - entry.started_s,
        )
        self._observer.completed(sent.completed(report))

    def _finish(self, sent: Dispatch, report: Report, now_s: float) -> None:
        pool, used = sent.pool, report.address
        ok = report.status == 200
        entry = self.ledger.close(report.id, ttft_s=report.ttft_s if ok else None, now_s=now_s)
        if used and used != sent.address:
            self._moved(sent, used, now_s)
        if report.upstream_failed and used:
            pool.state.mark_failed(used, now_s, "the data plane could not reach it")
            self.watch.poke(pool.name, used)
        if ok and report.input_tokens and sent.text_bytes:
            self.ratio.observe(sent.served_model, sent.text_bytes, report.input_tokens)
        completed = sent.completed(report)
        slot = pool.state.slot_of.get(used)
        if entry is not None and slot is not None:
            uncached_tokens = entry.uncached_tokens  # as believed, where the engine does not tell
            if report.cached_tokens is not None:
                uncached_tokens = max(0.0, completed.input_tokens - report.cached_tokens)
            pool.settings.policy.observe(
                Observation(
                    slot=slot,
                    prompt_tokens=completed.input_tokens,
                    uncached_tokens=uncached_tokens,
                    output_tokens=completed.output_tokens,
                    backlog_tokens=entry.backlog_tokens,
                    ttft_s=report.ttft_s,
                    duration_s=report.duration_s,
                    ok=ok,
                ),
                now_s,
            )
        self._observer.completed(completed)

    def _moved(self, sent: Dispatch, used: str, now_s: float) -> None:
        """A fallback served: what we believed of the first choice is true of another."""
        pool = sent.pool
        self.watch.poke(pool.name, sent.address)
        slot = pool.state.slot_of.get(used)
        if slot is not None:
            pool.prefix.insert(slot, [list(chain) for chain in sent.chains])
        if sent.session:
            pool.sessions.bind(sent.session, used, now_s)

    def snapshot(self) -> Mapping[str, Mapping[str, str | None]]:
        """By pool and address: why an endpoint takes no requests, None when it does."""
        now_s = self.now()
        return {
            name: {a: pool.state.why_not(a, now_s) for a in pool.state.slot_of}
            for name, pool in self.pools.items()
        }
