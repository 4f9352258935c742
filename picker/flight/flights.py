"""Every request of this picker that has not ended, and what others have sent where."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from msgspec.structs import replace

from picker.decisions.ring import Decisions
from picker.flight.aftermath import SUSPECT_S, Aftermath
from picker.flight.charge import charged, judged
from picker.flight.entry import TRANSITIONS, Act, Entry, Event, State
from picker.flight.expiry import Leases
from picker.flight.foreign import ForeignLoads
from picker.flight.judge import Judge
from picker.flight.ledger import Ledger
from picker.flight.leg import legs_of
from picker.flight.lessons import Lessons
from picker.flight.quiet import Quiet
from picker.flight.recount import Recount
from picker.flight.undecided import Undecided
from picker.request.context import RequestContext
from picker.request.report import Ending, Report
from picker.seams.engine_counts import EngineCounts
from picker.seams.limiter import Limiter
from picker.seams.observer import Observer, Rejected, orphaned
from picker.seams.own_tokens import OwnTokens
from picker.seams.peers import Finding, Loads, Peers, Sent
from picker.seams.watch import Watch
from picker.state.learned import Learned
from picker.state.pools import Pools
from policies.limits.prices import Usage

_MAX_LATE: Final = 100_000
_IDLE_GRACE_S: Final = 5.0
"""A request that was sent so long before a scrape, or longer, has reached its engine."""


class Flights:
    """Requests from their dispatch to their end, whoever decided them and whoever reports it."""

    def __init__(
        self,
        picker_id: str,
        pools: Pools,
        ledger: Ledger,
        *,
        decisions: Decisions,
        learned: Learned,
        observer: Observer,
        limiter: Limiter,
        peers: Peers,
        watch: Watch,
        engine_counts: EngineCounts,
        own_tokens: OwnTokens,
        now: Callable[[], float],
        on_freed: Callable[[Entry, Report, Usage | None], None] = lambda entry, report, usage: None,
    ) -> None:
        """``on_freed`` is called when an endpoint has worked off a request, or lost it, and when it
        is known what that has cost, which may be later."""
        self.ledger = ledger
        self._on_freed = on_freed
        self.foreign = ForeignLoads(pools.states)
        self._id = picker_id
        self._pools = pools
        self._decisions = decisions
        self._learned = learned
        self._observer, self._limiter = observer, limiter
        self._peers, self._watch = peers, watch
        self._now = now
        self._judge = Judge(pools, peers=peers, watch=watch, now=now)
        self._lessons = Lessons(pools, learned, self._judge, own_tokens, now)
        self._entries: dict[str, Entry] = {}
        self._late: OrderedDict[str, Entry] = OrderedDict()
        self.undecided = Undecided(observer, decisions, now)
        self._quiet = Quiet()
        self._leases = Leases()
        self._recount = Recount(engine_counts)
        self._aftermath = Aftermath()
        self._live: frozenset[str] = frozenset()
        self._gone: dict[str, float] = {}
        """Pickers that have died while they had requests in flight, and when."""

    def __len__(self) -> int:
        """Requests that this picker has sent and not seen the end of."""
        return len(self._entries)

    # -- dispatched

    def open(self, context: RequestContext, lease_s: float) -> None:
        """This picker sends a decided request; others are informed. Without a reported end it is
        given up after ``lease_s``. Whatever is raised here, `drop` gives back what was taken."""
        now_s = self._now()
        entry = Entry.of(context, tuple(legs_of(context)), now_s, lease_s)
        self._entries[entry.id] = entry
        self._leases.add(entry)
        prompt = context.prompt
        if entry.grant is not None and entry.counted_tokens is None and prompt is not None:
            self._recount.keep(entry.id, entry.pool, prompt)
        chains = context.blocks.chains if context.blocks is not None else ()
        for leg in entry.legs:
            self.ledger.open(leg, now_s)
            sent = Sent(leg.pool, leg.address, chains, context.adapter, context.session)
            added = self._pools.sent(sent, now_s, context.tokens)
            if leg is entry.answering:
                entry.added = added
            self._peers.sent(sent)
            self._watch.touch(leg.pool, leg.address)
        self._judge.sent(entry)
        entry.record = self._decisions.sent(
            context, entry.labels, now_s, entry.decision_s, streaming=entry.streaming
        )
        self._peers.loads_changed()

    def catch_up(self, id: str) -> None:  # noqa: A002 - the request's id
        """A request is decided or answered, and its end may have been reported before."""
        if (early := self.undecided.over(id)) is not None:
            self._end(early)

    def drop(self, id: str) -> bool:  # noqa: A002 - the request's id
        """Deciding failed half-way: give back what the request took. False: it was not opened."""
        entry = self._entries.get(id)
        if entry is not None:
            self._happen(entry, Event.DROPPED)
            if entry.record is not None:
                entry.record.dropped = True
        return entry is not None

    def abandon(self, id: str) -> None:  # noqa: A002 - the request's id
        """A decision never reached the data plane, because the client had left."""
        self.complete(Report(id, self._id, "", 0, Ending.CLIENT_ABORTED, 0.0))

    def attend(self, id: str) -> None:  # noqa: A002 - the request's id
        """This picker follows the request to its end itself, and needs no sign of life of it."""
        self._entries[id].attended = True

    def lives(self, id: str, *, owner: str) -> None:  # noqa: A002 - the request's id
        """The data plane still serves a request: its end was not reported to anybody."""
        if owner == self._id:
            self.peer_lives((id,))
        else:
            self._peers.lives(id, owner)

    # -- ended

    def complete(self, report: Report) -> None:
        """The data plane saw a request end. Reports may come twice, late, or for a request that
        another picker decided."""
        if report.owner == self._id:
            self._end(report)
            return
        self._peers.ended(report)
        matters = bool(report.ticket) or report.labels is not None
        if matters and self._aftermath.report_of_another(report, self._now()):
            self._settle_orphan(report)
        self._less_left_behind(report)

    def engine_told(self, pool: str, address: str, first_tokens: float, *, at_s: float) -> None:
        """An endpoint's engine had produced so many first tokens at ``at_s``."""
        self.ledger.engine_told(pool, address, first_tokens, at_s)

    def engine_idle(self, pool: str, address: str, *, since_s: float) -> None:
        """An endpoint's engine had nothing to do at ``since_s``."""
        reached_s = since_s - _IDLE_GRACE_S
        for leg in self.ledger.opened_until(pool, address, reached_s):
            entry = self._entries[leg.id]
            if leg is entry.answering:
                if not entry.waits_for_prefill:
                    self._happen(entry, Event.ENGINE_IDLE)
            else:
                self.ledger.close(leg)
                entry.answering.started_s = since_s  # only now it has work for that endpoint
        if self._live:
            just_died = {peer for peer, at_s in self._gone.items() if at_s > reached_s}
            self.foreign.forget_at(self._live | just_died, pool, address)

    def under_way(self, pool: str, address: str) -> int:
        """Requests that an endpoint may still serve: those in flight, those of which its engine
        knows nothing while their end is not reported, and those of pickers that have died."""
        quiet = self._quiet.count(pool, address)
        left_behind = self.foreign.left_behind(self._live, pool, address) if self._live else 0
        return self.ledger.in_flight(pool, address) + quiet + left_behind

    def tick(self) -> None:
        """Close what the data plane never reported; call a few times a second."""
        now_s = self._now()
        self.ledger.settle_prefills(now_s)
        for entry in self._leases.expired(now_s):
            self._happen(entry, Event.EXPIRED)
        for suspect, too_late in self._aftermath.suspects(self._entries.keys(), now_s):
            entry = self._entries[suspect]
            if entry.state is State.QUIET and (too_late or not self._quiet.has_lived(entry)):
                self._happen(entry, Event.EXPIRED)
            elif too_late:
                self._happen(entry, Event.DOUBTED)
        for entry in self._quiet.doubtful(now_s):
            self._happen(entry, Event.DOUBTED)
        self._settle_orphans()
        self.undecided.tick()
        for peer in [peer for peer, at_s in self._gone.items() if at_s + SUSPECT_S <= now_s]:
            del self._gone[peer]
            self.foreign.forget(peer)
        if self.ledger.changed:
            self._peers.loads_changed()

    def proxy_restarted(self) -> None:
        """The data plane was started anew: nothing that was in flight will be reported."""
        for entry in (*self._entries.values(), *self._late.values()):
            self._happen(entry, Event.PROXY_RESTARTED)
        self.undecided.close()
        for peer in self.foreign.pickers() - self._live:
            self.foreign.forget(peer)

    # -- other pickers

    def pickers_live(self, ids: Iterable[str]) -> None:
        """Ids of all pickers that run, as far as the supervisor knows; call after every change of
        endpoints and pools too."""
        self.foreign.sweep()
        self.ledger.sweep()
        self._live, now_s = frozenset(ids), self._now()
        self._aftermath.pickers_live(self._live, now_s)
        self._settle_orphans()
        gone = self.foreign.pickers() - self._live if self._live else ()
        self._gone = {peer: self._gone.get(peer, now_s) for peer in gone}

    def picker_died(self) -> None:
        """Another picker has died: what an idle engine has done counts as ended soon."""
        lost = {entry.id for entry in self._entries.values() if not entry.attended}
        self._aftermath.picker_died(lost, self._now())
        self._settle_orphans()

    def loads(self, *, everything: bool = False) -> Iterable[Loads]:
        """See `PeerSink`."""
        return self.ledger.loads(everything=everything)

    def peer_sent(self, requests: Iterable[Sent]) -> None:
        """See `PeerSink`."""
        now_s = self._now()
        for sent in requests:
            self._pools.sent(sent, now_s)

    def findings(self, *, everything: bool = False) -> Iterable[Finding]:
        """See `PeerSink`."""
        return self._pools.findings(self._now(), everything=everything)

    def peer_took_back(self, requests: Iterable[Sent]) -> None:
        """See `PeerSink`."""
        for sent in requests:
            self._pools.take_back(sent)

    def peer_found(self, findings: Iterable[Finding]) -> None:
        """See `PeerSink`."""
        for finding in findings:
            self._pools.found(finding)

    def peer_loads(self, picker: str, loads: Loads) -> None:
        """See `PeerSink`."""
        for address in self.foreign.report(picker, loads):
            self._watch.touch(loads.pool, address)

    def peer_ended(self, report: Report) -> None:
        """See `PeerSink`."""
        if report.owner == self._id:
            self._end(report)
        else:
            self._less_left_behind(report)

    def peer_lives(self, ids: Iterable[str]) -> None:
        """See `PeerSink`."""
        now_s = self._now()
        for id_ in ids:
            self._quiet.lives(id_, now_s)
            self._aftermath.lives(id_)

    # -- inside

    def _settle_orphans(self) -> None:
        for report in self._aftermath.orphans(self._now()):
            self._settle_orphan(report)

    def _settle_orphan(self, report: Report) -> None:
        """Its picker is dead: nobody else can settle it, or has it in a log."""
        if report.ticket:
            self._limiter.settle_orphan(report)
        if report.labels is None:
            return
        if report.code:
            self.undecided.refused(
                Rejected(report.labels, report.status, report.code, report.duration_s)
            )
        else:
            self._observer.completed(orphaned(report, report.labels))

    def _less_left_behind(self, report: Report) -> None:
        """A request of a picker that has died has ended."""
        if self._live and report.owner not in self._live:
            self.foreign.one_less(report.owner, report.address)

    def _end(self, report: Report) -> None:
        entry = self._entries.get(report.id) or self._late.get(report.id)
        if entry is None:
            self.undecided.reported(report)
            return
        if self._is_guess(entry, report) and self._recount.count(
            entry.id,
            report.address,
            entry.served_model,
            lambda tokens: self._counted(entry, report, tokens),
        ):
            return
        self._happen(entry, Event.REPORTED, report)

    def _is_guess(self, entry: Entry, report: Report) -> bool:
        """What would be charged for the prompt is an estimate."""
        if report.input_tokens is not None or not entry.text_bytes:
            return False
        began = not self._pools.has_waiting(entry.pool, report.address)
        usage = charged(report, entry.expected, 0, began=began)
        return usage is not None and usage.input_tokens > 0

    def _counted(self, entry: Entry, report: Report, tokens: int | None) -> None:
        if tokens is not None:
            tenant, model = entry.labels.tenant, entry.served_model
            input_tokens = round(self._learned.counted.tokens(tenant, model, tokens))
            report = replace(report, input_tokens=input_tokens, input_counted=True)
        self._happen(entry, Event.REPORTED, report)

    async def counted(self) -> None:
        """Return when no prompt of an ended request is being counted any more."""
        await self._recount.finished()

    def _happen(self, entry: Entry, event: Event, report: Report | None = None) -> None:
        before = entry.state
        entry.state, acts = TRANSITIONS[before, event]
        if entry.state is State.LATE and entry.grant is None:
            entry.state = State.ENDED  # no limits wait for its end
        if entry.state is not before:
            self._move(entry, before)
        if report is None:
            report = self._unreported(entry)
        reason = judged(report.reason, entry.expected)
        if reason is not report.reason:
            report = replace(report, reason=reason)
        usage: Usage | None = None
        for act in acts:
            match act:
                case Act.SETTLE:
                    usage = self._settle(entry, report)
                    if before is State.LATE and entry.record is not None:
                        entry.record.end(report, usage)
                case Act.LEARN:
                    self._lessons.learn(entry, report, usage, was_counted=before is State.SERVING)
                case Act.UNCOUNT:
                    self._uncount(entry, report)
                case Act.RELEASE if entry.grant is not None:
                    entry.grant.release()
                case Act.LAPSE if entry.grant is not None:
                    entry.grant.lapse()
                case Act.OBSERVE:
                    if entry.record is not None:
                        entry.record.end(report, usage)
                    self._observer.completed(entry.completed(report, usage))
        if Act.UNCOUNT in acts or Act.SETTLE in acts:
            self._on_freed(entry, report, usage)

    def _move(self, entry: Entry, before: State) -> None:
        """Into the collection of its new state."""
        if before is State.LATE:
            self._late.pop(entry.id, None)
            return
        if before is State.QUIET:
            self._quiet.remove(entry)
        if entry.state is State.QUIET:
            self._quiet.add(entry, self._now())
            return
        del self._entries[entry.id]
        self._recount.drop(entry.id)
        self._leases.remove(entry)
        if entry.state is State.LATE:
            self._late[entry.id] = entry
            if len(self._late) > _MAX_LATE:
                self._late.popitem(last=False)

    def _unreported(self, entry: Entry) -> Report:
        where, took_s = entry.answering.address, self._now() - entry.started_s
        return Report(entry.id, self._id, where, 0, Ending.UNREPORTED, took_s)

    def _settle(self, entry: Entry, report: Report) -> Usage | None:
        """What the request is charged; its reservation ends."""
        streamed = self._learned.chunks.tokens(
            entry.labels.tenant, entry.served_model, report.streamed_events
        )
        began = not self._pools.has_waiting(entry.pool, report.address)
        usage = charged(report, entry.expected, streamed, possible=entry.possible, began=began)
        if entry.background and report.status == 200 and not report.usage_reported:
            usage = entry.expected  # who left, or got a mere receipt, has it made all the same
        if entry.grant is not None:
            if usage is None:
                entry.grant.release()
            else:
                entry.grant.settle(usage)
        return usage

    def _uncount(self, entry: Entry, report: Report) -> None:
        reported = report.reason is not Ending.UNREPORTED
        # The first byte of an answer in one piece comes after its last token.
        shows_prefill = entry.streaming or (report.output_tokens or 0) <= 1
        for leg in entry.legs:
            ttft_s = None
            timed = report.status == 200 and shows_prefill and leg is entry.legs[0]
            if timed and report.ttft_s is not None:
                ttft_s = max(0.0, report.ttft_s - entry.waited_s)
            self.ledger.close(leg, ttft_s=ttft_s, now_s=self._now() if reported else None)
        self._peers.loads_changed()
