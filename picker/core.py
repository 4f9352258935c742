"""The picker: live state, the pipeline over it, and what happens when a request ends."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import orjson

from picker import names
from picker.flight.dispatch import Dispatch
from picker.flight.ledger import Ledger
from picker.flight.traffic import Traffic
from picker.pipeline.authorize import authorize
from picker.pipeline.closed import refuse_closed
from picker.pipeline.estimate import Estimate
from picker.pipeline.mutate import mutate
from picker.pipeline.parse import parse
from picker.pipeline.reserve import Reserve
from picker.pipeline.resolve import Resolve
from picker.pipeline.schedule import Schedule, session_token
from picker.prompt.counting import Counting
from picker.prompt.forms import form_of
from picker.request.answer import Answer, Decision
from picker.request.context import RequestContext
from picker.request.head import RequestHead
from picker.request.rejection import Reason, Rejection
from picker.request.report import Report
from picker.seams.gate import Gate, OpenGate
from picker.seams.observer import Observer, Rejected
from picker.seams.peers import PeerDispatch
from picker.settings import PickerSettings
from picker.state.cache.approximate import PrefixIndex
from picker.state.catalog import Catalog
from picker.state.endpoints import (
    EndpointChanges,
    EndpointSpec,
    PoolState,
    Signals,
    changes_between,
)
from picker.state.models import ServedModel
from picker.state.pool import PoolRuntime
from picker.state.sessions import Sessions
from policies.limits.estimate import OutputQuantile
from policies.tokens import TokenRatio

log = logging.getLogger(__name__)

_MAX_SESSIONS: Final = 100_000
_MAX_LOGGED_CHARS: Final = 256
_SESSION_TTL_S: Final = 3600.0


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
        self._counted = TokenRatio(1.0, least=0.1, most=4.0)
        self.catalog = Catalog(self.pools, rng)
        self.output = OutputQuantile()
        self.traffic = Traffic(
            id,
            self.pools,
            self.ledger,
            ratio=self.ratio,
            counted=self._counted,
            output=self.output,
            observer=observer,
            now=now,
        )
        self.gate: Gate = OpenGate()
        self.counting: Counting | None = None
        self.draining = False
        self._observer = observer
        self._rng = rng
        self._settings = PickerSettings(())
        self._count = 0
        self._resolve = Resolve(self.catalog)
        self._estimate = Estimate(self.catalog, self.ratio, self._counted, 0.0)
        self._reserve = Reserve(self.catalog, self.output)
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
        self._estimate = Estimate(
            self.catalog, self.ratio, self._counted, settings.default_output_tokens
        )
        self.traffic.lease_s = settings.lease_s
        bound = settings.output_bound
        self.output.configure(
            share=bound.share,
            min_tokens=bound.min_tokens,
            max_tokens=bound.max_tokens,
            prior_tokens=bound.prior_tokens,
        )

    def apply_endpoints(self, changes: EndpointChanges) -> None:
        """Endpoints of one of our pools come, change and go."""
        runtime = self.pools[changes.pool]
        for slot in runtime.state.apply(changes).removed.values():
            # What it still serves stays in flight until the data plane reports its end.
            runtime.prefix.clear_slot(slot)

    def sync_endpoints(self, pool: str, specs: Iterable[EndpointSpec]) -> None:
        """Make the pool's endpoints be these."""
        self.apply_endpoints(changes_between(pool, self.pools[pool].state.specs, specs))

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
            self.traffic.engine_idle(pool, address, since_s=began_s)

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

    # -- deciding

    def next_id(self) -> str:
        """An id for one request, unique over all pickers."""
        self._count += 1
        return f"{self.id}-{self._count}"

    def begin(self, head: RequestHead) -> RequestContext | Answer:
        """A request's headers: who sent it, and whether it is worth reading its body."""
        context = RequestContext(self.next_id(), head, b"", form_of(head.path))
        try:
            self._refuse_draining()
            refuse_closed(context)
            context.caller = self.gate.identify(head)
        except Rejection as rejection:
            context.caller = rejection.caller or context.caller
            return self._reject(context, rejection)
        except Exception:
            log.exception("request %s: the picker failed", context.request_id)
            return self._reject(context, _failure())
        return context

    async def decide(self, context: RequestContext, body: bytes) -> Decision | Answer:
        """A begun request with its whole body to a decision, or to the picker's own answer; never
        raises for bad input."""
        context.body = body
        try:
            await self._run(context)
            if context.answer is not None:
                return context.answer
            return self.place(context)
        except Rejection as rejection:
            return self._reject(context, rejection)
        except Exception:
            log.exception("request %s: the picker failed", context.request_id)
            return self._reject(context, _failure())
        except BaseException:  # the client has left while its limits were looked at
            self._give_back(context)
            raise

    def refuse_size(self, context: RequestContext) -> Answer:
        """The answer to a body over the limit."""
        limit = self._settings.max_body_bytes
        refusal = Rejection(Reason.TOO_LARGE, f"The request body is over {limit} bytes.")
        return self._reject(context, refusal)

    def abandon(self, decision: Decision) -> None:
        """A decision that never reached the data plane: give back what it took."""
        self.traffic.complete(
            Report(
                id=decision.id,
                owner=self.id,
                address="",
                status=0,
                reason="client_aborted",
                input_tokens=None,
                output_tokens=None,
                cached_tokens=None,
                streamed_events=0,
                ttft_s=None,
                duration_s=0.0,
            )
        )

    async def _run(self, context: RequestContext) -> None:
        if len(context.body) > self._settings.max_body_bytes:
            limit = self._settings.max_body_bytes
            raise Rejection(Reason.TOO_LARGE, f"The request body is over {limit} bytes.")
        parse(context)
        if context.fields is not None and context.fields.model:
            context.asked_model = context.fields.model[:_MAX_LOGGED_CHARS]
        authorize(context)
        self._resolve(context)
        if context.answer is not None:
            return
        if self.counting is not None and context.prompt is not None:
            context.counted_tokens = await self.counting.tokens(
                context.served_model, context.prompt
            )
        self._estimate(context)
        await self._reserve(context, self.traffic.limiter)

    def place(self, context: RequestContext) -> Decision:
        """A request whose pool, model and prompt are known to a decision, which counts as sent.
        A simulator comes in here. Raises Rejection."""
        now_s = self.now()
        self.ledger.settle_prefills(now_s)
        self._schedule(context, now_s)
        mutate(context)
        return self._dispatch(context)

    def _dispatch(self, context: RequestContext) -> Decision:
        pool = context.pool
        assert pool is not None
        now_s = self.now()
        entry = self.ledger.open(
            context.id,
            pool=pool.name,
            address=context.addresses[0],
            prompt_tokens=context.prompt_tokens,
            uncached_tokens=context.prompt_tokens - context.matched_tokens,
            output_tokens=context.output_tokens,
            now_s=now_s,
            lease_s=self._settings.lease_s,
        )
        told = PeerDispatch(
            id=entry.id,
            pool=entry.pool,
            address=entry.address,
            prompt_tokens=entry.prompt_tokens,
            uncached_tokens=entry.uncached_tokens,
            output_tokens=entry.output_tokens,
            chains=context.blocks.chains if context.blocks is not None else (),
            adapter=context.adapter,
            session=context.session,
        )
        sent = Dispatch.of(context, pool, now_s - context.head.received_s)
        self.traffic.open(entry, sent, told)
        return self._decision(context, pool)

    def _decision(self, context: RequestContext, pool: PoolRuntime) -> Decision:
        metadata: dict[str, object] = {"id": context.id, "picker": self.id}
        rename = None
        if context.strip_usage:
            metadata["strip_usage"] = True
        if context.grant is not None:
            metadata["ticket"] = context.grant.ticket
        if context.response_headers:
            metadata["response_headers"] = dict(context.response_headers)
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
            remove_headers=tuple(
                name
                for name in (*names.CLIENT_MAY_NOT_SET, *context.caller.credentials)
                if name in headers
            ),
            body=context.changed_body,
            rename=rename,
            strip_usage=context.strip_usage,
            wants_session_token=wants_token,
            metadata=metadata,
            scores=scores,
            response_headers=context.response_headers,
        )

    def _refuse_draining(self) -> None:
        if self.draining:
            raise Rejection(Reason.SHUTTING_DOWN, "This gateway is shutting down.")

    def _reject(self, context: RequestContext, rejection: Rejection) -> Answer:
        """The answer to a request that goes no further; what it took is given back."""
        self._give_back(context)
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
            (*rejection.headers(), *context.response_headers),
            rejection.body(anthropic=context.anthropic),
        )

    def _give_back(self, context: RequestContext) -> None:
        self.traffic.drop(context.id)
        if context.grant is not None:
            context.grant.release()
            context.grant = None

    # -- ends of requests

    def complete(self, report: Report) -> None:
        """The data plane saw a request end."""
        self.traffic.complete(report)

    def refused_by_proxy(self, event: Rejected) -> None:
        """The data plane itself turned a request away that no picker decided."""
        self._observer.rejected(event)

    def snapshot(self) -> Mapping[str, Mapping[str, str | None]]:
        """By pool and address: why an endpoint takes no requests, None when it does."""
        now_s = self.now()
        return {
            name: {a: pool.state.why_not(a, now_s) for a in pool.state.slot_of}
            for name, pool in self.pools.items()
        }


def _failure() -> Rejection:
    return Rejection(Reason.INTERNAL, "The endpoint picker failed on this request.")
