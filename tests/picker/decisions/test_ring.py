"""What a picker remembers of its requests."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from msgspec.structs import replace

from picker.decisions.record import MAX_CHARS, Record, Refusal
from picker.decisions.ring import Decisions
from picker.request.choice import Why
from picker.request.labels import RequestLabels
from picker.request.report import Ending
from picker.request.role import Role
from picker.seams.observer import Rejected
from policies.limits.prices import Usage
from tests.picker.accounts import Accounts
from tests.picker.fleet import (
    IDLE,
    MODEL,
    Fleet,
    address,
    chat,
    decided,
    end_of,
    fleet,
    head,
    refused,
)


def newest(made: Fleet) -> Record:
    record = next(made.picker.decisions.newest_first())
    assert isinstance(record, Record)
    return record


def newest_refusal(made: Fleet) -> Refusal:
    refusal = next(made.picker.decisions.newest_first())
    assert isinstance(refusal, Refusal)
    return refusal


async def test_a_request_from_its_decision_to_its_end() -> None:
    made = fleet()
    decision = await decided(made, chat(stream=True), head(x_request_id="mine"))
    record = newest(made)
    assert (record.id, record.labels.request_id) == (decision.id, "mine")
    assert record.state == "under_way"
    assert record.choices[0].tried == decision.addresses
    assert record.choices[0].left_out is None
    made.picker.complete(end_of(decision, ticket="secret"))
    assert record.state == "ok"
    assert record.report is not None
    assert (record.report.ttft_s, record.report.ticket) == (0.1, "")
    assert record.usage == Usage(10, 5)
    assert record.was_predicted


@pytest.mark.parametrize(
    "changes",
    [
        {"address": address(9)},
        {"tries": ("refused",)},
        {"status": 500, "reason": "http_error"},
        {"reason": "client_aborted"},
    ],
)
async def test_what_went_another_way_was_not_predicted(changes: dict[str, Any]) -> None:
    made = fleet()
    decision = await decided(made, chat(stream=True))
    made.picker.complete(end_of(decision, **changes))
    assert not newest(made).was_predicted


async def test_an_answer_that_came_whole_has_no_time_to_its_first_token() -> None:
    made = fleet()
    made.picker.complete(end_of(await decided(made, chat())))
    assert not newest(made).was_predicted


async def test_an_end_that_comes_late_or_never() -> None:
    accounts = Accounts()
    made = fleet(limiter=accounts)
    made.configure(lease_s=10.0)
    decision = await decided(made, chat())
    made.clock.now_s += 11
    made.picker.flights.tick()
    record = newest(made)
    assert record.state == Ending.UNREPORTED
    assert record.limited
    made.picker.complete(end_of(decision))
    assert record.state == "ok"
    assert record.usage == Usage(10, 5)


async def test_both_parts_of_a_request_are_kept() -> None:
    made = fleet([IDLE] * 3)
    made.disaggregate({1: Role.PREFILL, 2: Role.DECODE, 3: Role.DECODE})
    await decided(made, chat())
    prefill, decode = newest(made).choices
    assert (prefill.role, prefill.tried) == (Role.PREFILL, (address(1),))
    assert decode.left_out is not None
    assert [(one.endpoint, one.why) for one in decode.left_out.replicas] == [(address(1), Why.ROLE)]


async def test_refusals_are_kept_with_their_reason() -> None:
    made = fleet()
    await refused(made, chat(model="other"), head(x_request_id="r"))
    refusal = newest_refusal(made)
    assert (refusal.status, refusal.code) == (404, "model_not_found")
    assert refusal.labels.request_id == "r"
    assert "other" in refusal.message
    made.sync([1, 2, 3], draining=[1, 2, 3])
    await refused(made, chat())
    refusal = newest_refusal(made)
    assert refusal.code == "no_endpoints"
    assert refusal.left_out is not None
    assert [one.why for one in refusal.left_out.replicas] == [Why.DRAINING] * 3


async def test_what_a_client_writes_is_kept_in_part() -> None:
    made, long = fleet(), "x" * 100_000
    await refused(made, chat(model=long), head(x_request_id=long))
    refusal = newest_refusal(made)
    assert len(refusal.labels.request_id) == len(refusal.labels.model) == MAX_CHARS
    assert len(refusal.message) <= 1_000
    await decided(made, chat(user=long), head(x_request_id=long))
    labels = newest(made).labels
    assert max(map(len, (labels.request_id, labels.user, labels.path))) <= MAX_CHARS


async def test_the_oldest_makes_room_and_refusals_take_none_of_it() -> None:
    made = fleet()
    made.picker.flights._decisions = ring = Decisions(made.clock, kept=3, refusals=2)
    for number in range(4):
        made.clock.now_s += 1
        await decided(made, chat(), head(x_request_id=str(number)))
    assert [one.labels.request_id for one in ring.newest_first()] == ["3", "2", "1"]
    assert (ring.sent_total, ring.oldest_s, ring.has_turned_over) == (4, 1002.0, True)
    event = Rejected(RequestLabels("no", "t", MODEL, "", "/"), 429, "x", 0.0)
    for _ in range(9):
        ring.refused("", event, "no")
    kept = [one.labels.request_id for one in ring.newest_first()]
    assert sorted(kept) == ["1", "2", "3", "no", "no"]


async def test_a_decision_takes_little_memory() -> None:
    """As many candidates as are kept, and an end."""
    made = fleet([IDLE] * 40)
    made.picker.flights._decisions = ring = Decisions(made.clock, kept=300)

    async def ask(count: int) -> None:
        for number in range(count):
            request = head(x_request_id=f"0b58562a-b3c7-4661-950b-{number:012}")
            decision = await decided(made, chat("word " * 300, stream=True), request)
            made.picker.complete(end_of(decision, tries=()))

    await ask(300)
    ring._sent.clear()
    await ask(20)
    ring._sent.clear()
    tracemalloc.start()
    await ask(300)
    with_all, _ = tracemalloc.get_traced_memory()
    ring._sent.clear()
    without, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    each = (with_all - without) / 300
    print(f"{each:.0f} bytes a decision")
    assert 500 < each < 3_000


async def test_a_decision_that_failed_half_way_was_never_sent() -> None:
    made = fleet()
    decision = await decided(made, chat())
    made.picker.flights.drop(decision.id)
    assert newest(made).state == "dropped"


async def test_labels_that_are_short_stay_as_they_are() -> None:
    made = fleet()
    made.picker.complete(end_of(await decided(made, chat())))
    assert newest(made).labels is made.seen.completions[0].labels
    assert replace(newest(made).labels) == made.seen.completions[0].labels
