"""Several picker workers: one mind, whichever of them decides."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.real.gateway import Gateway, Json, eventually
from tests.real.load import Load
from tests.real.replicas import Replica, stepping

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

REPLICAS = 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Replica]]:
    folder = tmp_path_factory.mktemp("replicas")
    made = [Replica(folder, *stepping(2)) for _ in range(REPLICAS)]
    await asyncio.gather(*(replica.start() for replica in made))
    yield made
    for replica in made:
        replica.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    replicas: list[Replica], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    endpoints = [replica.address for replica in replicas]
    config: Json = {
        "picker": {"workers": 2},
        "scheduling": {"decision_headers": True},
        "pools": [{"name": "chat", "type": "static", "endpoints": endpoints}],
    }
    async with Gateway(tmp_path_factory.mktemp("gateway"), config) as running:
        await running.healthy(*endpoints)
        yield running


async def nothing_in_flight(gateway: Gateway) -> None:
    """Returns when every worker says so."""

    async def so() -> bool:
        pickers = (await gateway.status())["pickers"]
        assert isinstance(pickers, list)
        assert len(pickers) == 2
        return all(picker["in_flight_requests"] == 0 for picker in pickers)

    took_s = await eventually(so, "no worker has anything in flight")
    print(f"nothing in flight after {took_s:.2f} s")


async def ended(gateway: Gateway, request_id: str) -> Any:
    """The only decision about it, once its end is known, which comes with the access log."""
    found: list[Any] = []
    async with aiohttp.ClientSession(gateway.admin) as client:

        async def so() -> bool:
            async with client.get(f"/api/decisions/{request_id}") as answer:
                found[:] = (await answer.json())["decisions"]
            return str(found[0]["state"]) == "ok"

        await eventually(so, "its end is known")
    (one,) = found
    return one


async def test_every_turn_goes_where_the_last_one_went(gateway: Gateway) -> None:
    """Each turn comes on a connection of its own, to whichever worker, once the end of the one
    before is known: for up to 50 ms, until its access log comes, its prompt may count as work
    ahead of the next turn, and then another replica is as good."""

    async def converse(number: int) -> list[float]:
        """Share of each later turn's known tokens that were cached."""
        said = " ".join(f"{number} word{n}" for n in range(150))
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": said}]
        shares, known = [], 0
        for turn in range(4):
            async with AsyncOpenAI(
                base_url=f"{gateway.url}/v1", api_key="-", max_retries=0
            ) as client:
                answer = await client.chat.completions.create(
                    model="m", messages=messages, max_tokens=20
                )
            usage = answer.usage
            assert usage is not None
            assert usage.prompt_tokens_details is not None
            cached = usage.prompt_tokens_details.cached_tokens or 0
            if turn:
                shares.append(cached / known)
            known = usage.total_tokens
            assert answer._request_id is not None
            await ended(gateway, answer._request_id)
            messages += [
                {"role": "assistant", "content": answer.choices[0].message.content},
                {"role": "user", "content": f"and then {turn}?"},
            ]
        return shares

    shares = [await converse(number) for number in range(10)]
    assert min(share for each in shares for share in each) > 0.95
    await nothing_in_flight(gateway)


async def test_both_workers_decide(gateway: Gateway) -> None:
    async with Load(gateway.url) as load:
        await load.more(40)
    assert load.failures == []
    assert gateway.run_dir is not None
    connector = aiohttp.UnixConnector(str(gateway.run_dir / "envoy-admin.sock"))
    async with aiohttp.ClientSession("http://envoy", connector=connector) as session:
        lines = (await (await session.get("/clusters")).text()).splitlines()
    asked = [
        line for line in lines if line.startswith("penstock_picker::") and "::rq_total::" in line
    ]
    assert len(asked) == 2
    assert all(int(line.rpartition("::")[2]) > 10 for line in asked)
    await nothing_in_flight(gateway)


async def test_every_request_can_be_explained(gateway: Gateway) -> None:
    """By the id that the client got, whichever worker decided it."""
    async with aiohttp.ClientSession() as client:
        pickers = set()
        for number in range(12):
            body = {"model": "m", "prompt": f"Say {number}", "max_tokens": 5, "stream": True}
            async with client.post(f"{gateway.url}/v1/completions", json=body) as answer:
                await answer.read()
                headers = answer.headers
            request_id = headers["x-request-id"]
            one = await ended(gateway, request_id)
            assert one["request_id"] == request_id
            assert one["result"]["endpoint"] == one["endpoint"] == headers["x-penstock-endpoint"]
            assert one["result"]["output_tokens"] == 5
            assert one["result"]["ttft_ms"] > 0
            assert len(one["choices"][0]["candidates"]) == REPLICAS
            pickers.add(one["picker"])
    assert len(pickers) == 2


async def test_the_number_of_workers_changes_under_load(gateway: Gateway) -> None:
    """Nothing fails, nothing stays in flight, and every request is logged once."""
    config: Any = dict(gateway.config)
    async with Load(gateway.url) as load:
        for workers in (3, 1, 2):
            gateway.write({**config, "picker": {"workers": workers}})

            async def there(workers: int = workers) -> bool:
                pickers = (await gateway.status())["pickers"]
                assert isinstance(pickers, list)
                return len(pickers) == workers and all(
                    picker["state"] == "ready" for picker in pickers
                )

            await eventually(there, f"{workers} workers are ready", timeout_s=60)
            await load.more(20)
    assert load.failures == []
    await nothing_in_flight(gateway)

    def logged() -> Counter[str]:
        return Counter(str(line["request_id"]) for line in gateway.request_log())

    async def all_logged() -> bool:
        return logged().keys() >= set(load.ids)

    await eventually(all_logged, f"{load.done} requests in the request log")
    seen = logged()
    assert {seen[one] for one in load.ids} == {1}


async def test_a_burst_over_two_workers_spreads(gateway: Gateway, replicas: list[Replica]) -> None:
    """Sent within one scrape interval: only what the workers tell each other spreads it."""
    before = [await replica.metric("vllm:generation_tokens_total") for replica in replicas]
    async with aiohttp.ClientSession(gateway.url) as session:
        answers = await asyncio.gather(
            *(
                session.post(
                    "/v1/completions",
                    json={"model": "m", "prompt": f"{n} " + "hello " * 200, "max_tokens": 10},
                )
                for n in range(80)
            )
        )
    assert {answer.status for answer in answers} == {200}
    after = [await replica.metric("vllm:generation_tokens_total") for replica in replicas]
    served = [(now - then) / 10 for now, then in zip(after, before, strict=True)]
    assert sum(served) == 80
    assert min(served) >= 10
    assert max(served) <= 32
    await nothing_in_flight(gateway)
