"""The table of a request under way, and that every end gives back exactly what was taken."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.flight.aftermath import GRACE_S, SUSPECT_S
from picker.flight.entry import TRANSITIONS, Act, Event, State
from picker.flight.quiet import DOUBT_S
from picker.request.answer import Decision
from picker.request.caller import Caller
from picker.request.grant import Grant
from picker.request.role import Role
from policies.limits.plan import Subject
from policies.limits.prices import Usage
from policies.limits.types import Standing
from policies.limits.verdict import Denied
from tests.picker.fleet import IDLE, ask, chat, end_of, fleet, load


def test_from_any_state_any_event_leads_to_a_defined_one() -> None:
    assert set(TRANSITIONS) == set(itertools.product(State, Event))


def test_what_has_ended_stays_so_and_does_nothing_more() -> None:
    assert {TRANSITIONS[State.ENDED, event] for event in Event} == {(State.ENDED, ())}


@pytest.mark.parametrize(("before", "event"), TRANSITIONS)
def test_acts_fit_their_transition(before: State, event: Event) -> None:
    after, acts = TRANSITIONS[before, event]
    assert len(set(acts)) == len(acts)
    counted = before is State.SERVING
    assert (Act.UNCOUNT in acts) == (counted and after is not State.SERVING)
    observed = before in (State.SERVING, State.QUIET) and after in (State.LATE, State.ENDED)
    assert (Act.OBSERVE in acts) == (observed and event is not Event.DROPPED)
    assert not {Act.SETTLE, Act.RELEASE} <= set(acts)
    if after is State.ENDED and before in (State.SERVING, State.QUIET):
        assert Act.SETTLE in acts or Act.RELEASE in acts


@dataclass
class Books:
    """A limiter whose grants know how often each was ended."""

    ended: dict[str, list[str]] = field(default_factory=dict)
    lapsed: set[str] = field(default_factory=set)

    async def reserve(
        self,
        id: str,  # noqa: A002
        caller: Caller,
        subject: Subject,
        expected: Usage,
        *,
        guessed: bool,
    ) -> Grant | Denied | None:
        self.ended[id] = []
        return Page(self, id, expected)

    async def spent(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        least: Usage,
    ) -> Denied | None:
        """See `picker.seams.limiter.Limiter`."""
        return None

    def settle_orphan(self, report: object) -> None:
        raise AssertionError(f"no orphan is expected here: {report}")


@dataclass
class Page:
    books: Books
    id: str
    expected: Usage
    standings: tuple[Standing, ...] = ()
    ticket: str = ""

    def settle(self, usage: Usage) -> None:
        self.books.ended[self.id].append("settled")

    def release(self) -> None:
        self.books.ended[self.id].append("released")

    def lapse(self) -> None:
        self.books.lapsed.add(self.id)


HAPPENINGS = st.lists(
    st.sampled_from(
        [
            "ask",
            "ask",
            "ask",
            "report",
            "report twice",
            "abandon",
            "drop",
            "idle",
            "busy",
            "sign",
            "silence",
            "lease",
            "picker died",
            "grace",
            "suspects",
            "proxy restarted",
            "endpoints leave",
            "endpoints return",
        ]
    ),
    max_size=30,
)


@given(HAPPENINGS, st.booleans(), st.booleans())
async def test_every_end_gives_back_exactly_what_was_taken(
    happenings: list[str], report_all: bool, disaggregated: bool
) -> None:
    books = Books()
    made = fleet([IDLE, IDLE], limiter=books)
    made.configure(lease_s=2_000.0)
    if disaggregated:
        made.disaggregate({1: Role.BOTH, 2: Role.DECODE})
    flights = made.picker.flights
    sent: list[Decision] = []
    dropped: set[str] = set()
    for happening in happenings:
        made.clock.now_s += 0.25
        match happening:
            case "ask":
                outcome = await ask(made, chat())
                if isinstance(outcome, Decision):
                    sent.append(outcome)
            case "report" | "report twice" if sent:
                for _ in range(1 + (happening == "report twice")):
                    made.picker.complete(end_of(sent[0]))
            case "abandon" if sent:
                made.picker.abandon(sent[-1])
            case "drop" if sent:
                if flights.drop(sent[-1].id):
                    dropped.add(sent[-1].id)
            case "idle" | "busy":
                made.clock.now_s += 6.0
                for number in (1, 2):
                    made.report(number, IDLE if happening == "idle" else load(3, 0.5))
            case "sign" if sent:
                made.picker.lives(sent[0].id, owner="p0")
            case "silence":
                made.clock.now_s += DOUBT_S
                flights.tick()
            case "lease":
                made.clock.now_s += 2_001.0
                flights.tick()
                made.report(1)
                made.report(2)
            case "picker died":
                flights.picker_died()
            case "grace" | "suspects":
                made.clock.now_s += GRACE_S if happening == "grace" else SUSPECT_S
                flights.tick()
                made.report(1, load(3, 0.5))
            case "proxy restarted":
                flights.proxy_restarted()
                assert made.is_settled
            case "endpoints leave":
                made.sync([])
            case "endpoints return":
                made.sync([1, 2])
                made.report(1)
                made.report(2)
    for decision in sent if report_all else ():
        made.picker.complete(end_of(decision))
    if not report_all:
        made.clock.now_s += 2_001.0
        flights.tick()
    assert made.is_settled
    assert not flights._leases.expired(1e12), "a lease outlives its request"
    assert not flights._quiet.doubtful(1e12), "a request is watched after its end"
    assert len(made.seen.completions) == len(sent) - len(dropped)
    assert len({done.labels.request_id for done in made.seen.completions}) == len(
        made.seen.completions
    )
    for decision in sent:
        ends = books.ended[decision.id]
        assert len(ends) <= 1
        assert ends or decision.id in books.lapsed
        if report_all and "proxy restarted" not in happenings:
            assert ends, "a report that comes late is settled all the same"
        if decision.id in dropped:
            assert ends == ["released"]
