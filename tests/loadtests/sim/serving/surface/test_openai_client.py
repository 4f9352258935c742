"""What the openai client sees."""

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from tests.loadtests.conftest import Serve

HELLO = "hello there, tell me something about long prompts and short answers " * 3


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[AsyncOpenAI]:
    server = await serve(adapters=("sim-adapter",), max_loras=2)
    async with AsyncOpenAI(
        base_url=f"http://{server.address}/v1", api_key="-", max_retries=0
    ) as made:
        yield made


async def test_the_second_turn_finds_the_first_one_cached(client: AsyncOpenAI) -> None:
    first = await client.chat.completions.create(
        model="sim-model", messages=[{"role": "user", "content": HELLO}], max_tokens=200
    )
    assert first.usage is not None
    assert first.choices[0].finish_reason == "stop"
    second = await client.chat.completions.create(
        model="sim-alias",
        messages=[
            {"role": "user", "content": HELLO},
            {"role": "assistant", "content": first.choices[0].message.content},
            {"role": "user", "content": "and then?"},
        ],
    )
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    # Everything known after the first turn but its last token, in whole blocks of 16.
    known = first.usage.total_tokens - 1
    assert second.usage.prompt_tokens_details.cached_tokens == known // 16 * 16


async def test_adapter_and_cache_salt_do_not_share_prefixes(client: AsyncOpenAI) -> None:
    async def cached(model: str, cache_salt: str | None = None) -> int | None:
        answer = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": HELLO}],
            extra_body={"cache_salt": cache_salt},
        )
        assert answer.model == model
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens

    assert await cached("sim-model") == 0
    assert await cached("sim-adapter") == 0
    assert await cached("sim-model", cache_salt="tenant") == 0
    assert await cached("sim-adapter") == await cached("sim-model") != 0


async def test_a_stream_says_what_the_whole_answer_says(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(
        model="sim-model", messages=[{"role": "user", "content": HELLO}], max_tokens=8, n=2
    )
    stream = await client.chat.completions.create(
        model="sim-model",
        messages=[{"role": "user", "content": HELLO}],
        max_tokens=8,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts = ["", ""]
    reasons: list[str] = []
    usage = None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert reasons == ["length", "length"]
    assert usage is not None
    assert whole.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, 16)


async def test_prompt_forms_of_completions_mean_the_same(client: AsyncOpenAI) -> None:
    tokenized = await client.post(
        client.base_url.copy_with(path="/tokenize").__str__(),
        body={"model": "sim-model", "prompt": HELLO},
        cast_to=dict[str, object],
    )
    ids = tokenized["tokens"]
    assert isinstance(ids, list)
    forms: list[object] = [HELLO, [HELLO], ids, [ids]]
    answers = [
        await client.completions.create(model="sim-model", prompt=form)  # type: ignore[call-overload]
        for form in forms
    ]
    assert len({answer.choices[0].text for answer in answers}) == 1
    assert [answer.usage.prompt_tokens for answer in answers] == [len(ids)] * 4
    assert answers[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert answers[0].usage.completion_tokens == 16


async def test_several_prompts_with_several_choices(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model="sim-model", prompt=["one", "two words"], n=2, max_tokens=3
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1 + 3, 12)


async def test_embeddings_are_unit_vectors_and_repeatable(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="sim-model", input=["a", "b", "a"])
    plain = await client.embeddings.create(
        model="sim-model", input="a", dimensions=8, encoding_format="float"
    )
    vectors = [item.embedding for item in answer.data]
    assert vectors[0] == vectors[2] != vectors[1]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1.0, abs=1e-3)
    assert len(plain.data[0].embedding) == 8


async def test_responses(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model="sim-model", input=HELLO, max_output_tokens=8)
    stream = await client.responses.create(
        model="sim-model",
        input=[{"role": "user", "content": [{"type": "input_text", "text": HELLO}]}],
        max_output_tokens=8,
        stream=True,
    )
    events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert events[0].type == "response.created"
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text
    assert last.response.usage is not None
    assert whole.usage is not None
    assert last.response.usage.output_tokens == whole.usage.output_tokens == 8
    assert last.response.usage.input_tokens_details.cached_tokens > 0
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_models_and_errors(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [
        "sim-model",
        "sim-alias",
        "sim-adapter",
    ]
    with pytest.raises(openai.NotFoundError, match="The model `other` does not exist"):
        await client.chat.completions.create(
            model="other", messages=[{"role": "user", "content": "x"}]
        )
