"""What the anthropic client sees."""

from collections.abc import AsyncIterator

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.loadtests.conftest import Serve


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[AsyncAnthropic]:
    server = await serve()
    async with AsyncAnthropic(
        base_url=f"http://{server.address}", api_key="-", max_retries=0
    ) as made:
        yield made


async def test_message_and_stream_agree(client: AsyncAnthropic) -> None:
    whole = await client.messages.create(
        model="sim-model",
        system="be short",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=8,
    )
    async with client.messages.stream(
        model="sim-model",
        system="be short",
        messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        max_tokens=8,
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        last = await stream.get_final_message()
    block = whole.content[0]
    assert block.type == "text"
    assert text == block.text
    assert (last.stop_reason, last.usage.output_tokens) == ("max_tokens", 8)


async def test_input_tokens_leave_out_what_the_cache_wrote_or_read(
    client: AsyncAnthropic,
) -> None:
    said = "word " * 60
    usages = [
        (
            await client.messages.create(
                model="sim-model", messages=[{"role": "user", "content": said}], max_tokens=4
            )
        ).usage
        for _ in range(2)
    ]
    counted = await client.messages.count_tokens(
        model="sim-model", messages=[{"role": "user", "content": said}]
    )
    for usage in usages:
        cache = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        assert usage.input_tokens + cache == counted.input_tokens
    assert (usages[0].cache_creation_input_tokens, usages[0].cache_read_input_tokens) == (80, 0)
    assert (usages[1].cache_creation_input_tokens, usages[1].cache_read_input_tokens) == (0, 80)


async def test_a_short_prompt_is_counted_alike_everywhere(client: AsyncAnthropic) -> None:
    counted = await client.messages.count_tokens(
        model="sim-model", messages=[{"role": "user", "content": "hello"}]
    )
    answer = await client.messages.create(
        model="sim-model", messages=[{"role": "user", "content": "hello"}], max_tokens=1000
    )
    assert counted.input_tokens == answer.usage.input_tokens
    assert answer.stop_reason == "end_turn"


async def test_errors_have_anthropics_shape(client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        await client.messages.create(
            model="other", messages=[{"role": "user", "content": "hello"}], max_tokens=8
        )
    assert raised.value.body == {
        "type": "error",
        "error": {
            "type": "NotFoundError",
            "message": "The model `other` does not exist. Valid aliases: sim-model, sim-alias.",
        },
    }
