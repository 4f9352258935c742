"""Requests under way: from their dispatch to their end, whoever decided them and whoever tells."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from picker.flight.charge import charged, is_metered
from picker.flight.dispatch import Dispatch
from picker.flight.ledger import InFlight, Ledger
from picker.request.report import Report
from picker.seams.limiter import Limiter, Unlimited
from picker.seams.observer import Observer
from picker.seams.peers import Alone, PeerDispatch, Peers
from picker.seams.watch import Unwatched, Watch
from picker.state.pool import PoolRuntime
from policies.limits.estimate import OutputQuantile
from policies.limits.prices import Usage
from policies.routing.types import Observation
from policies.tokens import ChunkRatio, TokenRatio

_MAX_EARLY_ENDS: Final = 10_000
_MAX_ORPHANS: Final = 100_000
_MAX_LATE: Final = 100_000
_SUSPECT_S: Final = 300.0
_ORPHAN_GRACE_S: Final = 2.0
"""A picker that is alive settles its own requests; one that is not is known to be gone by then."""


class Traffic:
    """Every request of this picker that has not ended, and what others have sent where."""

    def __init__(
        self,
        picker_id: str,
        pools: Mapping[str, PoolRuntime],
        ledger: Ledger,
        *,
        ratio: TokenRatio,
        counted: TokenRatio,
        output: OutputQuantile,
        observer: Observer,
        now: Callable[[], float],
    ) -> None:
        self.peers: Peers = Alone()
        self.watch: Watch = Unwatched()
        self.limiter: Limiter = Unlimited()
        self.lease_s = 3600.0
        self.live_pickers: frozenset[str] = frozenset()
        """Ids of all pickers that run, as far as the supervisor knows; empty: it has not told."""
        self._id = picker_id
        self._pools = pools
        self._ledger = ledger
        self._ratio = ratio
        self._counted = counted
        self._output = output
        self._chunks = ChunkRatio()
        self._observer = observer
        self._now = now
        self._dispatches: dict[str, Dispatch] = {}
        self._generated: dict[str, InFlight] = {}
        """Of these, off the ledger because their engine is idle: its work is done, but a slow
        client may still be reading."""
        self._early_ends: OrderedDict[str, None] = OrderedDict()
        """Requests of others whose end was told here before their dispatch was."""
        self._orphans: deque[tuple[float, Report]] = deque(maxlen=_MAX_ORPHANS)
        """Ends of others' requests with something to settle, in case their picker is gone."""
        self._suspects: deque[tuple[float, set[str]]] = deque()
        """When a picker died, and what was under way then and has not ended."""
        self._late: OrderedDict[str, Dispatch] = OrderedDict()
        """Requests given up on, to be settled if their end is told after all."""

    def __len__(self) -> int:
        """Requests that this picker has sent and not seen the end of."""
        return len(self._dispatches)

    def picker_crashed(self) -> None:
        """Another picker has died: ends that the data plane was telling it are lost. Which these
        are nobody knows: what an idle engine has done counts as ended soon, and nothing holds its
        limits for longer than `_SUSPECT_S`."""
        self._suspects.append((self._now(), set(self._dispatches)))

    # -- dispatched

    def open(self, entry: InFlight, sent: Dispatch, told: PeerDispatch) -> None:
        """This picker sends a request; others hear of it."""
        self._note(sent.pool, entry, told)
        self._dispatches[entry.id] = sent
        self.peers.dispatched(told)
        self.watch.touch(entry.pool, entry.address)

    def drop(self, id: str) -> None:  # noqa: A002 - the request's id
        """Deciding failed half-way."""
        self._dispatches.pop(id, None)
        self._ledger.close(id)

    def peer_dispatched(self, sent: PeerDispatch) -> None:
        """Another picker sent a request somewhere."""
        runtime = self._pools.get(sent.pool)
        if runtime is None or sent.address not in runtime.state.slot_of:
            return  # our endpoints are not up to date yet, or theirs are not
        if sent.id in self._ledger:
            return
        now_s = self._now()
        entry = self._ledger.open(
            sent.id,
            pool=sent.pool,
            address=sent.address,
            prompt_tokens=sent.prompt_tokens,
            uncached_tokens=sent.uncached_tokens,
            output_tokens=sent.output_tokens,
            now_s=now_s,
            lease_s=self.lease_s,
        )
        self._note(runtime, entry, sent)
        if sent.id in self._early_ends:
            del self._early_ends[sent.id]
            self._ledger.close(sent.id, now_s=now_s)

    def _note(self, pool: PoolRuntime, entry: InFlight, sent: PeerDispatch) -> None:
        """What a request does to the endpoint it is sent to."""
        pool.prefix.insert(entry.slot, sent.chains)
        if sent.adapter:
            pool.state.expect_adapter(entry.address, sent.adapter)
        if sent.session:
            pool.sessions.bind(sent.session, entry.address, entry.started_s)

    # -- ended

    def complete(self, report: Report) -> None:
        """The data plane saw a request end. Reports may come twice, late, or for a request that
        another picker decided."""
        ours = report.owner == self._id
        if self._end(report) or not ours:
            self.peers.finished(report)
        if not ours and report.ticket:
            self._orphans.append((self._now(), report))

    def peer_finished(self, report: Report) -> None:
        """Another picker learned that a request has ended, perhaps one of ours."""
        self._end(report)

    def engine_idle(self, pool: str, address: str, *, since_s: float) -> None:
        """An endpoint's engine had nothing to do at ``since_s``."""
        for entry in self._ledger.reconcile(pool, address, idle_since_s=since_s):
            sent = self._dispatches.get(entry.id)
            if sent is not None:
                self._generated[entry.id] = entry
                self._lapse(sent)

    def under_way(self, pool: str, address: str) -> int:
        """Requests that an endpoint may still serve: those in flight, and those of which its
        engine knows nothing while nobody has told their end. Drained when 0."""
        quiet = sum(
            entry.pool == pool and entry.address == address for entry in self._generated.values()
        )
        return self._ledger.in_flight(pool, address) + quiet

    def tick(self) -> None:
        """Close what the data plane never reported; call a few times a second."""
        now_s = self._now()
        self._ledger.settle_prefills(now_s)
        unread = [entry for entry in self._generated.values() if entry.lease_until_s <= now_s]
        self._forget((*self._ledger.expire(now_s), *unread), for_good=False)
        self._suspect(now_s)
        while self._orphans and self._orphans[0][0] <= now_s - _ORPHAN_GRACE_S:
            _, report = self._orphans.popleft()
            if self.live_pickers and report.owner not in self.live_pickers:
                self.limiter.settle_orphan(report)

    def _suspect(self, now_s: float) -> None:
        for died_s, suspects in self._suspects:
            if died_s + _ORPHAN_GRACE_S > now_s:
                break
            suspects &= self._dispatches.keys()
            done = [self._generated[id_] for id_ in suspects & self._generated.keys()]
            self._forget(done, for_good=False)
        while self._suspects and self._suspects[0][0] + _SUSPECT_S <= now_s:
            for suspect in self._suspects.popleft()[1] & self._dispatches.keys():
                self._lapse(self._dispatches[suspect])

    def forget_all(self) -> None:
        """The data plane was started anew: nothing that was in flight will be reported."""
        self._forget((*self._ledger.close_all(), *self._generated.values()), for_good=True)

    def _end(self, report: Report) -> bool:
        now_s = self._now()
        sent = self._dispatches.pop(report.id, None)
        self._generated.pop(report.id, None)
        if sent is not None:
            self._finish(sent, report, now_s)
            return True
        late = self._late.pop(report.id, None)
        if late is not None:
            self._settle(late, report)
            return True
        if self._ledger.close(report.id, now_s=now_s) is not None:
            return True
        if report.owner != self._id:
            self._early_ends[report.id] = None
            if len(self._early_ends) > _MAX_EARLY_ENDS:
                self._early_ends.popitem(last=False)
        return False

    def _forget(self, entries: Iterable[InFlight], *, for_good: bool) -> None:
        """The ledger has closed entries without a report. ``for_good``: none can come any more."""
        for entry in entries:
            sent = self._dispatches.pop(entry.id, None)
            self._generated.pop(entry.id, None)
            if sent is None:
                continue
            report = Report(
                id=entry.id,
                owner=self._id,
                address=entry.address,
                status=0,
                reason="unreported",
                input_tokens=None,
                output_tokens=None,
                cached_tokens=None,
                streamed_events=0,
                ttft_s=None,
                duration_s=self._now() - entry.started_s,
            )
            usage = None
            if for_good:
                usage = self._settle(sent, report)
            elif sent.grant is not None:
                self._lapse(sent)
                self._late[entry.id] = sent
                if len(self._late) > _MAX_LATE:
                    self._late.popitem(last=False)
            self._observer.completed(sent.completed(report, usage))

    def _lapse(self, sent: Dispatch) -> None:
        """Nobody may ever tell its end: its limits are not to wait for that."""
        if sent.grant is not None:
            sent.grant.lapse()

    def _settle(self, sent: Dispatch, report: Report) -> Usage | None:
        """What the request is charged; its reservation ends."""
        streamed = self._chunks.tokens(sent.served_model, report.streamed_events)
        usage = charged(report, sent.expected, streamed, possible=sent.possible)
        if sent.grant is not None:
            if usage is None:
                sent.grant.release()
            else:
                sent.grant.settle(usage)
        return usage

    def _finish(self, sent: Dispatch, report: Report, now_s: float) -> None:
        usage = self._settle(sent, report)  # first: whatever fails below, accounts are right
        pool, used = sent.pool, report.address
        ok = report.status == 200
        entry = self._ledger.close(report.id, ttft_s=report.ttft_s if ok else None, now_s=now_s)
        if used and used != sent.address:
            self._moved(sent, used, now_s)
        if report.upstream_failed and used:
            pool.state.mark_failed(used, now_s, "the data plane could not reach it")
            self.watch.poke(pool.name, used)
        completed = sent.completed(report, usage)
        if ok and usage is not None and is_metered(sent.expected):
            self._learn(sent, report, usage)
        slot = pool.state.slot_of.get(used)
        if entry is not None and slot is not None:
            pool.settings.policy.observe(
                Observation(
                    slot=slot,
                    features=sent.features,
                    prompt_tokens=completed.input_tokens,
                    cached_tokens=report.cached_tokens,
                    output_tokens=completed.output_tokens,
                    ttft_s=report.ttft_s,
                    duration_s=report.duration_s,
                    ok=ok,
                ),
                now_s,
            )
        self._observer.completed(completed)

    def _learn(self, sent: Dispatch, report: Report, usage: Usage) -> None:
        """From what the engine told of a good answer."""
        model = sent.served_model
        if report.input_tokens and sent.text_bytes:
            self._ratio.observe(model, sent.text_bytes, usage.input_tokens)
            if sent.counted_tokens is not None:
                self._counted.observe(model, sent.counted_tokens, usage.input_tokens)
        if report.reason == "ok" and report.output_tokens is not None:
            self._output.observe(sent.labels.tenant, model, usage.output_tokens)
            self._chunks.observe(
                model, report.streamed_events, usage.output_tokens, usage.reasoning_tokens
            )

    def _moved(self, sent: Dispatch, used: str, now_s: float) -> None:
        """A fallback served: what we believed of the first choice is true of another."""
        pool = sent.pool
        self.watch.poke(pool.name, sent.address)
        slot = pool.state.slot_of.get(used)
        if slot is not None:
            pool.prefix.insert(slot, [list(chain) for chain in sent.chains])
        if sent.session:
            pool.sessions.bind(sent.session, used, now_s)
