"""The picker under limits: what is reserved, charged and given back, over a real store."""

from __future__ import annotations

import asyncio
import gzip
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import orjson
import pytest

from gateway.limits.accounts import TenantAccounts
from gateway.limits.buckets import StoreUnavailable
from gateway.limits.limiter import TenantLimiter
from gateway.limits.memory.store import MemoryStore
from gateway.limits.usage import UsageRecord
from picker.bodies.cost import SURE_BYTES
from picker.flight.quiet import DOUBT_S
from picker.pipeline import decode, parse, reserve
from picker.request.answer import Answer, Decision
from picker.request.caller import Caller
from picker.request.head import RequestHead
from picker.request.rejection import Reason, Rejection
from picker.request.report import Report
from policies.limits.known_names import KnownNames
from policies.limits.plan import By, LimitRule, PriceList, Subject, TenantPolicy
from policies.limits.prices import Price, Usage
from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Dimension,
    Lifetime,
    Period,
    Rule,
    Take,
)
from policies.limits.verdict import Verdict
from tests.picker.fleet import Fleet, ask, chat, decided, end_of, fleet, head, refused

ACME = "acme"
DAY = Period.DAY
PRICES = PriceList([("*", Price(1_000_000, 10_000_000, 500_000))])


def rule(
    dimension: Dimension, limit: int | Rule, *, by: Sequence[By] = (), shadow: bool = False
) -> LimitRule:
    kind = CalendarWindow(limit, DAY) if isinstance(limit, int) else limit
    return LimitRule(dimension.value, dimension, kind, tuple(by), shadow=shadow)


EVERYTHING = tuple(
    rule(dimension, 1_000_000_000)
    for dimension in Dimension
    if dimension not in (Dimension.CONCURRENCY, Dimension.WEIGHTED_TOKENS)
)


class Seen:
    """A limit observer's notes."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.shadows: list[str] = []
        self.charges: list[tuple[Subject, Usage, int]] = []
        self.failures = 0

    def refused(self, tenant: str, bucket: Bucket) -> None:
        self.refusals.append(bucket.key.partition("|")[0])

    def would_refuse(self, tenant: str, bucket: Bucket) -> None:
        self.shadows.append(bucket.key.partition("|")[0])

    def charged(self, subject: Subject, usage: Usage, cost_micros: int) -> None:
        self.charges.append((subject, usage, cost_micros))

    def unsettled(self) -> None:
        self.failures += 1


class Door:
    """A gate that lets in who says the word."""

    def __init__(self, policy: TenantPolicy) -> None:
        self.policy = policy

    def identify(self, head: RequestHead) -> Caller:
        given = head.headers.get("authorization")
        if given == "Bearer closed":
            raise Rejection(Reason.INVALID_API_KEY, "That key is not known here.")
        credentials = ("authorization",) if given else ()
        return Caller(self.policy, key="k2", line="k1", credentials=credentials)


class Place:
    """A picker with limits over a store whose clock is set."""

    def __init__(
        self,
        policy: TenantPolicy,
        *,
        store: MemoryStore | None = None,
        name: str = "p0",
        lease_s: float = 60.0,
    ) -> None:
        self.now_ms = 1_800_000_000_000
        self.store = store or MemoryStore(clock_ms=lambda: self.now_ms)
        self.seen = Seen()

        def policy_of(tenant: str, key_id: str) -> TenantPolicy | None:
            return policy if tenant == ACME else None

        self.accounts = TenantAccounts(self.store, self.store, policy_of)
        self.limiter = TenantLimiter(
            self.store,
            policy_of=policy_of,
            prices=lambda: PRICES,
            observer=self.seen,
            lease_s=lease_s,
            wall_s=lambda: self.now_ms / 1_000,
            now_s=lambda: self.now_ms / 1_000,
            sleep=self._sleep,
        )
        self.made: Fleet = fleet(name=name, gate=Door(policy), limiter=self.limiter)
        self.policy = policy

    async def renew_for(self, seconds: float) -> None:
        """Let time pass, renewing leases as the limiter does."""
        for _ in range(round(seconds / 15)):
            self.now_ms += 15_000
            await self.limiter._renew_old()

    async def _sleep(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1_000)
        await asyncio.sleep(0)

    async def used(self, subject: Subject | None = None) -> dict[str, int]:
        """By bucket key: what is taken, held or charged."""
        await asyncio.sleep(0)
        standings = await self.accounts.standings(subject or Subject(ACME, "k1", "", "llama"))
        return {one.bucket.key.partition("|")[0]: one.limit - one.remaining for one in standings}


def tenant(*rules: LimitRule, models: Sequence[str] = ("*",)) -> TenantPolicy:
    return TenantPolicy(ACME, rules, models=tuple(models), prices=PRICES)


def ended(decision: Decision, **changes: object) -> Report:
    return end_of(decision, "p0", **changes)


async def test_a_request_holds_what_it_may_cost_and_is_charged_what_it_did() -> None:
    place = Place(tenant(*EVERYTHING))
    decision = await decided(place.made, chat("Hello", max_tokens=100))
    held = await place.used()
    assert held["requests"] == 1
    assert held["output_tokens"] == 100
    assert held["input_tokens"] > 0
    assert held["total_tokens"] == held["input_tokens"] + 100
    assert held["money"] == held["input_tokens"] + 1_000
    assert dict(decision.response_headers)["x-ratelimit-remaining-requests"] == "999999999"
    place.made.picker.complete(
        ended(decision, input_tokens=10, output_tokens=5, cached_tokens=4, reasoning_tokens=2)
    )
    assert await place.used() == {
        "requests": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "money": 6 + 2 + 50,
    }
    day = datetime.fromtimestamp(place.now_ms / 1_000, UTC).date()
    (row,) = await place.store.usage(ACME, day, day)
    assert (row.key, row.model, row.requests) == ("k2", "llama", 1)
    assert (row.input_tokens, row.cached_tokens, row.output_tokens) == (10, 4, 5)
    assert row.cost_micros == 58
    assert [(usage.output_tokens, cost) for _, usage, cost in place.seen.charges] == [(5, 58)]


@pytest.mark.parametrize(
    ("report", "requests", "input_tokens", "output_tokens"),
    [
        ({"status": 500, "reason": "http_error"}, 0, 0, 0),
        ({"status": 503, "reason": "upstream_error", "upstream_failed": True}, 0, 0, 0),
        ({"status": 0, "reason": "client_aborted", "address": ""}, 0, 0, 0),
        ({"status": 0, "reason": "client_aborted"}, 1, None, 0),
        ({"status": 400, "reason": "http_error"}, 1, 0, 0),
        ({"status": 429, "reason": "http_error"}, 1, 0, 0),
        ({"status": 404, "reason": "http_error", "address": ""}, 0, 0, 0),
        ({"reason": "client_aborted", "streamed_events": 7}, 1, None, 7),
        ({"reason": "upstream_error", "streamed_events": 3}, 1, None, 3),
        ({"reason": "client_aborted", "streamed_events": 7, "input_tokens": 12}, 1, 12, 7),
        ({}, 1, None, 100),
    ],
    ids=[
        "engine's error",
        "no replica",
        "left before a replica had it",
        "left before the first token",
        "engine refuses",
        "engine is too busy",
        "refused by no engine",
        "left after 7 tokens",
        "engine died after 3 tokens",
        "left after message_start",
        "engine tells no usage",
    ],
)
async def test_what_is_charged_without_a_report_of_usage(
    report: dict[str, object], requests: int, input_tokens: int | None, output_tokens: int
) -> None:
    place = Place(tenant(*EVERYTHING))
    decision = await decided(place.made, chat("Hello " * 20, max_tokens=100))
    held = await place.used()
    silent = {"input_tokens": None, "output_tokens": None, "cached_tokens": None}
    place.made.picker.complete(ended(decision, **(silent | report)))
    used = await place.used()
    assert used["requests"] == requests
    assert used["output_tokens"] == output_tokens
    assert used["input_tokens"] == (held["input_tokens"] if input_tokens is None else input_tokens)


async def test_an_end_that_is_told_twice_is_charged_once() -> None:
    place = Place(tenant(*EVERYTHING))
    decision = await decided(place.made, chat(max_tokens=100))
    for _ in range(3):
        place.made.picker.complete(ended(decision, input_tokens=10, output_tokens=5))
    assert (await place.used())["total_tokens"] == 15
    assert len(place.seen.charges) == 1


async def test_without_max_tokens_what_is_learned_is_held() -> None:
    place = Place(tenant(*EVERYTHING))
    first = await decided(place.made, chat())
    assert (await place.used())["output_tokens"] == 1_024
    place.made.picker.complete(ended(first, output_tokens=40))
    for _ in range(30):
        decision = await decided(place.made, chat())
        place.made.picker.complete(ended(decision, output_tokens=40))
    before = (await place.used())["output_tokens"]
    await decided(place.made, chat())
    assert 40 <= (await place.used())["output_tokens"] - before < 60


async def test_several_answers_are_held_for() -> None:
    place = Place(tenant(*EVERYTHING))
    await decided(place.made, chat(max_tokens=10, n=3))
    assert (await place.used())["output_tokens"] == 30
    body = orjson.dumps({"model": "llama", "prompt": ["a", "b"], "max_tokens": 10, "n": 2})
    await decided(place.made, body, head("/v1/completions"))
    assert (await place.used())["output_tokens"] == 70


async def test_counting_tokens_costs_none() -> None:
    place = Place(tenant(*EVERYTHING))
    body = orjson.dumps({"model": "llama", "messages": [{"role": "user", "content": "Hi"}]})
    await decided(place.made, body, head("/v1/messages/count_tokens"))
    used = await place.used()
    assert (used["requests"], used["total_tokens"]) == (1, 0)


async def test_over_the_limit_is_refused_before_a_replica_is_chosen() -> None:
    place = Place(tenant(rule(Dimension.REQUESTS, 2)))
    sent = [await decided(place.made, chat()) for _ in range(2)]
    answer = await refused(place.made, chat())
    assert answer.status == 429
    assert orjson.loads(answer.body)["error"]["code"] == "rate_limit_exceeded"
    assert dict(answer.headers)["x-ratelimit-remaining-requests"] == "0"
    assert int(dict(answer.headers)["retry-after"]) > 0
    assert place.seen.refusals == ["requests"]
    assert place.made.in_flight() == len(sent)
    assert place.made.seen.rejections[0].labels.tenant == ACME


async def test_two_hundred_at_once_against_room_for_ten() -> None:
    place = Place(tenant(rule(Dimension.CONCURRENCY, Concurrency(10))))
    outcomes = await asyncio.gather(*(ask(place.made, chat()) for _ in range(200)))
    assert sum(isinstance(one, Decision) for one in outcomes) == 10
    for one in outcomes:
        if isinstance(one, Decision):
            place.made.picker.complete(ended(one))
    assert (await place.used())["concurrency"] == 0


async def test_a_shadow_limit_counts_and_lets_pass() -> None:
    place = Place(tenant(rule(Dimension.REQUESTS, 1, shadow=True)))
    for _ in range(3):
        decision = await decided(place.made, chat())
        assert decision.response_headers == ()
    assert place.seen.shadows == ["requests", "requests"]


async def test_what_is_refused_later_is_given_back() -> None:
    place = Place(tenant(*EVERYTHING))
    place.made.sync([1, 2, 3], draining=[1, 2, 3])
    answer = await refused(place.made, chat(max_tokens=50))
    assert answer.status == 503
    assert set((await place.used()).values()) == {0}
    assert dict(answer.headers)["x-ratelimit-limit-requests"] == "1000000000"


async def test_a_decision_that_never_left_is_given_back() -> None:
    place = Place(tenant(*EVERYTHING))
    place.made.picker.abandon(await decided(place.made, chat(max_tokens=50)))
    assert set((await place.used()).values()) == {0}


async def test_an_unknown_key_is_refused_at_the_headers() -> None:
    place = Place(tenant())
    begun = await place.made.picker.begin(head(authorization="Bearer closed"))
    assert isinstance(begun, Answer)
    assert begun.status == 401
    assert orjson.loads(begun.body)["error"]["code"] == "invalid_api_key"


async def test_credentials_stay_with_us() -> None:
    place = Place(tenant())
    decision = await decided(place.made, chat(), head(authorization="Bearer open"))
    assert "authorization" in decision.remove_headers


async def test_closed_models_are_refused_and_not_listed() -> None:
    place = Place(tenant(models=["llama-*"]))
    answer = await refused(place.made, chat())
    assert answer.status == 403
    assert orjson.loads(answer.body)["error"]["code"] == "model_not_allowed"
    assert place.made.seen.rejections[0].labels.model == "llama"
    rewritten = head(x_gateway_model_name_rewrite="llama")
    assert (await refused(place.made, chat(model="llama-x"), rewritten)).status == 403
    unnamed = head("/v1/audio/transcriptions", content_type="multipart/form-data")
    assert (await refused(place.made, b"--x", unnamed)).status == 403
    listing = await refused(place.made, b"", head("/v1/models", "GET"))
    assert orjson.loads(listing.body)["data"] == []
    one = await refused(place.made, b"", head("/v1/models/llama", "GET"))
    assert one.status == 404


async def test_users_have_limits_of_their_own() -> None:
    place = Place(tenant(rule(Dimension.REQUESTS, 1, by=[By.USER])))
    await decided(place.made, chat(user="ann"))
    assert (await refused(place.made, chat(user="ann"))).status == 429
    await decided(place.made, chat(user="bob"))
    await decided(place.made, chat())  # without a user it is not counted by user
    long = "x" * 5_000
    await decided(place.made, chat(user=long))
    assert (await refused(place.made, chat(user=long))).status == 429


async def test_the_request_of_a_dead_picker_is_settled_by_another() -> None:
    policy = tenant(*EVERYTHING)
    first = Place(policy)
    second = Place(policy, store=first.store, name="p1")
    decision = await decided(first.made, chat(max_tokens=100))
    report = ended(
        decision,
        ticket=str(decision.metadata["ticket"]),
        input_tokens=10,
        output_tokens=5,
    )
    second.made.picker.flights.pickers_live({"p0", "p1"})
    second.made.picker.complete(report)
    second.made.clock.now_s += 3
    second.made.picker.flights.tick()
    assert (await first.used())["output_tokens"] == 100  # its picker lives, and will do it
    second.made.picker.flights.pickers_live({"p1"})
    for _ in range(2):
        second.made.picker.complete(report)
        second.made.clock.now_s += 3
        second.made.picker.flights.tick()
    used = await first.used()
    assert (used["requests"], used["input_tokens"], used["output_tokens"]) == (1, 10, 5)


async def test_a_picker_that_was_started_anew_charges_what_its_last_life_let_in() -> None:
    policy = tenant(*EVERYTHING)
    before, after = Place(policy), Place(policy, name="p0-again")
    decision = await decided(before.made, chat(max_tokens=100))
    report = ended(
        decision, ticket=str(decision.metadata["ticket"]), input_tokens=10, output_tokens=5
    )
    after.made.picker.flights.pickers_live({"p0-again"})
    after.made.picker.complete(report)
    after.made.clock.now_s += 3
    after.made.picker.flights.tick()
    await asyncio.sleep(0.01)
    used = await after.used()
    assert (used["requests"], used["total_tokens"]) == (1, 15)
    assert len(after.seen.charges) == 1


async def test_a_broken_ticket_is_counted_and_harms_nothing() -> None:
    place = Place(tenant(*EVERYTHING))
    decision = await decided(place.made, chat())
    place.limiter.settle_orphan(ended(decision, id="x-1", ticket="[1,2"))
    assert place.seen.failures == 1


async def test_leases_are_renewed_while_a_request_runs_and_end_with_its_picker() -> None:
    place = Place(tenant(rule(Dimension.CONCURRENCY, Concurrency(1))), lease_s=30.0)
    await decided(place.made, chat())
    for _ in range(6):
        place.now_ms += 15_000
        await place.limiter._renew_old()
        assert (await refused(place.made, chat())).status == 429
    place.now_ms += 31_000  # nobody renews any more
    await decided(place.made, chat())


@pytest.mark.parametrize("why", ["its engine is idle", "a picker has died", "its own lease"])
async def test_what_nobody_may_tell_the_end_of_is_back_with_its_lease(why: str) -> None:
    """And is charged when its end is told after all."""
    policy = tenant(rule(Dimension.CONCURRENCY, Concurrency(1)), rule(Dimension.REQUESTS, 10))
    place = Place(policy, lease_s=30.0)
    place.made.configure(lease_s=600.0)
    flights = place.made.picker.flights
    decision = await decided(place.made, chat())
    if why == "a picker has died":
        flights.picker_died()
        await place.renew_for(150)
        place.made.clock.now_s += 150
        flights.tick()
        assert (await place.used())["concurrency"] == 1  # it may well be running
        place.made.clock.now_s += 151
        flights.tick()
    elif why == "its engine is idle":
        place.made.clock.now_s += 10
        place.made.report(int(decision.addresses[0].split(".")[3].split(":")[0]))
        for _ in range(6):  # the data plane shows that it goes on, whatever its engine shows
            place.made.clock.now_s += 45
            place.made.picker.lives(decision.id, owner="p0")
            flights.tick()
            await place.renew_for(45)
            assert (await place.used())["concurrency"] == 1
        place.made.clock.now_s += DOUBT_S
        flights.tick()
    else:
        place.made.clock.now_s += 601
        flights.tick()
        assert [done.reason for done in place.made.seen.completions] == ["unreported"]
    await place.renew_for(45)
    assert (await place.used())["concurrency"] == 0
    for _ in range(2):
        place.made.picker.complete(ended(decision, input_tokens=10, output_tokens=5))
    assert await place.used() == {"concurrency": 0, "requests": 1}
    assert len(place.seen.charges) == 1
    assert len(place.made.seen.completions) == 1


async def test_a_client_that_never_has_two_at_once_is_not_refused_for_concurrency() -> None:
    """Its last request's end is known a little later than it has it itself."""
    place = Place(tenant(rule(Dimension.CONCURRENCY, Concurrency(1))))
    first = await decided(place.made, chat())

    async def told_later(seconds: float) -> None:
        place.made.picker.complete(ended(first))
        await asyncio.sleep(0)

    place.limiter._sleep = told_later
    await decided(place.made, chat())
    assert place.seen.refusals == []


async def test_a_guess_never_makes_a_request_impossible() -> None:
    place = Place(tenant(rule(Dimension.TOTAL_TOKENS, 1_000)))
    for _ in range(3):
        await decided(place.made, chat())
    assert 600 < (await place.used())["total_tokens"] <= 750
    answer = await refused(place.made, chat(max_tokens=2_000))  # declared: its own fault
    assert dict(answer.headers)["x-should-retry"] == "false"


async def test_prices_are_those_of_when_it_was_asked_for() -> None:
    """Also for a tenant that was deleted meanwhile."""
    place = Place(tenant(*EVERYTHING))
    decision = await decided(place.made, chat(max_tokens=100))
    place.limiter._policy_of = lambda *_: None
    place.limiter._prices = PriceList
    place.made.picker.complete(ended(decision, input_tokens=10, output_tokens=5, cached_tokens=0))
    await asyncio.sleep(0)
    assert [cost for _, _, cost in place.seen.charges] == [60]


async def test_a_shorter_lease_is_renewed_in_time() -> None:
    place = Place(tenant(rule(Dimension.CONCURRENCY, Concurrency(1))), lease_s=3_600.0)
    await decided(place.made, chat())
    place.limiter.start()
    await asyncio.sleep(0)
    place.now_ms += 3_000_000
    place.limiter.lease_s = 6_000.0
    await asyncio.sleep(0.01)  # woken, it renews what is older than a third of the lease
    place.now_ms += 3_000_000
    assert (await refused(place.made, chat())).status == 429
    await place.limiter.close()


class StuckStore(MemoryStore):
    """A store that does not answer."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.released: list[str] = []

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        if self.error is not None:
            raise self.error
        await asyncio.sleep(3600)
        raise AssertionError


async def test_a_store_that_is_away_and_fails_closed_is_503() -> None:
    place = Place(tenant(*EVERYTHING), store=StuckStore(StoreUnavailable("no answer")))
    answer = await refused(place.made, chat())
    assert answer.status == 503
    assert orjson.loads(answer.body)["error"]["code"] == "limits_unavailable"


async def test_a_client_that_leaves_while_its_limits_are_looked_at_leaves_nothing() -> None:
    place = Place(tenant(*EVERYTHING), store=StuckStore())
    asking = asyncio.create_task(ask(place.made, chat()))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert place.made.is_settled


class BrokenStore(MemoryStore):
    """A store in this process whose settlements fail, in a way that is not foreseen."""

    async def settle(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None = None,
    ) -> bool:
        raise ZeroDivisionError


async def test_a_settlement_that_fails_at_once_does_not_hold_up_the_end_of_its_request() -> None:
    place = Place(tenant(*EVERYTHING), store=BrokenStore())
    decision = await decided(place.made, chat())
    place.made.picker.complete(end_of(decision))
    assert place.seen.failures == 1
    assert place.made.is_settled
    assert len(place.made.seen.completions) == 1


@pytest.mark.parametrize("by", [By.SESSION, By.AGENT])
async def test_a_loop_is_stopped_and_other_sessions_go_on(by: By) -> None:
    place = Place(tenant(rule(Dimension.REQUESTS, Lifetime(5, 60_000), by=[by])))
    header = {By.SESSION: "x_session_id", By.AGENT: "x_agent_id"}[by]
    looping = head(**{header: "loop"})
    body = chat() if by is By.SESSION else chat(metadata={"agent_id": "another"})
    for _ in range(5):
        decision = await decided(place.made, body, looping)
        place.made.picker.complete(ended(decision))
    await place.used()
    for _ in range(10):
        place.now_ms += 50_000
        answer = await refused(place.made, body, looping)
        assert answer.status == 429
    headers = dict(answer.headers)
    assert (headers["retry-after"], headers["x-should-retry"]) == ("60", "false")
    assert "until nobody has asked for 1m0s" in answer.body.decode()
    await decided(place.made, body, head(**{header: "other"}))
    await decided(place.made, chat())  # without one it is not counted
    place.now_ms += 60_000
    await decided(place.made, body, looping)


@pytest.mark.parametrize(
    "body",
    [{"session_id": "s"}, {"prompt_cache_key": "s"}, {"metadata": {"agent_id": "s"}}],
)
async def test_sessions_and_agents_are_named_in_bodies_too(body: dict[str, object]) -> None:
    by = By.AGENT if "metadata" in body else By.SESSION
    place = Place(tenant(rule(Dimension.REQUESTS, Lifetime(1, 60_000), by=[by])))
    asked = orjson.dumps(orjson.loads(chat()) | body)
    await decided(place.made, asked)
    assert (await refused(place.made, asked)).status == 429
    for odd in (None, 5, ["s"], "", {"a": 1}):
        given = {"session_id": odd, "prompt_cache_key": odd, "metadata": odd}
        await decided(place.made, orjson.dumps(orjson.loads(chat()) | given))


async def test_sessions_without_number_share_what_is_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reserve, "KnownNames", partial(KnownNames, max_names=5))
    place = Place(tenant(rule(Dimension.REQUESTS, Lifetime(3, 60_000), by=[By.SESSION])))
    outcomes = [await ask(place.made, chat(), head(x_session_id=f"s{i}")) for i in range(20)]
    assert sum(isinstance(one, Decision) for one in outcomes) == 5 + 3


FORMS: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("/v1/chat/completions", {"max_tokens": 5_000}, {"max_tokens": 990}),
    (
        "/v1/chat/completions",
        {"max_completion_tokens": 5_000, "max_tokens": 7_000},
        {"max_completion_tokens": 990, "max_tokens": 990},
    ),
    ("/v1/chat/completions", {"max_tokens": "5000", "n": 3}, {"max_tokens": 330, "n": 3}),
    ("/v1/completions", {"max_tokens": 5_000, "prompt": ["a", "b"], "n": 2}, {"max_tokens": 247}),
    ("/v1/responses", {"max_output_tokens": 5_000, "input": "a"}, {"max_output_tokens": 990}),
    ("/v1/messages", {"max_tokens": 5_000}, {"max_tokens": 990}),
    (
        "/inference/v1/generate",
        {"token_ids": [1], "sampling_params": {"max_tokens": 5_000, "top_k": 1}},
        {"sampling_params": {"max_tokens": 990, "top_k": 1}},
    ),
]


@pytest.mark.parametrize(("path", "given", "sent"), FORMS)
async def test_a_plan_may_clamp_what_a_limit_can_never_grant(
    path: str, given: dict[str, object], sent: dict[str, object]
) -> None:
    limited = replace(tenant(rule(Dimension.OUTPUT_TOKENS, 990)), clamp_max_tokens=True)
    body = orjson.loads(chat()) | given
    place = Place(limited)
    decision = await decided(place.made, orjson.dumps(body), head(path))
    assert decision.body is not None
    assert orjson.loads(decision.body) == body | sent
    each = int(dict(decision.response_headers)["x-max-tokens-clamped"])
    assert f"{each}" in decision.body.decode()
    held = (await place.used())["output_tokens"]
    assert 980 < held <= 990
    place.made.picker.complete(ended(decision, input_tokens=5, output_tokens=700))
    await place.used()
    decision = await decided(place.made, orjson.dumps(body), head(path))
    assert int(dict(decision.response_headers)["x-max-tokens-clamped"]) <= 290, "what is left"
    place.made.picker.complete(ended(decision, input_tokens=5, output_tokens=280))
    await place.used()
    answer = await refused(place.made, orjson.dumps(body), head(path))
    assert int(dict(answer.headers)["retry-after"]) > 0, "less than a quarter is left"


@pytest.mark.parametrize(("path", "given", "sent"), FORMS)
async def test_without_clamping_the_answer_says_what_would_fit(
    path: str, given: dict[str, object], sent: dict[str, object]
) -> None:
    place = Place(tenant(rule(Dimension.OUTPUT_TOKENS, 990)))
    body = orjson.loads(chat()) | given
    answer = await refused(place.made, orjson.dumps(body), head(path))
    assert answer.status == 429
    assert dict(answer.headers)["x-should-retry"] == "false"
    found = re.search(r"with max_tokens (\d+) or less", answer.body.decode())
    assert found is not None
    limited = replace(tenant(rule(Dimension.OUTPUT_TOKENS, 990)), clamp_max_tokens=True)
    clamped = await decided(Place(limited).made, orjson.dumps(body), head(path))
    assert dict(clamped.response_headers)["x-max-tokens-clamped"] == found[1]
    smaller = orjson.loads(clamped.body or b"")
    await decided(place.made, orjson.dumps(smaller), head(path))


async def test_a_prompt_that_is_too_large_is_told_so() -> None:
    limited = replace(tenant(rule(Dimension.TOTAL_TOKENS, 100)), clamp_max_tokens=True)
    answer = await refused(Place(limited).made, chat("word " * 400, max_tokens=5))
    assert answer.status == 429
    assert "The prompt alone is too large" in answer.body.decode()


ENCODED = gzip.compress(random.Random(1).randbytes(40_000))
HEAVY = chat("[" * 40_000, max_tokens=1)
BOMB = gzip.compress(chat("[" * 9_000_000, max_tokens=1))
assert len(BOMB) < SURE_BYTES


def _unread(*_: object) -> None:
    raise AssertionError("the body was read")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (HEAVY, {}),
        (ENCODED, {"content_encoding": "gzip"}),
        (BOMB, {"content_encoding": "gzip"}),
    ],
)
@pytest.mark.parametrize("dimension", [Dimension.REQUESTS, Dimension.TOTAL_TOKENS])
async def test_a_caller_over_its_limits_makes_no_work(
    monkeypatch: pytest.MonkeyPatch, dimension: Dimension, body: bytes, headers: dict[str, str]
) -> None:
    place = Place(TenantPolicy(ACME, (rule(dimension, 30),)))
    decision = await decided(place.made, chat(max_tokens=1))
    place.made.picker.complete(end_of(decision, input_tokens=20, output_tokens=10))
    await place.limiter.drained()
    for _ in range(29 if dimension is Dimension.REQUESTS else 0):
        await decided(place.made, chat(max_tokens=1))
    monkeypatch.setattr(parse, "read_heavy", _unread)
    monkeypatch.setattr(decode, "decode", _unread)
    before = await left_of(place)
    answer = await refused(place.made, body, head(**headers))
    assert answer.status == 429
    assert dict(answer.headers)["retry-after"]
    assert await left_of(place) == before


async def test_a_long_body_within_limits_takes_what_any_other_does() -> None:
    place = Place(TenantPolicy(ACME, (rule(Dimension.REQUESTS, 2),)))
    for left in (1, 0):
        await decided(place.made, HEAVY)
        assert await left_of(place) == left
    assert (await refused(place.made, HEAVY)).status == 429


async def left_of(place: Place) -> int:
    (one,) = await place.accounts.standings(Subject(ACME, "k1"))
    return one.remaining
