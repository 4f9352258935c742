"""The API surface through real Envoy: what the openai and anthropic clients see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import anthropic
import openai
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from yarl import URL

from tests.real.gateway import Gateway, Json
from tests.real.replicas import FAST, Replica

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

HELLO = "hello there, tell me something about long prompts and short answers"
MODELS = ["alias", "m", "other", "poet", "split", "with-poet"]
"""Base models, aliases and adapters of all pools: ``m`` and ``other`` are served by several
replicas, ``poet`` is an adapter that one replica of ``m`` has."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Replica]]:
    """With adapter, without, and two of another model."""
    folder = tmp_path_factory.mktemp("replicas")
    kinds = (("m", "--lora=poet", "--max-loras=2"), ("m",), ("other",), ("other",))
    made = [Replica(folder, *FAST, *options, model=model) for model, *options in kinds]
    await asyncio.gather(*(replica.start() for replica in made))
    yield made
    for replica in made:
        replica.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    replicas: list[Replica], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    addresses = [replica.address for replica in replicas]
    config: Json = {
        "pools": [
            {"name": "first", "type": "static", "endpoints": addresses[:2], "default": True},
            {"name": "second", "type": "static", "endpoints": addresses[2:]},
        ],
        "passthrough": ["/opened/*"],
        "models": [
            {"name": "alias", "targets": [{"model": "m"}]},
            {"name": "with-poet", "targets": [{"model": "poet"}]},
            {
                "name": "split",
                "targets": [{"model": "m", "weight": 3}, {"model": "other", "weight": 1}],
            },
        ],
    }
    async with Gateway(tmp_path_factory.mktemp("gateway"), config) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def claude(gateway: Gateway) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=gateway.url, api_key="-", max_retries=0) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(gateway.url) as session:
        yield session


async def test_models_are_listed_once(client: AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert sorted(model.id for model in models) == MODELS
    assert (await client.models.retrieve("poet")).to_dict()["parent"] == "m"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


@pytest.mark.parametrize("model", MODELS)
async def test_chat_stream_and_answer_say_the_same(client: AsyncOpenAI, model: str) -> None:
    whole = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": HELLO}], max_tokens=20
    )
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": HELLO}], max_tokens=20, stream=True
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text
    if model != "split":  # its two models say different things
        assert text == whole.choices[0].message.content
    assert {whole.model, *(chunk.model for chunk in chunks)} == {model}
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 20


async def test_completions_of_every_prompt_form(
    client: AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    answer = await http.post("/tokenize", json={"model": "alias", "prompt": HELLO})
    ids = (await answer.json())["tokens"]
    prompts: list[object] = [HELLO, [HELLO], ids, [ids]]
    answers = [
        await client.completions.create(model="alias", prompt=prompt, max_tokens=20)  # type: ignore[call-overload]
        for prompt in prompts
    ]
    stream = await client.completions.create(
        model="alias", prompt=HELLO, max_tokens=20, stream=True
    )
    chunks = [chunk async for chunk in stream]
    streamed = "".join(chunk.choices[0].text for chunk in chunks)
    assert {answer.choices[0].text for answer in answers} == {streamed}
    assert {one.model for one in (*answers, *chunks)} == {"alias"}


async def test_embeddings(client: AsyncOpenAI) -> None:
    one = await client.embeddings.create(model="alias", input=[HELLO, "other words"])
    two = await client.embeddings.create(model="m", input=HELLO, encoding_format="float")
    assert one.data[0].embedding == pytest.approx(two.data[0].embedding, abs=1e-6)
    assert one.data[0].embedding != one.data[1].embedding
    assert one.model == "alias"


async def test_responses_stream_and_answer_say_the_same(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model="alias", input=HELLO, max_output_tokens=20)
    stream = await client.responses.create(
        model="alias", input=HELLO, max_output_tokens=20, stream=True
    )
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 20
    assert (whole.model, last.response.model) == ("alias", "alias")


@pytest.mark.parametrize("model", ["m", "alias"])
async def test_messages_stream_and_answer_say_the_same(claude: AsyncAnthropic, model: str) -> None:
    whole = await claude.messages.create(
        model=model, messages=[{"role": "user", "content": HELLO}], max_tokens=20
    )
    async with claude.messages.stream(
        model=model, messages=[{"role": "user", "content": HELLO}], max_tokens=20
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        last = await stream.get_final_message()
    block = whole.content[0]
    assert block.type == "text"
    assert text == block.text
    assert last.usage.output_tokens == whole.usage.output_tokens == 20
    assert (whole.model, last.model) == (model, model)


async def test_count_tokens(claude: AsyncAnthropic) -> None:
    counted = await claude.messages.count_tokens(
        model="alias", messages=[{"role": "user", "content": HELLO}]
    )
    answer = await claude.messages.create(
        model="alias", messages=[{"role": "user", "content": HELLO}], max_tokens=4
    )
    usage = answer.usage
    cache = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == usage.input_tokens + cache


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/tokenize", {"prompt": HELLO}, "tokens"),
        ("/tokenize", {"messages": [{"role": "user", "content": HELLO}]}, "tokens"),
        ("/rerank", {"query": "short", "documents": ["short answers", "long"]}, "results"),
        ("/v1/rerank", {"query": "short", "documents": ["short answers"]}, "results"),
        ("/score", {"text_1": "short", "text_2": ["short answers", "long"]}, "data"),
        ("/detokenize", {"tokens": [1, 2, 3]}, "prompt"),
    ],
)
async def test_other_paths(
    http: aiohttp.ClientSession, replicas: list[Replica], path: str, body: Json, key: str
) -> None:
    answer = await http.post(path, json={"model": "m", **body})
    direct_url = f"http://{replicas[0].address}{path}"
    direct = await http.post(direct_url, json={"model": "m", **body})
    told, expected = await answer.json(), await direct.json()
    assert (answer.status, told[key]) == (200, expected[key])


@pytest.mark.parametrize("path", ["/version", "/health", "/ping"])
async def test_paths_without_a_model_pass_through(http: aiohttp.ClientSession, path: str) -> None:
    answer = await http.get(path)
    assert answer.status == 200
    assert (await http.get(path + "?with=query")).status == 200


@pytest.mark.parametrize("path", ["/load", "/metrics", "/sleep", "/anything/else"])
async def test_other_paths_are_closed(http: aiohttp.ClientSession, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = await http.request(method, path)
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "path_not_found"


@pytest.mark.parametrize(
    ("spelling", "status"),
    [
        ("/v1/completions/", 200),
        ("//v1//completions", 200),
        ("/%76%31/completions", 200),
        ("/v1/x/../completions", 200),
        ("/v1/x/%2e%2e/completions", 200),
        ("/v1%2Fcompletions?a=b", 200),
        ("/V1/COMPLETIONS", 404),
        ("/v1/completions%20", 404),
        ("/v1/completions%3Fa=/tokenize", 403),
        ("/v1/completions;a=b", 403),
        ("/v1/completions%252F", 403),
        ("/v1/completions%00", 400),
        ("/v1/completions%23x", 403),
    ],
)
async def test_the_replica_reads_the_path_that_is_decided_by(
    http: aiohttp.ClientSession, spelling: str, status: int
) -> None:
    url = URL(str(http._base_url).rstrip("/") + spelling, encoded=True)
    answer = await http.post(url, json={"model": "m", "prompt": HELLO, "max_tokens": 1})
    assert (answer.status, answer.content_type) == (status, "application/json")


async def test_a_path_that_no_replica_knows_is_the_replicas_404(
    http: aiohttp.ClientSession,
) -> None:
    answer = await http.post("/opened/nothing/here", data=b"\x00\xff")
    assert (answer.status, await answer.json()) == (404, {"detail": "Not Found"})


async def test_a_weighted_alias_splits_by_weight(
    client: AsyncOpenAI, replicas: list[Replica]
) -> None:
    async def served(some: list[Replica]) -> float:
        return sum([await one.metric("vllm:request_success_total") for one in some])

    async def ask() -> None:
        await client.completions.create(model="split", prompt=HELLO, max_tokens=1)

    of_m, of_other = await served(replicas[:2]), await served(replicas[2:])
    for _ in range(6):
        await asyncio.gather(*(ask() for _ in range(20)))
    of_m, of_other = await served(replicas[:2]) - of_m, await served(replicas[2:]) - of_other
    assert of_m + of_other == 120
    assert 70 <= of_m <= 109  # 90 expected, four standard deviations


async def test_each_pool_gets_its_own_model(client: AsyncOpenAI, replicas: list[Replica]) -> None:
    async def generated() -> list[float]:
        return [await replica.metric("vllm:generation_tokens_total") for replica in replicas]

    before = await generated()
    await client.completions.create(model="other", prompt=HELLO, max_tokens=7)
    first, without_poet, *second = [
        now - then for now, then in zip(await generated(), before, strict=True)
    ]
    assert (first, without_poet) == (0, 0)
    assert sorted(second) == [0, 7]


@pytest.mark.parametrize("model", ["poet", "with-poet"])
async def test_an_adapter_goes_only_where_it_is_loaded(
    client: AsyncOpenAI, replicas: list[Replica], model: str
) -> None:
    before = await replicas[1].metric("vllm:generation_tokens_total")
    answers = await asyncio.gather(
        *(
            client.completions.create(model=model, prompt=f"{n} {HELLO}", max_tokens=3)
            for n in range(24)
        )
    )
    assert {answer.model for answer in answers} == {model}
    assert await replicas[1].metric("vllm:generation_tokens_total") == before


async def test_unknown_models(client: AsyncOpenAI, claude: AsyncAnthropic) -> None:
    with pytest.raises(openai.NotFoundError) as told:
        await client.chat.completions.create(
            model="nothing", messages=[{"role": "user", "content": HELLO}]
        )
    assert told.value.body == {
        "message": "The model 'nothing' does not exist here.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    with pytest.raises(anthropic.NotFoundError) as claude_told:
        await claude.messages.create(
            model="nothing", messages=[{"role": "user", "content": HELLO}], max_tokens=4
        )
    assert claude_told.value.body == {
        "type": "error",
        "error": {
            "type": "not_found_error",
            "message": "The model 'nothing' does not exist here.",
        },
    }
