"""Parts that die under load: what they held comes back, and nothing is counted twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.limits.accounts import Used, key_of, left, limit, redis_store, tenant, used
from tests.real.limits.asking import Api, Ask, Outcome, send
from tests.real.replicas import Replica, stepping
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

WORKERS: Final = 3
CLIENTS: Final = 16
LEASE_S: Final = 2.0
STEP_MS: Final = 10
LONGEST: Final = 40
PROMPT: Final = tuple(range(1, 31))
UNSEEN_EACH: Final = 2
"""Requests of a client whose ends nobody may have seen when something dies: the one under way, and
one whose end still waited in Envoy's buffer (50 ms; none is shorter than that)."""
SLACK_S: Final = 10.0
"""A busy machine's."""
TENANTS: Final = ("one", "two", "three", "four")
"""One for each test."""
_PROMPT: Final = "vllm:prompt_tokens_total"
_PRODUCED: Final = "vllm:generation_tokens_total"
_unused: Final = iter(TENANTS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replica]:
    options = (*stepping(STEP_MS), "--output-tokens-min=100000", "--num-blocks=65536")
    async with Replica(tmp_path_factory.mktemp("replica"), *options) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    server: RedisServer, replica: Replica, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """Of which each test kills something; all of it comes back."""
    config = configuration(server, replica)
    async with Gateway(tmp_path_factory.mktemp("gateway"), config) as running:
        yield running


def configuration(server: RedisServer, replica: Replica) -> Json:
    return {
        "picker": {"workers": WORKERS},
        "limits": {"store": redis_store(server.url, timeout_ms=1_000), "lease_s": LEASE_S},
        "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
        "tenants": [
            tenant(
                name,
                limit("concurrency", 1_000),
                limit("total_tokens", 10**9, "month", window="calendar"),
                limit("requests", 10**9, "month", window="calendar"),
            )
            for name in TENANTS
        ],
    }


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant that nobody has used before, and what the engine had counted by then."""

    tenant: str
    replica: Replica
    prompt_before: float
    produced_before: float

    async def prompt(self) -> float:
        """Tokens of prompts that the engine has served since."""
        return await self.replica.metric(_PROMPT) - self.prompt_before

    async def produced(self) -> float:
        """Tokens that it has made since."""
        return await self.replica.metric(_PRODUCED) - self.produced_before


@pytest_asyncio.fixture(loop_scope="module")
async def account(replica: Replica) -> Account:
    before = [await replica.metric(name) for name in (_PROMPT, _PRODUCED)]
    return Account(next(_unused), replica, *before)


class Crowd:
    """Clients that ask one request after another, and do not mind errors."""

    def __init__(self, gateway: Gateway, account: Account) -> None:
        self.outcomes: list[Outcome] = []
        self._url = gateway.url
        self._key = key_of(account.tenant)
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.create_task(self._client(i)) for i in range(CLIENTS)]

    async def more(self, requests: int) -> None:
        """Returns when so many more have been served whole."""
        until = self.whole + requests

        async def enough() -> bool:
            return self.whole >= until

        await eventually(enough, f"{requests} more answers", timeout_s=60)

    @property
    def whole(self) -> int:
        return sum(one.whole for one in self.outcomes)

    def kinds(self) -> dict[str, int]:
        """How they ended."""
        errors = [one.error.get("error", "broken off") for one in self.outcomes if not one.whole]
        codes = [e["code"] if isinstance(e, dict) else str(e) for e in errors]
        return {"whole": self.whole, **Counter(codes)}

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, number: int) -> None:
        rng = random.Random(number)
        async with aiohttp.ClientSession(self._url) as session:
            while not self._stopping.is_set():
                tokens = rng.randint(LONGEST // 4, LONGEST)
                ask = Ask(Api.COMPLETIONS, PROMPT, max_tokens=tokens, stream=rng.random() < 0.5)
                outcome = await send(session, ask, self._key)
                self.outcomes.append(outcome)
                if not outcome.whole:
                    await asyncio.sleep(0.1)


async def nothing_held(gateway: Gateway, account: Account) -> float:
    """Seconds until no request holds anything, as the store tells."""

    async def so() -> bool:
        told = await left(gateway, tenant=account.tenant)
        return bool(told) and told["concurrency"].idle

    return await eventually(so, "nothing is held", timeout_s=LEASE_S + SLACK_S)


async def in_ledger(gateway: Gateway, account: Account) -> Used:
    """The tenant's sum."""
    return (await used(gateway, "tenant")).get((account.tenant,), Used(0, 0, 0, 0))


async def agreed(gateway: Gateway, account: Account) -> Used:
    """The tenant's sum, as soon as it is what its buckets were charged."""
    found = Used(0, 0, 0, 0)

    async def so() -> bool:
        nonlocal found
        found = await in_ledger(gateway, account)
        told = await left(gateway, tenant=account.tenant)
        tokens = found.input_tokens + found.output_tokens
        return (
            told["requests-per-calendar-month"].used,
            told["total_tokens-per-calendar-month"].used,
        ) == (
            found.requests,
            tokens,
        )

    await eventually(so, "buckets and ledger agree")
    return found


async def agree(gateway: Gateway, account: Account, crowd: Crowd, deaths: int) -> None:
    """The ledger has everything but what nobody could see the end of, and nothing twice."""
    print(crowd.kinds())
    took_s = await nothing_held(gateway, account)
    await asyncio.sleep(LEASE_S)  # requests of the dead are settled late; nothing tells when
    found = await agreed(gateway, account)
    prompt, produced = await account.prompt(), await account.produced()
    bound = UNSEEN_EACH * CLIENTS * deaths
    print(f"ledger {found}; nothing held after {took_s:.2f} s")
    print(
        f"engine: {prompt:.0f} + {produced:.0f}; not in the ledger: {crowd.whole - found.requests}"
        f" requests, {produced - found.output_tokens:.0f} tokens; bound {bound} requests"
    )
    served = prompt / len(PROMPT)
    assert found.requests <= served
    assert found.input_tokens <= prompt
    assert found.output_tokens <= produced
    assert served - found.requests <= bound
    assert produced - found.output_tokens <= bound * LONGEST


async def pids(gateway: Gateway) -> list[int]:
    """Of the pickers, as the admin API tells."""
    pickers = (await gateway.status())["pickers"]
    assert isinstance(pickers, list)
    return [picker["pid"] for picker in pickers]


async def all_ready(gateway: Gateway, gone: int) -> None:
    async def so() -> bool:
        pickers = (await gateway.status())["pickers"]
        assert isinstance(pickers, list)
        return gone not in await pids(gateway) and all(one["state"] == "ready" for one in pickers)

    await eventually(so, "all pickers are ready", timeout_s=60)


async def test_pickers_killed_one_after_the_other(gateway: Gateway, account: Account) -> None:
    """One of them is the one that Envoy tells of the requests' ends."""
    crowd = Crowd(gateway, account)
    for pid in await pids(gateway):
        await crowd.more(50)
        os.kill(pid, signal.SIGKILL)
        await all_ready(gateway, pid)
    await crowd.more(50)
    await crowd.stop()
    await agree(gateway, account, crowd, WORKERS)


async def test_streams_that_outlive_their_picker_are_charged(
    gateway: Gateway, replica: Replica, account: Account
) -> None:
    """By the ticket that they carry; what they held is back within the lease."""
    streams, tokens = 24, int(2.5 * LEASE_S * 1_000 / STEP_MS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(gateway.url, connector=connector) as session:
        ask = Ask(Api.COMPLETIONS, PROMPT, max_tokens=tokens)
        key = key_of(account.tenant)
        running = [asyncio.create_task(send(session, ask, key)) for _ in range(streams)]

        async def all_run() -> bool:
            return await replica.running() == streams

        await eventually(all_run, "all streams run")
        assert (await left(gateway, tenant=account.tenant))["concurrency"].used == streams
        os.kill((await pids(gateway))[0], signal.SIGKILL)
        kept: list[float] = []

        async def back() -> bool:
            kept.append((await left(gateway, tenant=account.tenant))["concurrency"].used)
            return kept[-1] < streams

        took_s = await eventually(back, "the dead picker's are back", timeout_s=LEASE_S + SLACK_S)
        print(f"the first of the dead picker's are back after {took_s:.2f} s")
        outcomes = await asyncio.gather(*running)
    assert all(one.whole for one in outcomes)

    async def charged() -> bool:
        return (await in_ledger(gateway, account)).requests >= streams

    await eventually(charged, "all streams are in the ledger")
    sum_of_all = Used(streams, streams * len(PROMPT), streams * tokens, 0)
    assert await agreed(gateway, account) == sum_of_all
    await nothing_held(gateway, account)


async def test_envoy_killed(gateway: Gateway, account: Account) -> None:
    crowd = Crowd(gateway, account)
    await crowd.more(50)
    os.kill(gateway.pids("envoy")[0], signal.SIGKILL)
    await crowd.more(50)
    await crowd.stop()
    await agree(gateway, account, crowd, 1)


async def test_everything_killed(gateway: Gateway, account: Account, tmp_path: Path) -> None:
    """The next one on the same Redis has the accounts, and gets back what was held. The last test
    of the file: it ends what the others share."""
    crowd = Crowd(gateway, account)
    await crowd.more(50)
    assert (await left(gateway, tenant=account.tenant))["concurrency"].used > 0
    for process in gateway.family():
        process.kill()
    await gateway.exited()
    await gateway.stop()
    await crowd.stop()
    async with Gateway(tmp_path / "second", gateway.config) as second:
        await agree(second, account, crowd, 1)
        after = Crowd(second, account)
        await after.more(20)
        await after.stop()
        crowd.outcomes += after.outcomes
        await agree(second, account, crowd, 1)
