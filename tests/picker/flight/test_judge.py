"""What a failure does to where the next requests go."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

import pytest

from picker.request.answer import Decision
from picker.request.report import LastTry
from policies.health.breaker import DEFAULT_RULES
from tests.picker.fleet import IDLE, MODEL, POOL, Fleet, address, chat, decided, end_of, fleet, head

BROKEN: Final = 2
OPENS: Final = DEFAULT_RULES.consecutive_failures


def fails(made: Fleet, decision: Decision, how: int | str) -> None:
    """The replica of the first choice fails, and so does the request."""
    match how:
        case int():
            end = end_of(decision, status=how, reason="http_error", tries=())
        case "reset":
            end = end_of(
                decision,
                status=502,
                reason="upstream_error",
                upstream_failed=True,
                tries=(),
                last_try=LastTry.RESET,
            )
        case _:
            end = end_of(decision, status=504, reason="http_error", ttft_s=None, tries=())
    made.picker.complete(end)


def stumbles(made: Fleet, decision: Decision, how: str) -> None:
    """The first choice fails and the second one serves."""
    made.picker.complete(end_of(decision, address=decision.addresses[1], tries=(how,)))


def refresh(made: Fleet, numbers: tuple[int, ...] = (1, 2, 3)) -> None:
    for number in numbers:
        made.report(number)


async def retried(made: Fleet, body: bytes, how: int | str, **headers: str) -> int:
    """How often a client has to ask until somebody else than the broken replica answers."""
    for tries in range(1, 9):
        decision = await decided(made, body, head(**headers))
        if decision.addresses[0] != address(BROKEN):
            made.picker.complete(end_of(decision))
            return tries
        fails(made, decision, how)
        refresh(made)
    raise AssertionError("the broken replica keeps it")


@pytest.mark.parametrize("how", [500, 502, 503, 429, 529, "reset", "timeout"])
async def test_a_replica_that_fails_at_once_keeps_neither_prompts_nor_sessions(
    how: int | str,
) -> None:
    """Others take their time, so that it is the emptiest one whenever it is asked."""
    made, got, left = fleet(), Counter[str](), list[Decision]()
    asked = 0
    for number in range(60):
        prompt = f"conversation {number} " * 300
        asked += await retried(made, chat(prompt), how, x_session_id=f"s{number}")
        made.clock.now_s += 0.1
        refresh(made)
    assert asked - 60 <= OPENS + 4, "each prompt left it at once, and soon none came"
    made.clock.now_s += 1.0
    refresh(made)
    for number in range(60):
        decision = await decided(made, chat(f"other {number} " * 100))
        got[decision.addresses[0]] += 1
        if decision.addresses[0] == address(BROKEN):
            fails(made, decision, how)
            refresh(made)
        else:
            left.append(decision)
    assert got[address(BROKEN)] < 60 * 0.15


async def test_its_breaker_says_why_and_closes_when_it_recovers() -> None:
    made, pool = fleet(), None
    for number in range(60):
        decision = await decided(made, chat(f"{number} " * 50))
        if decision.addresses[0] == address(BROKEN):
            stumbles(made, decision, "500")
        else:
            made.picker.complete(end_of(decision, tries=()))
    pool = made.picker.pools[POOL]
    slot = pool.state.slot_of[address(BROKEN)]
    now_s = made.clock.now_s
    why = pool.breakers.why(slot, now_s)
    assert (
        why
        == f"breaker open for {MODEL}, for 5 s more: 5 failures in a row, the last one: status 500"
    )
    for number in range(30):
        assert (await decided(made, chat(f"more {number}"))).addresses[-1] == address(BROKEN)
    made.clock.now_s += DEFAULT_RULES.open_s
    refresh(made)
    first = [await decided(made, chat(f"probe {number} " * 50)) for number in range(30)]
    probes = [one for one in first if one.addresses[0] == address(BROKEN)]
    assert len(probes) == DEFAULT_RULES.probes
    for probe in probes:
        made.picker.complete(end_of(probe, tries=()))
    assert pool.breakers.why(slot, made.clock.now_s) == ""
    again = [await decided(made, chat(f"again {number} " * 50)) for number in range(30)]
    assert address(BROKEN) in {one.addresses[0] for one in again}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
async def test_bad_requests_open_nothing(status: int) -> None:
    made = fleet()
    for number in range(100):
        decision = await decided(made, chat(f"{number}"))
        tries = (str(status),) * 2 if status == 404 else ()
        where = decision.addresses[len(tries)]
        made.picker.complete(
            end_of(decision, address=where, status=status, reason="http_error", tries=tries)
        )
    assert {(await decided(made, chat(f"x {n} " * 90))).addresses[0] for n in range(9)} == {
        address(n) for n in (1, 2, 3)
    }
    assert made.picker.pools[POOL].breakers.tripped(made.clock.now_s) == set()


async def test_requests_that_fail_everywhere_open_nothing_while_others_are_served() -> None:
    made, rng = fleet(), random.Random(3)
    for number in range(300):
        decision = await decided(made, chat(f"{number} " * 40))
        if rng.random() < 0.4:
            made.picker.complete(
                end_of(
                    decision,
                    address=decision.addresses[2],
                    status=500,
                    reason="http_error",
                    tries=("500", "500"),
                )
            )
        others = [await decided(made, chat(f"{other} {number} " * 60)) for other in range(3)]
        for good in others:
            made.picker.complete(end_of(good, tries=()))
        made.clock.now_s += 0.1
        refresh(made)
    assert made.picker.pools[POOL].breakers.tripped(made.clock.now_s) == set()


async def test_when_all_have_failed_all_are_tried() -> None:
    made = fleet()
    for _ in range(OPENS * 9):
        fails(made, await decided(made, chat()), 500)
    breakers = made.picker.pools[POOL].breakers
    assert len(breakers.tripped(made.clock.now_s)) == 3
    assert len((await decided(made, chat())).addresses) == 3


async def test_a_replica_that_takes_requests_and_never_answers_is_left_out() -> None:
    made = fleet()
    hung: list[Decision] = []
    number = 0
    while len(hung) < OPENS:
        number += 1
        decision = await decided(made, chat(f"{number} " * 50))
        if decision.addresses[0] == address(BROKEN):
            hung.append(decision)
        elif number % 9:
            made.picker.complete(end_of(decision, tries=()))
    made.clock.now_s += 60.0
    refresh(made)
    for decision in hung:
        made.picker.complete(
            end_of(
                decision, status=0, reason="client_aborted", ttft_s=None, duration_s=60.0, tries=()
            )
        )
    slot = made.picker.pools[POOL].state.slot_of[address(BROKEN)]
    assert made.picker.pools[POOL].breakers.tripped(made.clock.now_s) == {slot}


async def test_an_impatient_client_opens_nothing() -> None:
    made = fleet([IDLE])
    for _ in range(50):
        decision = await decided(made, chat())
        made.picker.complete(
            end_of(
                decision, status=0, reason="client_aborted", ttft_s=None, duration_s=2.0, tries=()
            )
        )
    assert made.picker.pools[POOL].breakers.tripped(made.clock.now_s) == set()


async def test_an_adapter_that_one_replica_denies_is_not_routed_there_until_it_lists_it() -> None:
    watched = Doubting()
    made = fleet(models=(MODEL, "poet"), watch=watched)
    decision = await decided(made, chat(model="poet"))
    first = int(decision.addresses[0].split(".")[3].split(":")[0])
    stumbles(made, decision, "404")
    assert watched.doubted == [address(first)]
    for number in range(20):
        assert address(first) not in (await decided(made, chat(f"{number}", "poet"))).addresses
    others = [await decided(made, chat(f"base {number}")) for number in range(9)]
    assert any(address(first) in one.addresses for one in others)
    made.report(first, models=(MODEL, "poet"))
    made.clock.now_s += 1.0
    refreshed = [await decided(made, chat(f"{number} " * 60, "poet")) for number in range(20)]
    assert any(address(first) in one.addresses for one in refreshed)


async def test_a_path_that_no_replica_knows_takes_no_model_away() -> None:
    watched = Doubting()
    made = fleet(watch=watched)
    decision = await decided(made, chat())
    made.picker.complete(
        end_of(
            decision,
            address=decision.addresses[2],
            status=404,
            reason="http_error",
            tries=("404", "404"),
        )
    )
    assert len(watched.doubted) == 3
    assert len((await decided(made, chat())).addresses) == 3


class Doubting:
    """A watch that notes whose model lists are in doubt."""

    def __init__(self) -> None:
        self.doubted: list[str] = []

    def touch(self, pool: str, address: str) -> None:
        return

    def poke(self, pool: str, address: str) -> None:
        return

    def doubt_models(self, pool: str, address: str) -> None:
        self.doubted.append(address)


@pytest.mark.parametrize(("last_try", "opens"), [("blamed", 2 * OPENS), ("answered", OPENS)])
async def test_an_engine_that_blames_every_request_is_left_out_later(
    last_try: str, opens: int
) -> None:
    """Older ones call all their errors in a stream the request's."""
    made, failed = fleet(), 0
    pool = made.picker.pools[POOL]
    slot = pool.state.slot_of[address(BROKEN)]
    for number in range(400):
        decision = await decided(made, chat(f"{number} " * 50))
        end = end_of(decision, tries=())
        if decision.addresses[0] == address(BROKEN):
            failed += 1
            end = end_of(decision, tries=(), reason="engine_error", last_try=LastTry(last_try))
        made.picker.complete(end)
        if slot in pool.breakers.tripped(made.clock.now_s):
            break
        refresh(made)
    assert failed == opens


async def test_a_request_that_breaks_every_replica_off_has_no_other_one_refused() -> None:
    """They are read again at once; until then others have them all the same."""
    made = fleet()
    for _ in range(3):
        fails(made, await decided(made, chat("kills")), "reset")
        assert made.picker.ready
    assert len((await decided(made, chat("good"))).addresses) == 3
    for number in (1, 2, 3):
        made.picker.mark_failed(POOL, address(number), "refused", made.clock.now_s)
    assert not made.picker.ready
