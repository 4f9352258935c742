"""Tool calls, structured answers and log probabilities, as clients check them."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import anthropic
import jsonschema
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel

from loadtests.sim.serving.server import ReplicaServer
from tests.loadtests.conftest import Serve

Json: TypeAlias = dict[str, Any]
"""What goes to the clients, whose types are narrower than a dictionary's."""
Client: TypeAlias = Any
"""AsyncOpenAI or AsyncAnthropic: what comes back is a union of many types, checked by the tests."""

WEATHER: Json = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["°C", "°F"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
TIME: Json = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_time", "parameters": TIME}},
]
ASK: Any = [{"role": "user", "content": "how is the weather?"}]
SCHEMAS: dict[str, Json] = {"get_weather": WEATHER, "get_time": TIME}
NAMED: Json = {"type": "function", "function": {"name": "get_time"}}


class City(BaseModel):
    """What a client wants to read."""

    name: str
    inhabitants: int
    twins: list[str]


@pytest.fixture
async def server(serve: Serve) -> ReplicaServer:
    return await serve()


@pytest.fixture
async def client(server: ReplicaServer) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://{server.address}/v1"
    async with AsyncOpenAI(base_url=url, api_key="-", max_retries=0) as made:
        yield made


@pytest.fixture
async def claude(server: ReplicaServer) -> AsyncIterator[AsyncAnthropic]:
    url = f"http://{server.address}"
    async with AsyncAnthropic(base_url=url, api_key="-", max_retries=0) as made:
        yield made


def fits(name: str, arguments: object) -> None:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    jsonschema.validate(json.loads(text), SCHEMAS[name])


@pytest.mark.parametrize(
    ("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop"), (None, "tool_calls")]
)
async def test_a_chat_calls_a_tool(client: Client, choice: object, reason: str) -> None:
    given: Json = {} if choice is None else {"tool_choice": choice}
    whole = await client.chat.completions.create(
        model="sim-model", messages=ASK, tools=TOOLS, max_tokens=500, **given
    )
    (answer,) = whole.choices
    (call,) = answer.message.tool_calls
    assert answer.message.content is None
    assert answer.finish_reason == reason
    assert call.type == "function"
    fits(call.function.name, call.function.arguments)
    if choice is NAMED:
        assert call.function.name == "get_time"
    stream = client.chat.completions.stream(  # the client puts the call together
        model="sim-model", messages=ASK, tools=TOOLS, max_tokens=500, **given
    )
    async with stream as events:
        streamed = (await events.get_final_completion()).choices[0]
    assert streamed.finish_reason == reason
    (told,) = streamed.message.tool_calls or []
    assert told.function.name == call.function.name
    assert told.function.arguments == call.function.arguments
    assert whole.usage.completion_tokens == math.ceil(len(call.function.arguments) / 4) + 1


async def test_no_tool_is_called(client: Client) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    told = [
        *ASK,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "noon"},
    ]
    for messages, given in ((ASK, {"tool_choice": "none"}), (told, {}), (ASK, {"tools": []})):
        answer = await client.chat.completions.create(
            model="sim-model", messages=messages, max_tokens=9, **{"tools": TOOLS, **given}
        )
        assert answer.choices[0].message.content
        assert not answer.choices[0].message.tool_calls


async def test_several_choices_and_a_call_cut_short(client: Client) -> None:
    several = await client.chat.completions.create(
        model="sim-model", messages=ASK, tools=TOOLS, tool_choice="required", n=3, max_tokens=500
    )
    calls = [choice.message.tool_calls[0] for choice in several.choices]
    assert len({call.id for call in calls}) == 3
    cut = await client.chat.completions.create(
        model="sim-model", messages=ASK, tools=TOOLS, tool_choice=NAMED, max_tokens=2
    )
    assert cut.choices[0].finish_reason == "length"
    assert len(cut.choices[0].message.tool_calls[0].function.arguments) == 8


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": "sometimes"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [{"type": "function", "function": {}}]},
        {"response_format": {"type": "yaml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
        {"structured_outputs": {"regex": "("}},
        {"structured_outputs": {"choice": []}},
        {"structured_outputs": {"choice": ["a"], "regex": "a"}},
        {"structured_outputs": {"grammar": "root ::= x"}},
        {"top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 21},
    ],
)
async def test_what_is_wrong_is_a_400(client: Client, fields: Json) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="sim-model", messages=ASK, extra_body=fields)


async def test_a_parsed_answer(client: Client) -> None:
    answer = await client.chat.completions.parse(
        model="sim-model",
        messages=[{"role": "user", "content": "a city"}],
        response_format=City,
        max_tokens=500,
    )
    assert isinstance(answer.choices[0].message.parsed, City)
    read = await client.responses.parse(
        model="sim-model", input="a city", text_format=City, max_output_tokens=500
    )
    assert isinstance(read.output_parsed, City)


@pytest.mark.parametrize(
    ("fields", "fitting"),
    [
        ({"response_format": {"type": "json_object"}}, None),
        ({"structured_outputs": {"json": WEATHER}}, WEATHER),
        ({"guided_json": json.dumps(WEATHER)}, WEATHER),
        ({"structured_outputs": {"json_object": True}}, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_json(client: Client, fields: Json, fitting: object, stream: bool) -> None:
    answer = await client.chat.completions.create(
        model="sim-model", messages=ASK, max_tokens=500, stream=stream, extra_body=fields
    )
    if stream:
        deltas = [c.choices[0].delta.content or "" async for c in answer if c.choices]
        text = "".join(deltas)
    else:
        text = answer.choices[0].message.content
    jsonschema.validate(json.loads(text), fitting or {"type": "object"})


async def test_choices_and_patterns_for_completions(client: Client) -> None:
    for fields, allowed in (
        ({"structured_outputs": {"choice": ["jä", "nein"]}}, ("jä", "nein")),
        ({"guided_choice": ["x"]}, ("x",)),
        ({"guided_regex": "[ab]c"}, ("ac", "bc")),
    ):
        for stream in (False, True):
            answer = await client.completions.create(
                model="sim-model", prompt="?", max_tokens=50, stream=stream, extra_body=fields
            )
            if stream:
                text = "".join([c.choices[0].text async for c in answer])
            else:
                text = answer.choices[0].text
            assert text in allowed


async def test_log_probabilities_of_a_chat(client: Client) -> None:
    given: Json = {"messages": ASK, "max_tokens": 6, "logprobs": True, "top_logprobs": 3}
    whole = await client.chat.completions.create(model="sim-model", **given)
    content = whole.choices[0].logprobs.content
    assert "".join(one.token for one in content) == whole.choices[0].message.content
    assert len(content) == whole.usage.completion_tokens == 6
    for one in content:
        assert bytes(one.bytes).decode() == one.token
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].token == one.token
        shares = [math.exp(top.logprob) for top in one.top_logprobs]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1
    stream = await client.chat.completions.create(model="sim-model", stream=True, **given)
    streamed = [
        one
        async for chunk in stream
        for choice in chunk.choices
        if choice.logprobs
        for one in choice.logprobs.content
    ]
    assert streamed == content


@pytest.mark.parametrize("echo", [False, True])
async def test_log_probabilities_of_completions(client: Client, echo: bool) -> None:
    given: Json = {"prompt": "Once upon a time", "max_tokens": 5, "logprobs": 2, "echo": echo}
    whole = await client.completions.create(model="sim-model", **given)
    (choice,) = whole.choices
    assert choice.text.startswith("Once upon a time") == echo
    known = choice.logprobs
    assert "".join(known.tokens) == choice.text
    assert known.text_offset == [
        sum(map(len, known.tokens[:index])) for index in range(len(known.tokens))
    ]
    assert (known.token_logprobs[0] is None) == echo
    assert len(known.tokens) == 5 + 4 * echo
    assert all(len(top) == 2 for top in known.top_logprobs[1:])
    stream = await client.completions.create(model="sim-model", stream=True, **given)
    chunks = [chunk.choices[0] async for chunk in stream]
    assert "".join(chunk.text for chunk in chunks) == choice.text
    assert [t for chunk in chunks for t in chunk.logprobs.tokens] == known.tokens
    assert [o for chunk in chunks for o in chunk.logprobs.text_offset] == known.text_offset


async def test_an_echo_without_an_answer(client: Client) -> None:
    answer = await client.completions.create(
        model="sim-model", prompt="how likely", max_tokens=0, echo=True, logprobs=1
    )
    assert answer.choices[0].text == "how likely"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


async def test_the_same_text_each_time(client: Client) -> None:
    async def text(**fields: object) -> str | None:
        answer = await client.chat.completions.create(
            model="sim-model", messages=ASK, max_tokens=20, **fields
        )
        content: str | None = answer.choices[0].message.content
        return content

    greedy = await text(temperature=0)
    assert await text(temperature=0, seed=7) == greedy
    assert await text(temperature=0, stop=["zzz"]) == greedy
    seeded = await text(temperature=1, seed=7)
    assert await text(temperature=1, seed=7) == seeded != greedy
    assert await text(temperature=1, seed=8) != seeded


async def test_the_responses_api_calls_a_function(client: Client) -> None:
    tools = [{"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}]
    given: Json = {"input": "weather?", "tools": tools, "max_output_tokens": 500}
    whole = await client.responses.create(model="sim-model", **given)
    (call,) = whole.output
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    fits(call.name, call.arguments)
    stream = await client.responses.create(model="sim-model", stream=True, **given)
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments
    assert kinds[2] == "response.output_item.added"
    assert kinds[-3:] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[-1].response.output[0].arguments == call.arguments
    assert [event.sequence_number for event in events] == list(range(len(events)))
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    after = await client.responses.create(
        model="sim-model", input=[output], tools=tools, max_output_tokens=9
    )
    assert after.output_text


@pytest.mark.parametrize("kind", ["any", "auto", "tool"])
async def test_messages_use_a_tool(claude: Client, kind: str) -> None:
    tools = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
    choice = {"type": kind, **({"name": "get_weather"} if kind == "tool" else {})}
    given: Json = {"messages": ASK, "tools": tools, "tool_choice": choice, "max_tokens": 500}
    whole = await claude.messages.create(model="sim-model", **given)
    (block,) = whole.content
    assert (block.type, whole.stop_reason) == ("tool_use", "tool_use")
    fits(block.name, block.input)
    async with claude.messages.stream(model="sim-model", **given) as stream:
        last = await stream.get_final_message()
    assert last.content[0].type == "tool_use"
    assert last.content[0].input == block.input
    assert last.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}
    after = await claude.messages.create(
        model="sim-model",
        messages=[
            *ASK,
            {"role": "assistant", "content": whole.content},
            {"role": "user", "content": [result]},
        ],
        tools=tools,
        max_tokens=500,
    )
    assert (after.content[0].type, after.stop_reason) == ("text", "end_turn")


async def test_messages_with_a_tool_that_is_not_there(claude: Client) -> None:
    with pytest.raises(anthropic.BadRequestError):
        await claude.messages.create(
            model="sim-model",
            messages=[{"role": "user", "content": "x"}],
            tools=[{"name": "a", "input_schema": {"type": "object"}}],
            tool_choice={"type": "tool", "name": "b"},
            max_tokens=5,
        )
