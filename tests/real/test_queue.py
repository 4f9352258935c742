"""Requests that wait for a pool which is full, through a real Envoy: one replica that runs one
request at a time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.replicas import STEADY, Replica

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

COMPLETIONS, MESSAGES = "/v1/completions", "/v1/messages"
DROPPED = "x-llm-d-request-dropped-reason"
BUDGET: Json = {"count": "total_tokens", "limit": 1_000_000, "window": "calendar", "period": "day"}
HOLDERS = 3
"""Requests that run in the replica, or wait there."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("queue")
    concurrency: Json = {"count": "concurrency", "limit": 100}
    async with Replica(folder, *STEADY, "--max-num-seqs=1") as replica:
        config: Json = {
            "listen": {"drain_timeout_s": 20},
            "picker": {"decision_timeout_s": 1, "scrape": {"interval_s": 0.05}},
            "flow": {"ttl_s": 40, "sheddable_ttl_s": 1.5, "evict_for": 5},
            "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
            "identity": {"api_keys": False, "trusted_headers": {"tenant": "x-tenant-id"}},
            "tenants": [
                {"name": "acme", "limits": [concurrency]},
                {"name": "bulk", "priority": -1, "limits": [concurrency, BUDGET]},
                {"name": "vip", "priority": 5, "limits": [concurrency]},
            ],
        }
        async with Gateway(folder / "gateway", config) as running:
            yield running


def body(tokens: int, *, stream: bool = False) -> Json:
    prompt = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}
    return {"model": "m", "max_tokens": tokens, "stream": stream, **prompt}


async def waiting(gateway: Gateway) -> Json:
    async with aiohttp.ClientSession() as session:
        answer = await session.get(f"{gateway.admin}/api/queue")
        (pool,) = (await answer.json())["pools"]
        found: Json = pool
        return found


async def until_waiting(gateway: Gateway, requests: int) -> float:
    async def so() -> bool:
        return (await waiting(gateway))["requests"] == requests

    return await eventually(so, f"{requests} requests wait")


async def until_idle(gateway: Gateway) -> None:
    """Nothing is under way, and nothing is held of any limit."""

    async def so() -> bool:
        async with aiohttp.ClientSession() as session:
            for tenant in ("acme", "bulk", "vip"):
                answer = await session.get(f"{gateway.admin}/api/limits", params={"tenant": tenant})
                if answer.status != 200:  # no picker runs
                    return False
                limit = (await answer.json())["limits"][0]
                if limit["used"]:
                    return False
        return await gateway.in_flight() == 0

    await eventually(so, "everything is given back")


class Asked:
    """A request of a tenant, that may take its time."""

    def __init__(
        self, gateway: Gateway, tenant: str, path: str, tokens: int, *, stream: bool = False
    ) -> None:
        self.status, self.headers, self.json = 0, dict[str, str](), dict[str, Any]()
        self.id = str(uuid4())
        self._gateway, self._tenant = gateway, tenant
        self.task = asyncio.ensure_future(self._run(body(tokens, stream=stream), path))

    async def _run(self, asked: Json, path: str) -> None:
        headers = {"x-tenant-id": self._tenant, "x-request-id": self.id}
        async with (
            aiohttp.ClientSession(self._gateway.url, headers=headers) as session,
            session.post(path, json=asked) as answer,
        ):
            self.status = answer.status
            self.headers = {name.lower(): value for name, value in answer.headers.items()}
            if asked["stream"]:
                await answer.read()
            else:
                self.json = await answer.json()

    @property
    def error(self) -> str:
        return str(self.json["error"].get("code", self.json["error"]["type"]))


def ask(gateway: Gateway, tenant: str, path: str = COMPLETIONS, tokens: int = 1) -> Asked:
    return Asked(gateway, tenant, path, tokens)


@asynccontextmanager
async def full(gateway: Gateway, tokens: int = 100_000) -> AsyncIterator[list[Asked]]:
    """While its pool can begin nothing. The requests that hold it leave at the end."""
    await until_idle(gateway)
    holders = [ask(gateway, "acme", tokens=tokens) for _ in range(HOLDERS)]

    async def so() -> bool:
        endpoints = (await gateway.endpoints()).values()
        return [one["waiting_requests"] for one in endpoints] == [HOLDERS - 1]

    await eventually(so, "the replica has requests waiting")
    try:
        yield holders
    finally:
        for holder in holders:
            holder.task.cancel()
        await asyncio.gather(*(one.task for one in holders), return_exceptions=True)


async def logged(gateway: Gateway, *asked: Asked) -> list[Json]:
    """The lines of requests in the log, when each has one."""

    def found() -> list[Json]:
        return [line for line in gateway.request_log() if line["request_id"] in ids]

    async def so() -> bool:
        return ids <= {line["request_id"] for line in found()}

    ids: set[object] = {one.id for one in asked}
    await eventually(so, "each has a line in the request log")
    assert len(found()) == len(ids)
    return found()


async def ended(*asked: Asked) -> None:
    await asyncio.wait_for(asyncio.gather(*(one.task for one in asked)), 20)


async def test_what_waits_goes_on_when_there_is_room(gateway: Gateway) -> None:
    async with full(gateway):
        late = [ask(gateway, "acme") for _ in range(3)]
        await until_waiting(gateway, 3)
        seen: Any = await waiting(gateway)
        assert seen["saturation"] == 1.0
        (low,) = seen["classes"]
        assert [flow["flow"] for flow in low["flows"]] == ["acme"]
        assert 'penstock_queue_requests{pool="p",priority="0"} 3.0' in await gateway.metrics()
    await ended(*late)
    assert [one.status for one in late] == [200] * 3
    for line in await logged(gateway, *late):
        assert float(str(line["queue_ms"])) > 0


async def test_who_has_waited_too_long_is_told_when_to_come_back(gateway: Gateway) -> None:
    """It waits for longer than Envoy waits for a picker that hangs."""
    async with full(gateway):
        late = [ask(gateway, "bulk"), ask(gateway, "bulk", MESSAGES)]
        await until_waiting(gateway, 2)
        await ended(*late)
    for one in late:
        assert (one.status, one.headers[DROPPED]) == (429, "rejected-ttl-expired")
        assert int(one.headers["retry-after"]) >= 1
        assert int(one.headers["x-penstock-predicted-ttft-ms"]) >= 1500
    assert (late[0].error, late[1].error) == ("queue_timeout", "rate_limit_error")
    assert late[1].json["type"] == "error"
    for line in await logged(gateway, *late):
        assert (line["reason"], line["status"]) == ("queue_timeout", 429)
        assert float(str(line["queue_ms"])) >= 1500


async def test_what_may_be_shed_is_shed(gateway: Gateway) -> None:
    async with full(gateway):
        ahead = [ask(gateway, "acme", tokens=100_000) for _ in range(3)]

        async def stuck() -> bool:
            """For longer than what may be shed may wait."""
            classes: Any = (await waiting(gateway))["classes"]
            return bool(classes) and classes[0]["oldest_s"] > 1.6

        await eventually(stuck, "nothing moves")
        bulk = [ask(gateway, "bulk") for _ in range(3)]
        await ended(*bulk)
        for one in ahead:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in ahead), return_exceptions=True)
    for one in bulk:
        assert (one.status, one.error) == (429, "overloaded")
        assert one.headers[DROPPED] == "rejected-saturated"
        assert int(one.headers["retry-after"]) >= 1


async def budget_used(gateway: Gateway) -> int:
    async with aiohttp.ClientSession() as session:
        answer = await session.get(f"{gateway.admin}/api/limits", params={"tenant": "bulk"})
        return int((await answer.json())["limits"][1]["used"])


async def test_what_runs_may_be_evicted_until_its_answer_begins(gateway: Gateway) -> None:
    await until_idle(gateway)
    before = await budget_used(gateway)
    begun = Asked(gateway, "bulk", COMPLETIONS, 100_000, stream=True)
    holders = [ask(gateway, "bulk", path, 100_000) for path in (COMPLETIONS, MESSAGES)]

    async def so() -> bool:
        endpoints = (await gateway.endpoints()).values()
        return [one["waiting_requests"] for one in endpoints] == [2]

    await eventually(so, "the replica has requests waiting")
    vips = [ask(gateway, "vip") for _ in range(3)]
    await ended(*holders)
    for one in holders:
        assert (one.status, one.headers[DROPPED]) == (429, "evicted")
        assert int(one.headers["retry-after"]) >= 1
    assert [one.error for one in holders] == ["evicted", "rate_limit_error"]
    assert begun.status == 200
    assert not begun.task.done()
    begun.task.cancel()
    await ended(*vips)
    assert [one.status for one in vips] == [200] * 3
    await until_idle(gateway)
    for line in await logged(gateway, *holders):
        assert (line["status"], line["reason"], line["output_tokens"]) == (429, "evicted", 0)
    (line,) = await logged(gateway, begun)
    used = await budget_used(gateway) - before
    assert used == int(str(line["input_tokens"])) + int(str(line["output_tokens"]))


async def test_who_leaves_while_it_waits_gets_everything_back(gateway: Gateway) -> None:
    async with full(gateway):
        late = [ask(gateway, "acme") for _ in range(5)]
        await until_waiting(gateway, 5)
        for one in late:
            one.task.cancel()
        await until_waiting(gateway, 0)
    await until_idle(gateway)
    for line in await logged(gateway, *late):
        assert (line["reason"], line["status"]) == ("client_aborted", 0)
        assert (line["tenant"], line["model"], line["pool"]) == ("acme", "m", "p")
        assert float(str(line["queue_ms"])) > 0


async def test_what_waits_outlives_a_change_of_the_configuration(gateway: Gateway) -> None:
    async with full(gateway):
        late = [ask(gateway, "acme") for _ in range(3)]
        await until_waiting(gateway, 3)
        changed: Any = dict(gateway.config)
        changed["flow"] = {**changed["flow"], "aging_s": 7, "max_requests": 50}
        before = (await gateway.status())["config"]["version"]  # type: ignore[index]
        gateway.write(changed)

        async def in_force() -> bool:
            config = (await gateway.status())["config"]
            return bool(config["version"] > before)  # type: ignore[index]

        await eventually(in_force, "the change is in force")
        assert (await waiting(gateway))["requests"] == 3
    await ended(*late)
    assert [one.status for one in late] == [200] * 3


async def test_a_picker_that_hangs_is_noticed_and_what_waits_goes_on(gateway: Gateway) -> None:
    async with full(gateway):
        late = ask(gateway, "acme")
        await until_waiting(gateway, 1)
        (worker,) = gateway.pids("gateway.run.worker")
        os.kill(worker, signal.SIGSTOP)
        try:
            new = ask(gateway, "acme")
            await ended(new)  # long before the time that a request may wait
            assert new.status == 503
            assert not late.task.done()
        finally:
            os.kill(worker, signal.SIGCONT)
    await ended(late)
    assert late.status == 200
    (line,) = await logged(gateway, new)
    assert (line["status"], line["reason"]) == (503, "picker_unavailable")


async def test_a_picker_that_dies_with_a_full_queue(gateway: Gateway) -> None:
    async with full(gateway):
        late = [ask(gateway, "acme") for _ in range(4)]
        await until_waiting(gateway, 4)
        (worker,) = gateway.pids("gateway.run.worker")
        os.kill(worker, signal.SIGKILL)
        await ended(*late)
        assert {one.status for one in late} == {503}
    await until_idle(gateway)
    assert await served(gateway) == 200
    lines = gateway.request_log()
    assert max(Counter(line["request_id"] for line in lines).values(), default=1) == 1
    # What Envoy was just reporting to the dead picker is lost.
    found = [line for line in lines if line["request_id"] in {one.id for one in late}]
    assert {(line["status"], line["reason"]) for line in found} <= {(503, "picker_unavailable")}


async def served(gateway: Gateway) -> int:
    one = ask(gateway, "acme")
    await ended(one)
    return one.status


async def test_a_gateway_that_stops_refuses_what_waits_and_finishes_what_runs(
    gateway: Gateway,
) -> None:
    async with full(gateway, tokens=100) as holders:
        late = [ask(gateway, "acme"), ask(gateway, "acme", MESSAGES)]
        await until_waiting(gateway, 2)
        gateway.signal(signal.SIGTERM)
        await ended(*late, *holders)
        assert await gateway.exited() == 0
    for one in late:
        assert (one.status, one.headers[DROPPED]) == (503, "rejected-shutting-down")
    assert (late[0].error, late[1].error) == ("shutting_down", "overloaded_error")
    assert [one.status for one in holders] == [200] * HOLDERS
