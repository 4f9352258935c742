"""Two gateways on one Redis: a worker is killed, Redis gets slow, a plan changes; the clients'
records stand against what the replica generated."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from loadtests.lab.limits import truth
from loadtests.lab.limits.drive import Drive, Load
from loadtests.lab.limits.history import History
from loadtests.lab.limits.judge import Slack, Verdict, judge
from loadtests.lab.limits.rules import Rule
from tests.real.gateway import Gateway, Json, eventually
from tests.real.limits.accounts import key_of, limit, redis_store, tenant
from tests.real.limits.redis_proxy import RedisProxy
from tests.real.replicas import Replica, stepping
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

LEASE_S: Final = 2.0
SLOW_S: Final = 0.03
SECONDS: Final = 6.0
BURST: Final = 600
PER_MINUTE: Final = 3_000
SMALLER: Final = 1_000
STEADY_RULES: Final = (
    Rule("total_tokens", PER_MINUTE, 60.0, BURST),
    Rule("requests", 1_200, 60.0, 60),
)
MOVING_RULES: Final = (Rule("total_tokens", PER_MINUTE, 60.0, BURST),)
"""What is granted at most, whatever the plan says at the time."""
PROMPT: Final = 20


@dataclass(frozen=True)
class Place:
    """What a history goes through."""

    gateways: Sequence[Gateway]
    proxy: RedisProxy
    replica: Replica

    async def change_plan(self, name: str) -> None:
        """On both gateways, one after the other, as in a roll-out."""
        for gateway in self.gateways:
            gateway.write({**gateway.config, "tenants": tenants(name)})
            await asyncio.sleep(0.3)

    async def kill_a_worker(self) -> None:
        """Of the first gateway; it comes back."""
        gateway = self.gateways[0]
        pid = gateway.pids("gateway.run.worker")[0]
        os.kill(pid, signal.SIGKILL)

        async def again() -> bool:
            workers = gateway.pids("gateway.run.worker")
            return len(workers) == 2 and pid not in workers

        await eventually(again, "two workers run again")


def tenants(moving: str) -> list[Json]:
    return [tenant("steady", plan="large"), tenant("moving", plan=moving)]


def configuration(url: str, replica: Replica) -> Json:
    return {
        "picker": {"workers": 2},
        "limits": {"store": redis_store(url, timeout_ms=2_000), "lease_s": LEASE_S},
        "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
        "plans": [
            {
                "name": name,
                "limits": [
                    limit("total_tokens", amount, "minute", burst=min(BURST, amount)),
                    limit("requests", 1_200, "minute", burst=60),
                ],
            }
            for name, amount in (("large", PER_MINUTE), ("small", SMALLER))
        ],
        "tenants": tenants("large"),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("history")
    options = (*stepping(5), "--output-tokens-min=100000", "--num-blocks=65536")
    async with RedisProxy(server.socket) as proxy, Replica(folder, *options) as replica:
        config = configuration(proxy.url, replica)
        one, other = (Gateway(folder / name, config) for name in ("one", "other"))
        async with asyncio.TaskGroup() as starting:
            for gateway in (one, other):
                starting.create_task(gateway.start())
        try:
            yield Place((one, other), proxy, replica)
        finally:
            await asyncio.gather(one.stop(), other.stop())


async def trouble(place: Place) -> None:
    """All that goes wrong, while clients ask."""
    await asyncio.sleep(1.0)
    await place.kill_a_worker()
    await place.change_plan("small")
    place.proxy.delay_s = SLOW_S
    await asyncio.sleep(1.0)
    await place.change_plan("large")
    place.proxy.delay_s = 0.0


def verdict_on(history: History, rules: Sequence[Rule]) -> Verdict:
    # What a killed worker was still deciding is back when its lease is over.
    return judge(history, rules, Slack(settle_s=1.5, lease_s=LEASE_S + 2.0))


async def test_limits_hold_whatever_happens(place: Place) -> None:
    drives = {
        name: Drive(
            Load(
                targets=[gateway.url for gateway in place.gateways],
                keys=[key_of(name)],
                model="m",
                clients=6,
                duration_s=SECONDS,
                prompt_tokens=PROMPT,
                output_tokens=40,
                seed=seed,
            )
        )
        for seed, name in enumerate(("steady", "moving"))
    }
    steady, moving, _ = await asyncio.gather(
        drives["steady"].run(), drives["moving"].run(), trouble(place)
    )
    made = await truth.generated([f"http://{place.replica.address}"])
    admin = place.gateways[1].admin
    charged = await asyncio.gather(
        *(truth.charged_at_rest(admin, {}, name, quiet_s=LEASE_S + 0.5) for name in drives)
    )
    verdict = verdict_on(History(steady, made, charged[0], rested=True), STEADY_RULES)
    assert verdict.ok, verdict
    assert verdict.admitted > 15, verdict
    assert verdict.refused > 10, verdict

    # Which plan judged a refusal is unknown: the rest must hold all the same.
    changing = verdict_on(History(moving, made, charged[1], rested=True), MOVING_RULES)
    assert not any(changing.overshoot.values()), changing
    assert (changing.lost_tokens, changing.doubled_tokens) == (0, 0), changing
    assert changing.admitted > 10, changing
