"""Four pickers, 64 clients, one Redis: nobody gets more than the limits give, and what is counted
is what the engines produced."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.limits.accounts import (
    Left,
    held,
    key_of,
    left,
    limit,
    redis_store,
    tenant,
    used,
)
from tests.real.limits.asking import Api, Ask, Outcome, send
from tests.real.limits.engines import Counting, Failing
from tests.real.replicas import Replica, stepping
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

DURATION_S: Final = float(os.environ.get("PENSTOCK_EXACTNESS_S", "20"))
WORKERS: Final = 4
REPLICAS: Final = 2
STEP_MS: Final = 20
USERS: Final = ("ann", "bob", "")
WORDS: Final = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "anyway")
RATE: Final = {"second": 1.0, "minute": 60.0}
INPUT_MICROS, OUTPUT_MICROS = 1, 10
PRICING: Final = {"models": [{"model": "*", "input": INPUT_MICROS, "output": OUTPUT_MICROS}]}
WEIGHTS: Final = {"input": 1, "output": 4}
CONCURRENCY: Final = {"mixed": 14, "narrow": 3, "failing": 4}


@dataclass(frozen=True, slots=True)
class Charged:
    """A request in the accounts: what its client saw, and what its line in the request log says
    that it was charged."""

    outcome: Outcome
    tenant: str
    key: str
    reason: str
    input_tokens: int
    output_tokens: int

    def amount(self, count: str) -> int:
        """Of what a limit counts."""
        return {
            "requests": 1,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "weighted_tokens": self.input_tokens + 4 * self.output_tokens,
            "cost": INPUT_MICROS * self.input_tokens + OUTPUT_MICROS * self.output_tokens,
        }[count]


@dataclass(slots=True)
class Clients:
    """Those of a tenant: how many, and what each of them asks for."""

    tenant: str
    count: int
    make: Callable[[random.Random], Ask]
    keys: int = 1
    limits: list[Json] = field(default_factory=list)


def ids(rng: random.Random, most: int = 80) -> tuple[int, ...]:
    return tuple(rng.randrange(1, 1 << 20) for _ in range(rng.randint(1, most)))


def text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.choice([2, 20, 80])))


def bounded(rng: random.Random, model: str = "m") -> Ask:
    """What it will use at most is known beforehand: token ids are counted, max_tokens declared."""
    return Ask(
        Api.COMPLETIONS,
        ids(rng),
        model=model,
        max_tokens=rng.randint(1, 40),
        stream=rng.random() < 0.7,
        include_usage=rng.random() < 0.5,
        abort_after=1 + int(rng.expovariate(0.1)) if rng.random() < 0.1 else None,
    )


def steady(rng: random.Random, model: str) -> Ask:
    return Ask(
        Api.COMPLETIONS, ids(rng), model=model, max_tokens=rng.randint(1, 12), include_usage=True
    )


def anything(rng: random.Random) -> Ask:
    """Every API, with and without max_tokens and usage, streams and not, some left half-way."""
    api = rng.choice(list(Api))
    in_ids = api is Api.COMPLETIONS and rng.random() < 0.5
    declared = api is Api.MESSAGES or rng.random() < 0.5
    stream = rng.random() < 0.6
    return Ask(
        api,
        ids(rng) if in_ids else text(rng),
        max_tokens=rng.randint(1, 60) if declared else None,
        stream=stream,
        include_usage=api in (Api.CHAT, Api.COMPLETIONS) and rng.random() < 0.5,
        user=rng.choice(USERS),
        abort_after=1 + int(rng.expovariate(0.1)) if stream and rng.random() < 0.2 else None,
    )


TENANTS: Final = (
    Clients(
        "bounded",
        12,
        bounded,
        limits=[
            limit("requests", 15, "second", burst=20),
            limit("total_tokens", 24_000, "minute", burst=3_000),
            limit("input_tokens", 18_000, "minute", burst=1_800),
            limit("output_tokens", 9_000, "minute", burst=900),
            limit("weighted_tokens", 50_000, "minute", burst=5_200, weights=WEIGHTS),
            limit("total_tokens", 9_000, "minute", window="calendar", name="window"),
        ],
    ),
    Clients(
        "mixed",
        18,
        anything,
        keys=2,
        limits=[
            limit("requests", 25, "second"),
            limit("total_tokens", 60_000, "minute", burst=5_000),
            limit("output_tokens", 24_000, "minute", burst=2_000, by=["key"]),
            limit("requests", 4, "second", by=["user"]),
            limit("concurrency", CONCURRENCY["mixed"]),
            limit("requests", 1, "second", name="shadow", shadow=True),
        ],
    ),
    Clients(
        "windows",
        8,
        anything,
        limits=[
            limit("requests", 8, "second", window="calendar"),
            limit("total_tokens", 5_000, "minute", window="calendar"),
        ],
    ),
    Clients("budget", 6, bounded, limits=[limit("cost", 0.008, "day", window="calendar")]),
    Clients(
        "narrow",
        8,
        lambda rng: steady(rng, "counted"),
        limits=[limit("concurrency", CONCURRENCY["narrow"])],
    ),
    Clients(
        "failing",
        6,
        lambda rng: steady(rng, "failing") if rng.random() < 0.5 else anything(rng),
        limits=[limit("concurrency", CONCURRENCY["failing"]), limit("requests", 10, "second")],
    ),
    Clients("free", 6, anything),
)
assert sum(clients.count for clients in TENANTS) == 64


class Run:
    """The load and what was seen of it."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.outcomes: list[tuple[str, str, Outcome]] = []
        """With tenant and key."""
        self.seen: dict[str, list[dict[str, Left]]] = {one.tenant: [] for one in TENANTS}
        """What the admin API told of each tenant's limits while it ran."""
        self.began_s = time.time()
        self.end_s = self.began_s + DURATION_S
        self._ids = itertools.count()

    async def client(self, clients: Clients, number: int) -> None:
        """One request after another, and a short break after each refusal."""
        rng = random.Random(f"{clients.tenant} {number}")
        key = number % clients.keys
        async with aiohttp.ClientSession(self.gateway.url) as session:
            while time.time() < self.end_s:
                outcome = await send(
                    session,
                    clients.make(rng),
                    key_of(clients.tenant, key),
                    request_id=f"load-{next(self._ids)}",
                )
                self.outcomes.append((clients.tenant, f"{clients.tenant}-{key}", outcome))
                if outcome.status != 200:
                    await asyncio.sleep(rng.uniform(0.05, 0.25))

    async def watch(self) -> None:
        """Ask the admin API how the limits stand, again and again."""
        while time.time() < self.end_s:
            for name, seen in self.seen.items():
                seen.append(await left(self.gateway, tenant=name))
            await asyncio.sleep(0.5)


@dataclass(frozen=True, slots=True)
class Place:
    """Everything that took part, after the load."""

    gateway: Gateway
    server: RedisServer
    replicas: Sequence[Replica]
    counting: Counting
    failing: Failing
    run: Run
    charged: Sequence[Charged]

    def of(self, tenant: str) -> list[Charged]:
        """In order of the answers' beginnings."""
        mine = [one for one in self.charged if one.tenant == tenant]
        return sorted(mine, key=lambda one: one.outcome.granted_s)

    def on(self, model: str) -> list[Charged]:
        return [one for one in self.charged if one.outcome.ask.model == model]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("exact")
    lengths = ("--output-tokens-median=20", "--output-tokens-sigma=0.4", "--output-tokens-min=2")
    replicas = [Replica(folder, *stepping(STEP_MS), *lengths) for _ in range(REPLICAS)]
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")))
    async with AsyncExitStack() as stack:
        stack.callback(server.kill)
        server.start()
        counting = await stack.enter_async_context(Counting("counted"))
        failing = await stack.enter_async_context(Failing("failing"))
        for replica in replicas:
            await stack.enter_async_context(replica)
        config = configuration(replicas, counting, failing, server)
        gateway = await stack.enter_async_context(Gateway(folder / "gateway", config))
        await gateway.healthy(
            *(replica.address for replica in replicas), counting.address, failing.address
        )
        run = Run(gateway)
        clients = [run.client(one, i) for one in TENANTS for i in range(one.count)]
        await asyncio.gather(run.watch(), *clients)
        charged = await accounts(run)
        yield Place(gateway, server, replicas, counting, failing, run, charged)


def configuration(
    replicas: Iterable[Replica], counting: Counting, failing: Failing, server: RedisServer
) -> Json:
    """A store timeout that a busy machine does not reach: no outage here."""
    pools = {
        "sims": [replica.address for replica in replicas],
        "counting": [counting.address],
        "failing": [failing.address],
    }
    return {
        "picker": {"workers": WORKERS},
        "envoy": {"concurrency": 2},
        "limits": {"store": redis_store(server.url, timeout_ms=2_000)},
        "pricing": PRICING,
        "tenants": [tenant(one.tenant, *one.limits, keys=one.keys) for one in TENANTS],
        "pools": [
            {"name": name, "type": "static", "endpoints": endpoints}
            for name, endpoints in pools.items()
        ],
    }


async def accounts(run: Run) -> list[Charged]:
    """What was charged, once every request has ended in the request log."""
    outcomes = {outcome.request_id: (name, key, outcome) for name, key, outcome in run.outcomes}
    ended: list[Json] = []

    async def all_there() -> bool:
        lines = run.gateway.request_log()
        ended[:] = [line for line in lines if "duration_ms" in line]
        return len(lines) >= len(outcomes) and await run.gateway.in_flight() == 0

    await eventually(all_there, "every request in the log", timeout_s=20)
    charged = []
    for line in ended:
        name, key, outcome = outcomes[str(line["request_id"])]
        if not _counts(line):
            continue
        charged.append(
            Charged(
                outcome,
                name,
                key,
                str(line["reason"]),
                int(str(line["input_tokens"])),
                int(str(line["output_tokens"])),
            )
        )
    return charged


def _counts(line: Mapping[str, object]) -> bool:
    """Whether it is in the ledger: it was served, at least in part."""
    return line["reason"] in ("ok", "client_aborted") or bool(line["output_tokens"])


async def test_of_everything_there_was_enough(place: Place) -> None:
    """Otherwise the other tests show nothing."""
    kinds = Counter[tuple[str, str]]()
    for name, _, outcome in place.run.outcomes:
        if outcome.status != 200:
            kind = str(outcome.status)
        else:
            kind = "whole" if outcome.whole else "left" if outcome.left else "broken off"
        kinds[name, kind] += 1
    for (name, kind), count in sorted(kinds.items()):
        print(f"{name:10} {kind:12} {count:6}")
    for name in ("bounded", "mixed", "windows", "budget", "narrow", "failing"):
        assert kinds[name, "429"] >= 5, name
        assert kinds[name, "whole"] >= 5, name
    assert kinds["free", "429"] == 0
    assert sum(count for (_, kind), count in kinds.items() if kind == "left") >= 20
    assert min(place.failing.failures.values()) >= 2
    broken = {(name, status) for (name, status) in kinds if status.isdigit() and status != "429"}
    # Only one tenant asks the engine that fails; any other failure is the gateway's own.
    assert broken <= {("failing", status) for status in ("500", "502", "503")}


async def test_who_got_a_whole_answer_pays_what_the_engine_told(place: Place) -> None:
    whole = [one for one in place.charged if one.outcome.whole]
    for one in whole:
        ask = one.outcome.ask
        assert one.reason == "ok", one
        assert (one.input_tokens, one.output_tokens) == (
            ask.prompt_tokens,
            one.outcome.produced_tokens,
        ), one
    print(f"{len(whole)} whole answers, {sum(one.output_tokens for one in whole)} tokens")


async def test_every_request_is_in_the_ledger_once(place: Place) -> None:
    """By tenant, key, user and model."""
    groups = ("tenant", "key", "user", "model")
    expected = Counter[tuple[str, ...]]()
    tokens = Counter[tuple[str, ...]]()
    cost = Counter[tuple[str, ...]]()
    for one in place.charged:
        whose = (one.tenant, one.key, one.outcome.ask.user, one.outcome.ask.model)
        expected[whose] += 1
        tokens[(*whose, "input")] += one.input_tokens
        tokens[(*whose, "output")] += one.output_tokens
        cost[whose] += one.amount("cost")

    async def all_there() -> bool:
        found = await used(place.gateway, *groups)
        return sum(row.requests for row in found.values()) >= expected.total()

    await eventually(all_there, f"{expected.total()} requests in the ledger")
    rows = await used(place.gateway, *groups)
    assert {group: row.requests for group, row in rows.items()} == expected
    for group, row in rows.items():
        assert row.input_tokens == tokens[(*group, "input")], group
        assert row.output_tokens == tokens[(*group, "output")], group
        assert row.cost_micros == cost[group], group
    served = [outcome for _, _, outcome in place.run.outcomes if outcome.status == 200]
    assert expected.total() == len(served)
    print(f"{expected.total()} requests, {cost.total()} micro-units of money")


async def test_the_ledger_has_what_the_engines_produced(place: Place) -> None:
    """Of requests that were left half-way, the engine has made a chunk or two that nobody saw."""
    prompt = sum([await one.metric("vllm:prompt_tokens_total") for one in place.replicas])
    produced = sum([await one.metric("vllm:generation_tokens_total") for one in place.replicas])
    mine = place.on("m")
    broken_off = [one for one in mine if not one.outcome.whole]
    unseen = produced - sum(one.output_tokens for one in mine)
    print(f"sims: {produced:.0f} tokens made, {unseen:.0f} of them not charged;")
    print(f"{len(broken_off)} of {len(mine)} requests left half-way")
    assert 0 <= unseen <= 2 * len(broken_off)
    # Before the engine told its usage, text is charged as estimated.
    guessed = [
        one
        for one in broken_off
        if isinstance(one.outcome.ask.prompt, str) and one.outcome.ask.api is not Api.MESSAGES
    ]
    off = sum(one.input_tokens for one in mine) - prompt
    real = sum(one.outcome.ask.prompt_tokens for one in guessed)
    print(f"input: {prompt:.0f} tokens, {off:+.0f} by estimates of {len(guessed)} prompts ({real})")
    assert off == sum(one.input_tokens - one.outcome.ask.prompt_tokens for one in guessed)
    assert abs(off) <= 0.3 * real


async def test_the_ledger_has_what_failing_engines_produced(place: Place) -> None:
    for engine in (place.counting, place.failing):
        mine = place.on(engine.model)
        assert len(mine) == engine.requests
        assert sum(one.input_tokens for one in mine) == engine.input_tokens
        assert sum(one.output_tokens for one in mine) == engine.output_tokens
    print(place.failing.failures)


@pytest.mark.parametrize("clients", TENANTS, ids=lambda clients: clients.tenant)
async def test_nobody_got_more_than_the_limits_give(place: Place, clients: Clients) -> None:
    """At every instant since the beginning: settled <= burst + rate * time + debt, where debt is
    0 where all is declared, and otherwise at most what runs at once can use."""
    mine = place.of(clients.tenant)
    for one in clients.limits:
        count, amount = str(one["count"]), one["limit"]
        if count == "concurrency" or one.get("shadow"):
            continue
        assert isinstance(amount, int | float)
        debt = debt_of(clients, mine, count)
        for whose, group in grouped(mine, one).items():
            if one.get("window") == "calendar":
                most = amount * (1_000_000 if count == "cost" else 1)
                found = max(in_windows(group, count, str(one["period"])).values(), default=0)
                excess = found - most
            else:
                burst = one.get("burst", amount)
                assert isinstance(burst, int | float)
                excess = rolling_excess(
                    group, count, burst, amount / RATE[str(one["period"])], place.run.began_s
                )
            print(f"{clients.tenant} {count} {whose}: excess {excess:.0f}, bound {debt}")
            assert excess <= debt


def debt_of(clients: Clients, mine: Sequence[Charged], count: str) -> int:
    """What is documented: the sum of (used - reserved) of the requests in flight together."""
    if clients.make is bounded or count == "requests":
        return 0
    together = min(clients.count, CONCURRENCY.get(clients.tenant, clients.count))
    return together * max(one.amount(count) for one in mine)


def grouped(mine: Sequence[Charged], one: Json) -> dict[str, list[Charged]]:
    """By whom the limit counts; requests without a user do not count by user."""
    by = one.get("by") or [""]
    assert isinstance(by, list)
    groups: dict[str, list[Charged]] = {}
    for charged in mine:
        whose = {"": "all", "key": charged.key, "user": charged.outcome.ask.user}[by[0]]
        if whose:
            groups.setdefault(whose, []).append(charged)
    return groups


def rolling_excess(
    group: Sequence[Charged], count: str, burst: float, rate: float, began_s: float
) -> float:
    """Most by which the charges of what was granted exceed what the bucket had given by then."""
    total, worst = 0, float("-inf")
    for one in group:
        total += one.amount(count)
        worst = max(worst, total - burst - rate * (one.outcome.granted_s - began_s))
    return worst


def in_windows(group: Sequence[Charged], count: str, period: str) -> Counter[int]:
    """Charges by window, of the requests that surely were granted in it."""
    length_s = {"second": 1, "minute": 60, "day": 86_400}[period]
    sums = Counter[int]()
    for one in group:
        window = int(one.outcome.started_s // length_s)
        if int(one.outcome.granted_s // length_s) == window:
            sums[window] += one.amount(count)
    return sums


async def test_no_debt_where_everything_is_declared(place: Place) -> None:
    """While it ran, by what the store says."""
    for name in ("bounded", "mixed"):
        levels: dict[str, float] = {}
        for seen in place.run.seen[name]:
            for one in seen.values():
                if one.period_s:
                    levels[one.name] = min(levels.get(one.name, one.burst), one.level)
        print(name, {key: round(level) for key, level in levels.items()})
        assert len(place.run.seen[name]) >= 3
        if name == "bounded":
            rolling = {key: level for key, level in levels.items() if key != "window"}
            assert min(rolling.values()) > -2  # what a millisecond refills


async def test_no_more_run_than_may(place: Place) -> None:
    print(f"{place.counting.most} at once")
    assert place.counting.most == CONCURRENCY["narrow"]
    for name, most in CONCURRENCY.items():
        seen = [one["concurrency"].used for one in place.run.seen[name] if one]
        assert 0 < max(seen) <= most


async def test_in_the_end_nothing_is_held(place: Place) -> None:
    async def nothing() -> bool:
        return not held(place.server, [one.tenant for one in TENANTS])

    await eventually(nothing, "no reservation is left in Redis")
    for name in CONCURRENCY:
        assert (await left(place.gateway, tenant=name))["concurrency"].idle
