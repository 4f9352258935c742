"""Requests under way where something goes wrong, and where two endpoints share one request."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from picker.flight.aftermath import SUSPECT_S
from picker.flight.prefill import PrefillSpeed
from picker.flight.quiet import DOUBT_S, SIGN_S
from picker.request.role import Role
from picker.seams.peers import Loads, endpoint_keys
from picker.settings import PickerSettings, PoolSettings
from policies import registry
from policies.limits.prices import Usage
from policies.routing.spec import PolicySpec
from policies.routing.types import (
    Observation,
    PoolView,
    Ranking,
    RoutingPolicy,
    RoutingRequest,
    Slots,
)
from tests.picker.accounts import Accounts, Held
from tests.picker.fleet import IDLE, POOL, Fleet, address, chat, decided, end_of, fleet, load


class Hearing(RoutingPolicy):
    """Takes the first candidates, and keeps or refuses what it is to learn."""

    seen: list[Observation]

    def __init__(self, *, fails: bool = False) -> None:
        self.seen, self._fails = [], fails

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        return Ranking(candidates[:count], np.zeros(min(count, candidates.size)))

    def observe(self, observation: Observation, now_s: float) -> None:
        if self._fails:
            raise ArithmeticError("cannot learn")
        self.seen.append(observation)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registry.register("policy", "hearing-for-tests")(Hearing)
    yield
    del registry._factories["policy", "hearing-for-tests"]


def split(*numbers: int) -> tuple[Fleet, tuple[Hearing, Hearing]]:
    """A fleet whose first replica prefills and whose others decode, with the policies of both."""
    made = fleet([IDLE] * (1 + len(numbers)))
    made.disaggregate(
        {1: Role.PREFILL} | dict.fromkeys(numbers, Role.DECODE),
        spec=PolicySpec("hearing-for-tests"),
    )
    return made, hearing(made)


def hearing(made: Fleet) -> tuple[Hearing, Hearing]:
    """The policies of both parts."""
    prefill, decode = (one.policy for one in made.picker.pools[POOL].profiles)
    assert isinstance(prefill, Hearing)
    assert isinstance(decode, Hearing)
    return prefill, decode


def counted(made: Fleet) -> list[float]:
    """Requests in flight of each replica, as policies see them."""
    state = made.picker.pools[POOL].state
    return [state.view.in_flight_requests.item(slot) for _, slot in sorted(state.slot_of.items())]


async def test_a_policy_that_cannot_learn_hides_no_end() -> None:
    accounts = Accounts()
    made = fleet(limiter=accounts)
    failing = PoolSettings(POOL, PolicySpec("hearing-for-tests", {"fails": True}))
    made.picker.configure(PickerSettings((failing,)))
    decision = await decided(made, chat())
    with pytest.raises(ArithmeticError):
        made.picker.complete(end_of(decision))
    assert made.is_settled
    assert len(made.seen.completions) == len(accounts.settled) == 1


async def test_accounts_that_fail_leave_nothing_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(grant: Held, usage: Usage) -> None:
        raise ArithmeticError("cannot settle")

    monkeypatch.setattr(Held, "settle", fail)
    made = fleet(limiter=Accounts())
    decision = await decided(made, chat())
    with pytest.raises(ArithmeticError):
        made.picker.complete(end_of(decision))
    assert made.is_settled
    made.clock.now_s += 10.0
    made.report(1)


async def test_a_replica_may_do_both_parts_of_a_request() -> None:
    made = fleet([IDLE])
    made.disaggregate({1: Role.BOTH})
    decision = await decided(made, chat())
    assert [pick.role for pick in decision.picks] == [Role.PREFILL, Role.DECODE]
    assert counted(made) == [2]
    made.picker.complete(end_of(decision))
    assert made.is_settled


async def test_a_prefill_replica_that_is_idle_has_done_its_part_only() -> None:
    made, _ = split(2)
    decision = await decided(made, chat())
    assert (decision.picks[0].addresses, decision.addresses) == ((address(1),), (address(2),))
    assert counted(made) == [1, 1]
    made.clock.now_s += 6.0
    made.report(1)
    assert counted(made) == [0, 1]
    assert (made.under_way(1), made.under_way(2)) == (0, 1)
    made.picker.complete(end_of(decision))
    assert made.is_settled
    assert [done.reason for done in made.seen.completions] == ["ok"]


async def test_a_decode_replica_may_be_idle_while_the_prompt_is_prefilled() -> None:
    made, _ = split(2)
    await decided(made, chat())
    made.clock.now_s += 60.0
    made.report(2)
    assert counted(made) == [1, 1], "it has nothing to do yet"
    made.report(1)
    made.clock.now_s += 1.0
    made.report(2)
    assert counted(made) == [0, 1], "the request may not have reached it yet"
    made.clock.now_s += 5.0
    made.report(2)
    assert counted(made) == [0, 0]
    assert made.under_way(2) == 1, "a slow client may still read"


async def test_each_policy_learns_of_the_endpoint_that_it_chose() -> None:
    made, (prefill, decode) = split(2, 3)
    decision = await decided(made, chat())
    made.picker.complete(end_of(decision, address=decision.addresses[1]))
    slot_of = made.picker.pools[POOL].state.slot_of
    assert [one.slot for one in prefill.seen] == [slot_of[address(1)]]
    assert [one.slot for one in decode.seen] == [slot_of[decision.addresses[1]]]


async def test_nothing_is_learned_of_a_slot_that_went_to_another_endpoint() -> None:
    made, _ = split(2)
    decision = await decided(made, chat())
    made.disaggregate({4: Role.PREFILL, 2: Role.DECODE}, spec=PolicySpec("hearing-for-tests"))
    prefill, decode = hearing(made)
    made.picker.complete(end_of(decision))
    assert not prefill.seen
    assert len(decode.seen) == 1


async def test_the_speed_of_prefills_is_learned_where_they_are_done() -> None:
    made, _ = split(2)
    decision = await decided(made, chat("words " * 4_000, stream=True))
    expected = PrefillSpeed()
    expected.observe(made.picker.flights._entries[decision.id].legs[0].uncached_tokens, 60.0)
    made.picker.complete(end_of(decision, ttft_s=60.0))
    assert made.picker.flights.ledger.speed(POOL).tokens_per_s == expected.tokens_per_s


async def test_an_answer_in_one_piece_says_nothing_of_its_prefill() -> None:
    """Its first byte comes after its last token."""
    made = fleet()
    for tokens in (500, None):
        decision = await decided(made, chat("words " * 4_000))
        made.picker.complete(end_of(decision, ttft_s=60.0, output_tokens=tokens))
        learned = made.picker.flights.ledger.speed(POOL).tokens_per_s
        assert (learned == PrefillSpeed().tokens_per_s) == (tokens == 500)


def one_request(number: int) -> Loads:
    return Loads(POOL, endpoint_keys([address(number)]), np.array([[1.0, 0.0, 100.0]]))


async def test_an_idle_engine_may_not_have_got_the_last_request_of_a_picker_that_died() -> None:
    made = fleet()
    made.picker.flights.pickers_live(["p0", "p1"])
    made.picker.flights.peer_loads("p1", one_request(1))
    made.picker.flights.pickers_live(["p0"])
    made.clock.now_s += 1.0
    made.report(1)
    assert made.under_way(1) == 1
    made.report(1, load(1, 0.1))
    made.clock.now_s += 5.0
    made.report(1)
    assert made.under_way(1) == 0
    made.picker.flights.peer_loads("p1", one_request(2))
    made.picker.flights.pickers_live(["p0"])
    made.clock.now_s += SUSPECT_S
    made.picker.flights.tick()
    assert made.under_way(2) == 0


async def test_envoy_started_anew_ends_what_dead_pickers_had_too() -> None:
    made = fleet()
    flights = made.picker.flights
    for peer in ("p1", "p2"):
        flights.peer_loads(
            peer, Loads(POOL, endpoint_keys([address(1)]), np.array([[1.0, 0.0, 100.0]]))
        )
    flights.pickers_live(["p0", "p1"])
    flights.proxy_restarted()
    assert made.under_way(1) == 0
    assert made.in_flight() == 1, "the one that runs reports its own"


async def test_only_limits_wait_for_the_end_of_what_was_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("picker.flight.flights._MAX_LATE", 2)
    for limiter, kept in ((None, 0), (Accounts(), 2)):
        made = fleet(limiter=limiter)
        for _ in range(3):
            await decided(made, chat())
        made.clock.now_s += 3601.0
        made.picker.flights.tick()
        assert made.is_settled
        assert len(made.picker.flights._late) == kept


# -- an engine that shows nothing of what it does


async def unseen() -> tuple[Fleet, Accounts, str]:
    """A request under way that its replica's metrics do not show, and its id."""
    accounts = Accounts()
    made = fleet([IDLE], limiter=accounts)
    decision = await decided(made, chat())
    made.clock.now_s += 6.0
    made.report(1)
    assert (made.in_flight(), made.under_way(1)) == (0, 1)
    return made, accounts, decision.id


def pass_time(made: Fleet, seconds: float) -> None:
    made.clock.now_s += seconds
    made.report(1)
    made.picker.flights.tick()


async def test_limits_hold_while_the_data_plane_shows_that_a_request_goes_on() -> None:
    made, accounts, id_ = await unseen()
    for _ in range(20):
        pass_time(made, SIGN_S)
        made.picker.lives(id_, owner="p0")
    pass_time(made, DOUBT_S - 1)
    assert accounts.lapsed == 0
    pass_time(made, 1)
    assert accounts.lapsed == 1, "its report may be lost"
    made.picker.lives(id_, owner="p0")
    pass_time(made, DOUBT_S)
    assert (accounts.lapsed, made.under_way(1)) == (1, 1), "and it is doubted once"
    assert not made.seen.completions


async def test_limits_wait_a_while_for_the_first_sign() -> None:
    made, accounts, _ = await unseen()
    pass_time(made, DOUBT_S - 1)
    assert accounts.lapsed == 0
    pass_time(made, 1)
    assert accounts.lapsed == 1


async def test_what_this_picker_sees_to_its_end_needs_no_sign_and_no_report_of_it_is_lost() -> None:
    accounts = Accounts()
    made = fleet([IDLE], limiter=accounts)
    decision = await decided(made, chat())
    made.picker.attend(decision)
    made.clock.now_s += 6.0
    made.report(1)
    made.picker.flights.picker_died()
    pass_time(made, 10 * DOUBT_S + SUSPECT_S)
    assert (accounts.lapsed, made.under_way(1)) == (0, 1)
    made.picker.complete(end_of(decision))
    assert made.is_settled


@pytest.mark.parametrize("shown", [True, False], ids=["shown by its engine", "unseen"])
async def test_what_lives_after_a_picker_has_died_was_not_reported_to_it(shown: bool) -> None:
    made, accounts, id_ = await unseen()
    if shown:
        made = fleet([load(1, 0.1)], limiter=accounts)
        id_ = (await decided(made, chat())).id
    made.picker.flights.picker_died()
    made.picker.lives(id_, owner="p0")
    for _ in range(20):
        made.clock.now_s += SIGN_S
        made.picker.flights.tick()
        made.picker.lives(id_, owner="p0")
    assert made.clock.now_s > 1000 + SUSPECT_S
    assert (accounts.lapsed, made.under_way(1)) == (0, 1)


async def test_an_idle_engine_says_nothing_of_a_request_that_has_outlived_its_silence() -> None:
    """When a picker dies then, its end is lost only if no sign follows."""
    made, accounts, id_ = await unseen()
    made.picker.lives(id_, owner="p0")
    made.picker.flights.picker_died()
    pass_time(made, 10.0)
    assert (accounts.lapsed, made.under_way(1)) == (0, 1)
    pass_time(made, DOUBT_S)
    assert (accounts.lapsed, made.under_way(1)) == (1, 1)
    pass_time(made, SUSPECT_S)
    assert made.is_settled
    assert [done.reason for done in made.seen.completions] == ["unreported"]


async def test_a_sign_of_what_is_not_known_here_means_nothing() -> None:
    made, _, id_ = await unseen()
    made.picker.lives("p0-99", owner="p0")
    made.picker.lives(id_, owner="p7")
    made.picker.flights.proxy_restarted()
    made.picker.lives(id_, owner="p0")
    assert made.is_settled
