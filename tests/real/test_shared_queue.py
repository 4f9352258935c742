"""Two picker workers with one queue, through a real Envoy: one replica that runs one request at a
time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.replicas import STEADY, Replica
from tests.real.test_queue import COMPLETIONS, HOLDERS, body, until_waiting, waiting

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("shared")
    async with Replica(folder, *STEADY, "--max-num-seqs=1") as replica:
        config: Json = {
            "listen": {"drain_timeout_s": 20},
            "picker": {"workers": 2, "decision_timeout_s": 1, "scrape": {"interval_s": 0.05}},
            "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
            "flow": {"trust_headers": True},
        }
        async with Gateway(folder / "gateway", config) as running:
            await running.healthy(replica.address)
            yield running


async def until_idle(gateway: Gateway) -> None:
    async def so() -> bool:
        return await gateway.in_flight() == 0

    await eventually(so, "nothing is in flight")


@asynccontextmanager
async def full(
    gateway: Gateway, clients: Clients, tokens: int = 100_000
) -> AsyncIterator[list[asyncio.Task[int]]]:
    """While the replica can begin nothing."""
    holders = clients.many("holder", tokens, HOLDERS)

    async def so() -> bool:
        endpoints = (await gateway.endpoints()).values()
        return [one["waiting_requests"] for one in endpoints] == [HOLDERS - 1]

    await eventually(so, "the replica has requests waiting")
    try:
        yield holders
    finally:
        for holder in holders:
            holder.cancel()


async def config_versions(gateway: Gateway) -> set[object]:
    """Of the configurations in force in the workers."""
    pickers = (await gateway.status())["pickers"]
    assert isinstance(pickers, list)
    return {picker["config_version"] for picker in pickers}


class Clients:
    """Each request comes on a connection of its own, so both workers get some."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._session = aiohttp.ClientSession(
            gateway.url, connector=aiohttp.TCPConnector(limit=0, force_close=True)
        )
        self.order: list[str] = []
        """Flows, as their requests were answered."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, flow: str, tokens: int) -> int:
        headers = {"x-gateway-inference-fairness-id": flow}
        async with self._session.post(COMPLETIONS, json=body(tokens), headers=headers) as answer:
            await answer.read()
            self.order.append(flow)
            return answer.status

    def many(self, flow: str, tokens: int, requests: int) -> list[asyncio.Task[int]]:
        return [asyncio.create_task(self.ask(flow, tokens)) for _ in range(requests)]


async def test_flows_get_the_same_over_both_workers(gateway: Gateway) -> None:
    async with Clients(gateway) as clients:
        async with full(gateway, clients):
            tasks = clients.many("greedy", 5, 30)
            await until_waiting(gateway, 30)
            tasks += clients.many("modest", 5, 10)
            await until_waiting(gateway, 40)
        assert set(await asyncio.gather(*tasks)) == {200}
    first = Counter(clients.order[:16])
    print("".join(flow[0] for flow in clients.order))
    assert 6 <= first["modest"] <= 10, clients.order
    await until_idle(gateway)


async def test_who_leaves_is_gone_and_a_reload_keeps_what_waits(gateway: Gateway) -> None:
    async with Clients(gateway) as clients:
        async with full(gateway, clients):
            leaving, staying = clients.many("a", 1, 12), clients.many("b", 1, 12)
            await until_waiting(gateway, 24)
            for task in leaving:
                task.cancel()
            await until_waiting(gateway, 12)
            before = await config_versions(gateway)

            async def reloaded() -> bool:
                after = await config_versions(gateway)
                return len(after) == 1 and after != before

            gateway.write({**gateway.config, "flow": {"trust_headers": True, "aging_s": 4}})
            await eventually(reloaded, "every worker has the new file")
            await until_waiting(gateway, 12)
        assert set(await asyncio.gather(*staying)) == {200}
    await until_idle(gateway)


async def test_a_worker_that_dies_with_a_full_queue(gateway: Gateway) -> None:
    async with Clients(gateway) as clients:
        async with full(gateway, clients):
            tasks = clients.many("a", 1, 24) + clients.many("b", 1, 8)
            await until_waiting(gateway, 32)
            one, _ = gateway.pids("gateway.run.worker")
            os.kill(one, signal.SIGKILL)
            done, _ = await asyncio.wait(tasks, timeout=1.0)
            assert done
            assert {task.result() for task in done} == {503}, "what waited there is told at once"
        statuses = Counter(await asyncio.gather(*tasks))
        assert statuses == {503: len(done), 200: 32 - len(done)}, "all others are served"

    async def back() -> bool:
        return len(gateway.pids("gateway.run.worker")) == 2

    await eventually(back, "both workers are there")
    await until_idle(gateway)
    ids = Counter(line["request_id"] for line in gateway.request_log())
    assert max(ids.values()) == 1


async def test_two_workers_that_stop_refuse_what_waits_and_finish_what_runs(
    gateway: Gateway,
) -> None:
    async with Clients(gateway) as clients:
        async with full(gateway, clients, tokens=100) as holders:
            tasks = clients.many("a", 1, 12)

            async def so() -> bool:
                requests = (await waiting(gateway))["requests"]
                return isinstance(requests, int) and requests >= 6

            await eventually(so, "half of them wait")  # those that run may end meanwhile
            gateway.signal(signal.SIGTERM)
            statuses = Counter(await asyncio.gather(*tasks))
            assert set(statuses) <= {200, 503}
            assert statuses[503]
            assert set(await asyncio.gather(*holders)) == {200}
        assert await gateway.exited() == 0
