"""The replicas do what the end-to-end tests count on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, NotFoundError
from openai.types.chat import ChatCompletionMessageParam

from tests.real.vllm import install
from tests.real.vllm.model import make, sentence
from tests.real.vllm.needed import need_vllm
from tests.real.vllm.server import Replica, ReplicaError, ReplicaOptions, group_runs

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

ADAPTER = "tiny-poet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_vllm()
    return tmp_path_factory.mktemp("vllm")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(folder: Path) -> AsyncIterator[Replica]:
    tiny = make(folder, install.interpreter())
    options = ReplicaOptions(model=tiny.base, adapters={ADAPTER: tiny.adapter})
    async with Replica(options, log_folder=folder) as running:
        yield running


def client_of(replica: Replica) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="unused", max_retries=0)


async def test_next_turn_finds_last_turn_and_its_answer_cached(replica: Replica) -> None:
    block = replica.options.block_tokens
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": sentence(100, 1)}]
    seen_tokens = 0
    async with client_of(replica) as client:
        for turn in range(3):
            answer = await client.chat.completions.create(
                model="tiny", messages=messages, max_tokens=40
            )
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            cached = answer.usage.prompt_tokens_details.cached_tokens
            # The last generated token has not been through the model yet.
            assert cached == max(seen_tokens - 1, 0) // block * block
            seen_tokens = answer.usage.total_tokens
            messages += [
                {"role": "assistant", "content": answer.choices[0].message.content},
                {"role": "user", "content": sentence(20, 100 + turn)},
            ]


async def test_adapter_answers_differently_from_its_base(replica: Replica) -> None:
    async def answer(model: str) -> str | None:
        completion = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=8,
            temperature=0,
        )
        return completion.choices[0].message.content

    async with client_of(replica) as client:
        assert {model.id async for model in client.models.list()} == {"tiny", ADAPTER}
        assert await answer("tiny") == await answer("tiny")
        assert await answer("tiny") != await answer(ADAPTER)
        with pytest.raises(NotFoundError):
            await answer("unheard-of")


async def test_counters_are_the_sums_of_usage(replica: Replica) -> None:
    before = await replica.counters()
    async with client_of(replica) as client:
        answers = await asyncio.gather(
            *(
                client.completions.create(
                    model=("tiny", ADAPTER)[seed % 2],
                    prompt=sentence(10 * seed + 1, seed),
                    max_tokens=seed + 1,
                )
                for seed in range(20)
            )
        )
    usages = [answer.usage for answer in answers if answer.usage is not None]
    after = await replica.counters()
    assert after.prompt_tokens - before.prompt_tokens == sum(u.prompt_tokens for u in usages)
    assert after.generation_tokens - before.generation_tokens == sum(
        u.completion_tokens for u in usages
    )
    assert after.finished["length"] - before.finished["length"] == 20


async def test_replica_that_cannot_start_says_why(folder: Path) -> None:
    options = ReplicaOptions(model=folder / "no-such-model")
    with pytest.raises(ReplicaError, match="no-such-model"):
        await Replica(options, log_folder=folder).start()


async def test_kill_leaves_no_process_and_no_listener(folder: Path) -> None:
    tiny = make(folder, install.interpreter())
    replica = Replica(ReplicaOptions(model=tiny.base), log_folder=folder)
    await replica.start()
    group = replica.process_group
    await replica.kill()
    assert not group_runs(group)
    with pytest.raises(aiohttp.ClientConnectionError):
        await replica.counters()
