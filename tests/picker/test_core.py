"""The picker as a whole, without any transport."""

from __future__ import annotations

import gc

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.request.answer import Decision
from picker.request.context import RequestContext
from picker.seams.peers import Loads, Sent, endpoint_keys
from picker.settings import PickerSettings, PoolSettings, RewriteRule, RewriteTarget
from picker.state.endpoints import Signals
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec
from tests.picker.fleet import (
    IDLE,
    MODEL,
    POOL,
    address,
    ask,
    chat,
    decided,
    end_of,
    fleet,
    head,
    load,
    policy,
    refused,
)


class Watched:
    def __init__(self) -> None:
        self.touched: list[str] = []
        self.poked: list[str] = []
        self.doubted: list[str] = []

    def touch(self, pool: str, address: str) -> None:
        self.touched.append(address)

    def poke(self, pool: str, address: str) -> None:
        self.poked.append(address)

    def doubt_models(self, pool: str, address: str) -> None:
        self.doubted.append(address)


async def test_a_burst_spreads_before_any_scrape() -> None:
    made = fleet()
    first = [(await decided(made, chat(f"question {n} " * 200))).addresses[0] for n in range(9)]
    assert {where: first.count(where) for where in first} == {address(n): 3 for n in (1, 2, 3)}


def _contexts() -> set[int]:
    return {id(one) for one in gc.get_objects() if isinstance(one, RequestContext)}


async def test_a_request_under_way_holds_neither_its_body_nor_its_context() -> None:
    made = fleet()
    gc.collect()
    before = _contexts()  # of other tests
    decision = await decided(made, chat("long prompt " * 100_000))
    gc.collect()
    assert _contexts() == before
    assert len(made.picker.flights) == 1
    made.picker.complete(end_of(decision))
    assert made.is_settled


async def test_a_fallback_that_served_has_the_prefix_and_the_session() -> None:
    watched = Watched()
    made = fleet(watch=watched)
    body = chat("shared words " * 300)
    decision = await decided(made, body, head(x_session_id="s"))
    first, second, _ = decision.addresses
    made.picker.complete(end_of(decision, address=second))
    assert watched.touched == [first]
    assert watched.poked == [first]
    other = await decided(made, chat("other words " * 300), head(x_session_id="s"))
    assert other.addresses[0] == second
    made.sync([n for n in (1, 2, 3) if address(n) != first])
    again = await decided(made, body, head(x_session_id="s"))
    made.picker.complete(end_of(again))
    assert again.addresses[0] == second
    assert made.seen.completions[1].matched_tokens > 0


async def test_an_endpoint_that_failed_gets_nothing_until_it_is_read_again() -> None:
    watched = Watched()
    made = fleet(watch=watched)
    decision = await decided(made, chat())
    dead = decision.addresses[0]
    made.picker.complete(
        end_of(decision, status=503, reason="upstream_error", upstream_failed=True)
    )
    assert watched.poked == [dead]
    for _ in range(5):
        assert dead not in (await decided(made, chat())).addresses


async def test_requests_of_a_removed_endpoint_are_observed_when_they_end() -> None:
    made = fleet([IDLE])
    decision = await decided(made, chat())
    made.sync([2])
    made.report(2)
    assert not made.seen.completions
    made.picker.complete(end_of(decision, input_tokens=77))
    assert [done.input_tokens for done in made.seen.completions] == [77]
    assert made.is_settled


async def test_a_removed_pool_ends_its_requests_too() -> None:
    made = fleet([IDLE])
    decision = await decided(made, chat())
    made.picker.configure(PickerSettings((PoolSettings("other", policy()),)))
    assert (await refused(made, chat())).status == 503
    made.picker.complete(end_of(decision))
    assert len(made.seen.completions) == 1
    assert len(made.picker.flights.ledger) == 0


async def test_a_lease_that_runs_out_is_an_end() -> None:
    made = fleet()
    made.configure(lease_s=100.0)
    decision = await decided(made, chat())
    made.clock.now_s += 99
    made.picker.flights.tick()
    assert not made.seen.completions
    made.clock.now_s += 2
    made.picker.flights.tick()
    made.picker.complete(end_of(decision))
    assert [done.reason for done in made.seen.completions] == ["unreported"]
    assert made.is_settled


async def test_an_idle_engine_has_no_requests_of_ours_but_a_slow_client_may() -> None:
    made = fleet([IDLE])
    decision = await decided(made, chat())
    made.clock.now_s += 60
    made.report(1)
    assert made.in_flight() == len(made.picker.flights.ledger) == 0
    assert not made.seen.completions
    assert made.picker.flights.under_way(POOL, decision.addresses[0]) == 1  # so it is not drained
    made.picker.complete(end_of(decision))
    assert made.picker.flights.under_way(POOL, decision.addresses[0]) == 0
    assert made.is_settled
    assert [(done.reason, done.output_tokens) for done in made.seen.completions] == [("ok", 5)]


async def test_what_an_idle_engine_has_done_is_not_waited_for_when_a_picker_has_died() -> None:
    """The end may have been told to that one; if it is told after all, nothing is counted twice."""
    made = fleet([IDLE])
    decision = await decided(made, chat())
    made.picker.flights.picker_died()
    made.clock.now_s += 60
    made.report(1)
    assert made.picker.flights.under_way(POOL, decision.addresses[0]) == 1
    made.picker.flights.tick()
    assert made.is_settled
    assert made.picker.flights.under_way(POOL, decision.addresses[0]) == 0
    made.picker.complete(end_of(decision))
    assert [done.reason for done in made.seen.completions] == ["unreported"]


@pytest.mark.parametrize("end", ["lease", "Envoy started anew"])
async def test_what_an_idle_engine_has_done_is_not_waited_for_without_end(end: str) -> None:
    made = fleet([IDLE])
    made.configure(lease_s=100)
    await decided(made, chat())
    made.clock.now_s += 60
    made.report(1)
    if end == "lease":
        made.clock.now_s += 41
        made.picker.flights.tick()
    else:
        made.picker.flights.proxy_restarted()
    assert made.is_settled
    assert [done.reason for done in made.seen.completions] == ["unreported"]


@pytest.mark.parametrize(
    ("report", "counts"),
    [
        ({}, (10, 5, True)),
        ({"input_tokens": None, "output_tokens": None, "streamed_events": 7}, (5, 7, False)),
        (
            {
                "input_tokens": None,
                "output_tokens": None,
                "status": 502,
                "reason": "upstream_error",
            },
            (0, 0, False),
        ),
        ({"input_tokens": None, "output_tokens": None}, (5, 1024, False)),
        ({"output_tokens": None, "streamed_events": 3}, (10, 3, True)),
    ],
    ids=["reported", "aborted stream", "failed", "engine silent", "aborted after message_start"],
)
async def test_tokens_of_an_end(report: dict[str, object], counts: tuple[int, int, bool]) -> None:
    made = fleet()
    decision = await decided(
        made, orjson.dumps({"model": MODEL, "prompt": [1, 2, 3, 4, 5]}), head("/v1/completions")
    )
    made.picker.complete(end_of(decision, "p0", **report))
    done = made.seen.completions[0]
    assert (done.input_tokens, done.output_tokens, done.usage_reported) == counts


async def test_absurd_bounds_leave_the_accounts_exact() -> None:
    made = fleet([IDLE])
    normal = await decided(made, chat(max_tokens=100))
    absurd = await decided(made, chat(max_tokens=2**62, n=2**62))
    made.picker.complete(end_of(absurd))
    made.picker.complete(end_of(normal))
    assert made.is_settled


async def test_the_pool_that_has_the_model_now_comes_first() -> None:
    made = fleet([IDLE])
    pools = tuple(PoolSettings(name, policy(), models=("shared",)) for name in (POOL, "b"))
    made.picker.configure(PickerSettings(pools))
    made.picker.pools.sync_endpoints("b", [EndpointSpec("10.1.0.1:1")])
    assert (await refused(made, chat(model="shared"))).status == 503
    now_s = made.clock.now_s
    made.picker.apply_signals("b", "10.1.0.1:1", IDLE, now_s)
    made.picker.apply_models("b", "10.1.0.1:1", [ServedModel("shared", None, None)], now_s)
    assert (await decided(made, chat(model="shared"))).pool == "b"
    assert (await decided(made, chat())).pool == POOL


async def test_a_target_names_its_pool() -> None:
    made = fleet([IDLE])
    made.configure(rewrites=[RewriteRule("x", (RewriteTarget(MODEL, pool="elsewhere"),))])
    answer = await refused(made, chat(model="x"))
    assert answer.status == 503
    assert b"leads to" in answer.body


_REPLICAS = st.lists(st.builds(load, st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=12)
_EVENTS = st.lists(
    st.sampled_from(
        [
            "ask",
            "ask",
            "ask",
            "end",
            "end twice",
            "abandon",
            "remove",
            "return",
            "fail",
            "tick",
            "peer",
            "peer end",
        ]
    ),
    max_size=40,
)


@given(_REPLICAS, _EVENTS)
async def test_accounts_always_close(replicas: list[Signals], events: list[str]) -> None:
    made = fleet(replicas)
    sent: list[Decision] = []
    foreign = 0
    asked = 0

    def load(requests: int) -> Loads:
        return Loads(
            POOL,
            endpoint_keys([address(1)]),
            np.array([[requests, requests * 10.0, requests * 5.0]]),
        )

    for number, event in enumerate(events):
        made.clock.now_s += 0.5
        if event == "ask":
            outcome = await ask(made, chat(f"{number} " * number))
            if isinstance(outcome, Decision):
                sent.append(outcome)
                asked += 1
        elif event in ("end", "end twice") and sent:
            done = sent.pop(0)
            for _ in range(1 + (event == "end twice")):
                made.picker.complete(end_of(done))
        elif event == "abandon" and sent:
            made.picker.abandon(sent.pop())
        elif event == "remove":
            made.sync([])
        elif event == "return":
            made.sync(list(range(1, len(replicas) + 1)))
            for one, signals in enumerate(replicas, 1):
                made.report(one, signals)
        elif event == "fail":
            made.picker.mark_failed(POOL, address(1), "x", made.clock.now_s)
        elif event == "tick":
            made.picker.flights.tick()
        elif event in ("peer", "peer end"):
            foreign = max(0, foreign + (1 if event == "peer" else -1))
            made.picker.flights.peer_sent([Sent(POOL, address(1), [[number]])])
            made.picker.flights.peer_loads("q", load(foreign))
    for done in sent:
        made.picker.complete(end_of(done))
    made.picker.flights.peer_loads("q", load(0))
    assert made.is_settled
    # An engine that is seen idle ends requests too, but none ends twice.
    assert len(made.seen.completions) == asked
