"""The gateway over two real vLLM replicas: what it says must be what vLLM itself has counted."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp
import anthropic
import openai
import orjson
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from openai.types import CompletionUsage

from tests.real.gateway import Json, eventually
from tests.real.vllm.conversation import Conversation, cached_of
from tests.real.vllm.fleet import (
    ADAPTER,
    ADAPTER_ALIAS,
    ALIAS,
    BASE,
    Fleet,
    Tokens,
    pinned_to,
    started,
)
from tests.real.vllm.model import sentence
from tests.real.vllm.needed import need_vllm
from tests.real.vllm.traffic import (
    CHAT,
    Answer,
    Call,
    ask,
    ask_all,
    chat_of,
    chats,
    leave_after,
    mixed,
)

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    need_vllm()
    async with started(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(fleet: Fleet) -> AsyncIterator[AsyncOpenAI]:
    url = f"{fleet.gateway.url}/v1"
    async with AsyncOpenAI(base_url=url, api_key="-", max_retries=0) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def claude(fleet: Fleet) -> AsyncIterator[AsyncAnthropic]:
    url = fleet.gateway.url
    async with AsyncAnthropic(base_url=url, api_key="-", max_retries=0) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(fleet: Fleet) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(fleet.gateway.url, connector=connector) as session:
        yield session


# -- prefix cache


async def test_the_next_turns_find_the_first_turns_cache(fleet: Fleet, client: AsyncOpenAI) -> None:
    talk = Conversation(client, "one-talk", seed=1_000)
    before = await fleet.counted()
    first = await talk.turn(words=200)
    (home,) = [a for a, tokens in (await fleet.growth(before)).items() if tokens.input]
    other = next(one.address for one in fleet.replicas if one.address != home)
    assert cached_of(first) == 0
    spoken = first.total_tokens
    for _ in range(2):
        before = await fleet.counted()
        usage = await talk.turn()
        grown = await fleet.growth(before)
        assert grown[home] == Tokens(usage.prompt_tokens, usage.completion_tokens, cached_of(usage))
        assert grown[other] == Tokens()
        assert cached_of(usage) == (spoken - 1) // 32 * 32  # the whole first turn, in blocks
        spoken = usage.total_tokens
    lines = await fleet.lines(talk.ids)
    assert {line["endpoint"] for line in lines.values()} == {home}


async def test_interleaved_conversations_each_stay(fleet: Fleet, client: AsyncOpenAI) -> None:
    talks = [Conversation(client, f"talk-{n}", seed=2_000 + 100 * n) for n in range(2)]
    before = await fleet.counted()
    usages = await asyncio.gather(*(talk.turn(words=200, max_tokens=300) for talk in talks))
    for _ in range(3):
        usages += await asyncio.gather(*(talk.turn() for talk in talks))
    lines = await fleet.lines(one for talk in talks for one in talk.ids)
    homes = [{str(lines[one]["endpoint"]) for one in talk.ids} for talk in talks]
    assert [len(home) for home in homes] == [1, 1]
    assert homes[0] != homes[1]  # the second began while the first was busy
    grown = await fleet.growth(before)
    for talk in talks:
        mine = Tokens.logged(lines[one] for one in talk.ids)
        assert grown[str(lines[talk.ids[0]]["endpoint"])] == mine
        assert mine.cached > mine.input / 2
    assert sum(map(cached_of, usages)) == sum(tokens.cached for tokens in grown.values())


# -- adapters


async def test_models_are_listed_once(fleet: Fleet, client: AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert sorted(model.id for model in models) == sorted([ADAPTER, ADAPTER_ALIAS, ALIAS, BASE])
    assert (await client.models.retrieve(ADAPTER)).to_dict()["parent"] == BASE
    assert (await client.models.retrieve(BASE)).to_dict()["max_model_len"] == 4096


@pytest.mark.parametrize("model", [ADAPTER, ADAPTER_ALIAS])
async def test_an_adapters_requests_go_only_where_it_is_loaded(
    fleet: Fleet, http: aiohttp.ClientSession, model: str
) -> None:
    at_once = chats(f"at-once-{model}", 20, 3_000, model=model)
    in_turn = chats(f"in-turn-{model}", 10, 3_100, model=model)
    before = await fleet.counted()
    answers = await ask_all(http, at_once, concurrency=20)
    answers += await ask_all(http, in_turn, concurrency=1)
    assert {answer.status for answer in answers} == {200}
    grown = await fleet.growth(before)
    assert grown[fleet.poet.address].output == 30 * 4
    assert grown[fleet.plain.address] == Tokens()


async def test_the_base_models_requests_go_to_both(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    before = await fleet.counted()
    answers = await ask_all(http, chats("base", 20, 3_200, max_tokens=40), concurrency=20)
    assert {answer.status for answer in answers} == {200}
    outputs = [tokens.output // 40 for tokens in (await fleet.growth(before)).values()]
    print(f"20 requests at once: {outputs} by replica")
    assert sum(outputs) == 20
    assert min(outputs) >= 5


async def test_an_unknown_adapter_is_404(client: AsyncOpenAI, claude: AsyncAnthropic) -> None:
    with pytest.raises(openai.NotFoundError, match="'tiny-singer' does not exist"):
        await client.completions.create(model="tiny-singer", prompt="hello", max_tokens=4)
    with pytest.raises(anthropic.NotFoundError, match="'tiny-singer' does not exist"):
        await claude.messages.create(
            model="tiny-singer", messages=[{"role": "user", "content": "hello"}], max_tokens=4
        )


async def test_an_adapter_loaded_at_run_time_is_noticed(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    async def change(what: str, **body: str) -> None:
        async with http.post(f"{fleet.plain.url}/v1/{what}_lora_adapter", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def has_adapter(wanted: bool) -> bool:
        endpoint = (await fleet.gateway.endpoints())[fleet.plain.address]
        return (ADAPTER in str(endpoint["models"])) is wanted

    await change("load", lora_name=ADAPTER, lora_path=str(fleet.model.adapter))
    took_s = await eventually(lambda: has_adapter(True), "the new adapter is seen")
    print(f"adapter loaded at run time seen after {took_s:.1f} s")
    assert await fleet.listed() == sorted([ADAPTER, ADAPTER_ALIAS, ALIAS, BASE])
    before = await fleet.counted()
    calls = chats("both-poets", 20, 3_300, model=ADAPTER, max_tokens=40)
    answers = await ask_all(http, calls, concurrency=20)
    assert {answer.status for answer in answers} == {200}
    assert min(tokens.output for tokens in (await fleet.growth(before)).values()) > 0

    await change("unload", lora_name=ADAPTER)
    took_s = await eventually(lambda: has_adapter(False), "the adapter is seen to be gone")
    print(f"adapter unloaded at run time seen after {took_s:.1f} s")
    before = await fleet.counted()
    calls = chats("one-poet", 10, 3_400, model=ADAPTER)
    answers = await ask_all(http, calls, concurrency=10)
    assert {answer.status for answer in answers} == {200}
    assert (await fleet.growth(before))[fleet.plain.address] == Tokens()


# -- accounts


def refused() -> list[Call]:
    """Requests that the gateway or vLLM turns down."""
    return [
        Call.of("refused-model", CHAT, chat_of(5, 1, model="nothing")),
        Call.of("refused-too-long", CHAT, chat_of(5_000, 1)),
        Call.of("refused-too-long-stream", CHAT, chat_of(5_000, 1, stream=True)),
        Call.of("refused-max-tokens", "/v1/completions", {**chat_of(5, 1), "max_tokens": -1}),
        Call.of("refused-message", "/v1/messages", chat_of(5_000, 1)),
        Call("refused-json", CHAT, b'{"model": "tiny", "messages": ['),
    ]


async def test_what_the_gateway_counts_is_what_vllm_counts(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    names = ("input", "output", "cached")
    calls = mixed(200, [BASE, ALIAS, ADAPTER, BASE, ADAPTER_ALIAS], seed=7)
    turned_down = refused()

    async def metered() -> Tokens:
        return Tokens(*[await fleet.metric(f"penstock_{name}_tokens_total") for name in names])

    before, metered_before = await fleet.counted(), await metered()
    started_s = time.monotonic()
    answers = await ask_all(http, [*calls, *turned_down], concurrency=8)
    took_s = time.monotonic() - started_s
    lines = await fleet.lines(call.id for call in (*calls, *turned_down))
    grown = await fleet.growth(before)

    everything = sum(grown.values(), Tokens())
    print(f"206 requests in {took_s:.1f} s: {everything}")
    assert Tokens.logged(lines.values()) == everything
    assert await metered() - metered_before == everything
    for replica in fleet.replicas:
        mine = [one for one in lines.values() if one.get("endpoint") == replica.address]
        assert Tokens.logged(mine) == grown[replica.address]
        assert len(mine) > 40
    assert everything.cached > everything.input / 4

    statuses = Counter(answer.status for answer in answers)
    assert statuses == {200: 200, 404: 1, 400: 5}
    assert Counter(line["status"] for line in lines.values()) == statuses
    for call, answer in zip(calls, answers, strict=False):
        line = lines[call.id]
        assert (line["reason"], line["usage_reported"]) == ("ok", True)
        check_usage(call, answer, line)


def check_usage(call: Call, answer: Answer, line: Json) -> None:
    """The client sees usage if it asked, and then what is logged."""
    if not call.asks_for_usage:
        assert answer.usage is None
        return
    assert answer.usage is not None
    assert Tokens.logged([line]) == Tokens(
        answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_tokens
    )
    # Anthropic's streams tell the input at their start and everything at their end.
    assert answer.usage_events == 1 + (call.path == "/v1/messages" and bool(line["streaming"]))


async def test_requests_by_status_are_metered(fleet: Fleet) -> None:
    logged = Counter(str(line["status"]) for line in fleet.gateway.request_log())
    assert logged["200"] > 200
    async with asyncio.timeout(5):  # workers pass their counts on a few times a second
        for status, count in logged.items():
            while await fleet.metric("penstock_requests_total", status=status) != count:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Left:
    """A stream whose client left before its end."""

    events: int
    """Delivered to the client."""
    line: Json
    """Of the request log."""
    counted: Tokens
    """By vLLM."""
    idle_after_s: float
    """From leaving until nothing was in flight and nothing ran."""


async def leave(fleet: Fleet, path: str, body: Json, events: int) -> Left:
    """Ask for a stream and leave after so many events; once more if its end came before that,
    which it may on a busy machine."""
    for _ in range(8):
        before = await fleet.counted()
        call = Call.of(f"left-{time.monotonic_ns()}", path, {**body, "stream": True})
        delivered = await leave_after(fleet.gateway.port, call, events=events)
        left_s = time.monotonic()
        after = await fleet.counted()
        idle_after_s = time.monotonic() - left_s
        line = await fleet.line(call.id)
        if line["reason"] == "client_aborted":
            counted = sum((after[one] - before[one] for one in after), Tokens())
            return Left(delivered, line, counted, idle_after_s)
    raise AssertionError("every stream ended before its client left")


@pytest.mark.parametrize("words", [10, 100, 1_000, 3_000])
async def test_the_estimate_of_a_prompt_has_learned(
    fleet: Fleet, http: aiohttp.ClientSession, words: int
) -> None:
    # A stream that is broken off has reported nothing: its line has what the picker expected.
    body = chat_of(words, 4_000, max_tokens=4_000 - words)
    left = await leave(fleet, CHAT, body, events=3)  # the first one only opens the answer
    assert left.line["usage_reported"] is False
    question = {"model": BASE, "messages": body["messages"]}
    async with http.post("/tokenize", json=question) as answer:
        assert (await answer.json())["count"] == left.counted.input
    expected = int(str(left.line["input_tokens"]))
    error = expected / left.counted.input - 1
    print(f"{left.counted.input} prompt tokens were expected as {expected}: {error:+.0%}")
    assert abs(error) < (0.6 if words < 50 else 0.25)


# -- streams


@pytest.mark.parametrize("model", [BASE, ALIAS, ADAPTER_ALIAS])
async def test_usage_is_seen_by_who_asked(client: AsyncOpenAI, model: str) -> None:
    async def usages(ask: bool) -> tuple[list[CompletionUsage | None], int]:
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": sentence(50, 5_000)}],
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True} if ask else openai.omit,
        )
        chunks = [chunk async for chunk in stream]
        assert {chunk.model for chunk in chunks} == {model}
        return [chunk.usage for chunk in chunks], sum(not chunk.choices for chunk in chunks)

    told, empty = await usages(ask=False)
    assert (set(told), empty) == ({None}, 0)
    told, empty = await usages(ask=True)
    *nothing, last = told
    assert (set(nothing), empty) == ({None}, 1)
    assert last is not None
    assert last.completion_tokens == 20


async def test_responses_stream(client: AsyncOpenAI) -> None:
    async with client.responses.stream(
        model=ALIAS, input=sentence(50, 5_001), max_output_tokens=20
    ) as stream:
        text = "".join([e.delta async for e in stream if e.type == "response.output_text.delta"])
        last = await stream.get_final_response()
    assert last.output_text == text
    assert text
    assert last.usage is not None
    assert last.usage.output_tokens == 20
    assert last.model == ALIAS


async def test_messages_stream(claude: AsyncAnthropic) -> None:
    question: list[anthropic.types.MessageParam] = [
        {"role": "user", "content": sentence(50, 5_002)}
    ]
    whole = await claude.messages.create(model=ALIAS, messages=question, max_tokens=20)
    async with claude.messages.stream(model=ALIAS, messages=question, max_tokens=20) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        last = await stream.get_final_message()
    assert len(text.split()) == 20
    assert last.usage.output_tokens == whole.usage.output_tokens == 20
    assert (whole.model, last.model) == (ALIAS, ALIAS)


async def test_time_to_first_token_holds_the_wait_in_the_engines_queue(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    calls = chats("queued", 96, 5_100, words=20, max_tokens=150, stream=True)
    answers = await ask_all(http, calls, concurrency=96)  # a replica runs 16 at a time
    lines = await fleet.lines(call.id for call in calls)
    late_s, waits_s = [], []
    for call, answer in zip(calls, answers, strict=True):
        ttft_s = float(str(lines[call.id]["ttft_ms"])) / 1e3
        assert 0 < ttft_s <= float(str(lines[call.id]["duration_ms"])) / 1e3
        late_s.append(answer.first_byte_s - ttft_s)
        if answer.first_byte_s - answer.headers_s > 0.3:
            waits_s.append(ttft_s)
    print(
        f"{len(waits_s)} of 96 waited after their headers, up to {max(waits_s):.2f} s to the first"
        f" token; clients saw it {median(late_s) * 1e3:.0f} ms after the gateway"
    )
    assert min(late_s) > -0.05
    assert median(waits_s) > 0.2  # some have only waited for this process


# -- clients that leave


@pytest.mark.parametrize(
    ("path", "other_events"),
    [(CHAT, 1), ("/v1/completions", 0), ("/v1/messages", 2), ("/v1/responses", 4)],
)
@pytest.mark.parametrize("model", [BASE, ALIAS])
async def test_a_client_that_leaves_pays_for_what_it_got(
    fleet: Fleet, path: str, other_events: int, model: str
) -> None:
    body = chat_of(50, 6_000, model=model, max_tokens=3_000)
    if path == "/v1/completions":
        body["prompt"] = sentence(50, 6_001)
        del body["messages"]
    if path == "/v1/responses":
        body["input"] = sentence(50, 6_002)
        body["max_output_tokens"] = body.pop("max_tokens")
        del body["messages"]
    left = await leave(fleet, path, body, events=100)
    billed = int(str(left.line["output_tokens"]))
    print(
        f"{path}: {left.events} events delivered, the gateway counts {billed} tokens, vLLM"
        f" {left.counted.output}; input {left.line['input_tokens']} of {left.counted.input};"
        f" nothing runs after {left.idle_after_s:.2f} s"
    )
    assert left.idle_after_s < 5
    # A chunk of an engine that is ahead of its server holds several tokens.
    content = left.events - other_events
    assert content - 1 <= billed <= 1.5 * content + 1
    assert left.counted.output >= left.events - other_events  # it is ahead of its client


# -- penstock lab live


async def test_the_lab_compares_gateways_over_real_replicas(fleet: Fleet, tmp_path: Path) -> None:
    requests, output_tokens = 40, 16
    rows = (
        {
            "timestamp": 75 * nth,
            "input_length": 600,
            "output_length": output_tokens,
            "hash_ids": [nth % 4, 100 + nth % 8],
        }
        for nth in range(requests)
    )
    trace, out = tmp_path / "trace.jsonl", tmp_path / "out"
    trace.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    before = await fleet.counted()
    lab = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "penstock"), "lab", "live"),
        *("--workload", f"trace:{trace}", "--targets", "penstock,envoy-round-robin"),
        *("--replica", ",".join(replica.url for replica in fleet.replicas)),
        *("--model", BASE, "--seeds", "1", "--warm-up", "0", "--cool-down", "0"),
        *("--out", str(out)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await lab.communicate()
    assert lab.returncode == 0, said.decode()
    runs = orjson.loads((out / "result.json").read_bytes())["runs"]
    assert [run["target"] for run in runs] == ["penstock", "envoy-round-robin"]
    told = Tokens()
    for run in runs:
        assert (run["whole"]["requests"], run["errors"], run["uncounted"]) == (requests, {}, 0)
        assert run["caches_emptied"]
        told += (mine := Tokens(**run["tokens"]))
        assert mine.output == requests * output_tokens
        # Emptied before: each run has computed 4 beginnings of 512 and 8 ends of 88 of its 24,000.
        assert 0 < mine.cached < 0.9 * mine.input
        counted = run["by_replica"]
        assert sum(each["finished"] for each in counted) == requests
        assert sum(each["prompt_tokens"] for each in counted) == mine.input
        assert sum(each["cached_tokens"] for each in counted) == mine.cached
        assert run["steady"]["ttft_p50_s"] < run["steady"]["latency_p50_s"]
    grown = await fleet.growth(before)
    assert sum(grown.values(), Tokens()) == told


# -- a replica that dies; last, for it takes a replica with it


async def test_a_replica_that_dies(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    body = chat_of(20, 7_000, max_tokens=3_800)
    running: list[int] = []

    async def all_run(tasks: Iterable[asyncio.Task[Answer]]) -> bool:
        """False when one of them has ended before."""
        while not any(task.done() for task in tasks):
            running[:] = [(await one.counters()).running for one in fleet.replicas]
            if running == [1, 2]:
                return True
            await asyncio.sleep(0.05)
        return False

    async with asyncio.TaskGroup() as group:
        for attempt in range(3):  # a busy machine may begin with one when another is done
            streams = {
                replica: Call.of(f"dies-{attempt}-{n}", CHAT, {**body, "stream": True})
                for n, replica in enumerate(fleet.replicas)
            }
            whole = Call.of(f"dies-{attempt}-before-headers", CHAT, body)
            told = {
                one: group.create_task(ask(http, call, pinned_to(one)))
                for one, call in streams.items()
            }
            moved = group.create_task(ask(http, whole, pinned_to(fleet.plain)))
            if await all_run([*told.values(), moved]):
                break
            await asyncio.wait([*told.values(), moved])
        else:
            raise AssertionError(f"never all under way; running at last: {running}")
        await fleet.plain.kill()
        after = await ask_all(http, chats("after", 40, 7_100), concurrency=4)
    assert {answer.status for answer in after} == {200}
    assert moved.result().status == 200
    survived, cut = told[fleet.poet].result(), told[fleet.plain].result()
    assert (survived.status, survived.broken) == (200, False)
    assert (cut.status, cut.broken) == (200, True)
    lines = await fleet.lines([whole.id, *(call.id for call in streams.values())])
    assert lines[whole.id]["endpoint"] == fleet.poet.address
    assert [lines[call.id]["reason"] for call in streams.values()] == ["ok", "upstream_error"]
    counted = int(str(lines[streams[fleet.plain].id]["output_tokens"]))
    print(f"the stream that broke off: {cut.events} events delivered, {counted} tokens counted")
    # The gateway counts chunks, and a chunk of a busy engine may hold several tokens.
    assert cut.events - 2 <= counted <= 1.5 * cut.events + 1
    await fleet.gateway.healthy(fleet.poet.address)

    async def nothing_in_flight() -> bool:
        return await fleet.gateway.in_flight() == 0

    await eventually(nothing_in_flight, "nothing is in flight", timeout_s=3)

    await fleet.plain.start()
    up_s = time.monotonic()
    await fleet.gateway.healthy(fleet.poet.address, fleet.plain.address)
    seen_s = time.monotonic() - up_s
    print(f"started again in {fleet.plain.ready_after_s:.0f} s, seen {seen_s:.1f} s later")
    before = await fleet.counted()
    back = await ask_all(http, chats("back", 20, 7_200, max_tokens=40), concurrency=20)
    assert {answer.status for answer in back} == {200}
    assert min(tokens.output for tokens in (await fleet.growth(before)).values()) > 0
