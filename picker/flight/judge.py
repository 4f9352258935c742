"""What the end of a request says about the replicas that it was tried at, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from picker.flight.attempts import attempts, blames_request
from picker.flight.entry import Entry
from picker.request.attempt import FAULTS, UNREACHED, Attempt, Outcome
from picker.request.report import Ending, LastTry, Report
from picker.seams.peers import Peers, Sent
from picker.seams.watch import Watch
from picker.state.pool import PoolRuntime
from picker.state.pools import Pools

_SAYS_NOTHING: Final = frozenset({Ending.UNREPORTED})


class Judge:
    """Circuit breakers, sessions and the cache index learn from every try of a request."""

    def __init__(
        self, pools: Pools, *, peers: Peers, watch: Watch, now: Callable[[], float]
    ) -> None:
        self._pools = pools
        self._peers, self._watch = peers, watch
        self._now = now

    def sent(self, entry: Entry) -> None:
        """The request goes to its first choice."""
        pool = self._pools.get(entry.pool)
        slot = pool.state.slot_of.get(entry.choices[0]) if pool is not None else None
        if pool is not None and slot is not None and pool.breakers:
            pool.breakers.sent(slot, entry.served_model, entry.started_s)

    def judge(self, entry: Entry, report: Report) -> None:
        """The request has ended."""
        pool = self._pools.get(entry.pool)
        if pool is None or report.reason in _SAYS_NOTHING:
            return
        if _is_served_at_once(report, entry):
            slot = pool.state.slot_of.get(report.address) if pool.breakers else None
            if slot is not None:
                pool.breakers.succeeded(slot, entry.served_model, entry.started_s, self._now())
            return
        tries = attempts(report, entry.choices, names_model=entry.names_model)
        is_served = bool(tries) and tries[-1].outcome is Outcome.SERVED
        for one in tries:
            if one.outcome is Outcome.NO_MODEL:
                self._deny(pool, entry, one, is_served=is_served)
            else:
                doubtful = one.outcome is Outcome.DOUBTFUL or blames_request(tries)
                self._learn(pool, entry, one, certain=not doubtful)
        served = report.address
        if served and served != entry.choices[0]:
            self._watch.poke(entry.pool, entry.choices[0])
            if is_served:
                # What we believed of the first choice is true of another.
                sent = Sent(entry.pool, served, entry.chains, session=entry.session)
                self._pools.sent(sent, self._now())
        first = next((one for one in tries if one.address == entry.choices[0]), None)
        if first is not None and (first.outcome in FAULTS or report.status >= 400):
            self._take_back(entry, first, began=report.streamed_events > 0)

    def _learn(self, pool: PoolRuntime, entry: Entry, one: Attempt, *, certain: bool) -> None:
        slot, now_s = pool.state.slot_of.get(one.address), self._now()
        if slot is None:
            return
        breakers, model, sent_s = pool.breakers, entry.served_model, entry.started_s
        match one.outcome:
            case Outcome.SERVED:
                breakers.succeeded(slot, model, sent_s, now_s)
            case Outcome.UNKNOWN | Outcome.REFUSED:  # reading it tells when it is back
                breakers.unknown(slot, model, sent_s)
            case Outcome.ABANDONED:
                breakers.silent(slot, model, sent_s, now_s, one.said)
            case _:
                breakers.failed(slot, model, sent_s, now_s, one.said, certain=certain)
        if one.outcome in FAULTS:
            self._peers.loads_changed()  # with what was found of the breaker
        if one.outcome in UNREACHED:
            pool.state.doubt(one.address, now_s, "the data plane could not reach it")
            self._watch.poke(pool.name, one.address)

    def _deny(self, pool: PoolRuntime, entry: Entry, one: Attempt, *, is_served: bool) -> None:
        """The replica does not know the model. That is sure only when another one does: a path that
        no replica has looks the same."""
        slot, model = pool.state.slot_of.get(one.address), entry.served_model
        if slot is None:
            return
        self._watch.doubt_models(pool.name, one.address)
        if is_served:
            pool.state.models.doubt(slot, model)
            self._learn(pool, entry, one, certain=True)
        else:
            pool.breakers.unknown(slot, model, entry.started_s)

    def _take_back(self, entry: Entry, first: Attempt, *, began: bool) -> None:
        """The first choice has not served it: neither is its prompt cached there, nor is there a
        reason for its session to stay."""
        at_fault = first.outcome in FAULTS
        sent = Sent(
            entry.pool,
            first.address,
            () if began else entry.chains,
            session=entry.session if at_fault else "",
            added=() if began else entry.added,
        )
        if sent.session or any(sent.added):
            self._pools.take_back(sent)
            self._peers.taken_back(sent)


def _is_served_at_once(report: Report, entry: Entry) -> bool:
    """By its first choice, as nearly all are: `attempts` would say the same."""
    return (
        report.status == 200
        and report.reason is Ending.OK
        and report.address == entry.choices[0]
        and not report.tries
        and not report.upstream_failed
        and report.last_try is LastTry.ANSWERED
    )
