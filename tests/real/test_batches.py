"""Files and batches as OpenAI's client uses them, through a real Envoy, with deaths on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import openai
import pytest
import pytest_asyncio
from openai.types import Batch

from tests.real.gateway import Gateway, Json, eventually
from tests.real.replicas import Replica, stepping

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

KEYS = {"acme": "sk-acme-0123456789abcdef", "other": "sk-other-0123456789abcdef"}
LANE: Final = "gateway.batches.process"
CHAT: Final = "/v1/chat/completions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("batches")
    options = (*stepping(5), "--output-tokens-min=100000", "--num-blocks=65536")
    limits: list[Json] = [{"count": "total_tokens", "limit": 10**9, "period": "day"}]
    async with Replica(folder, *options) as replica:
        config: Json = {
            "picker": {"scrape": {"interval_s": 0.05}},
            "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
            "tenants": [
                {
                    "name": name,
                    "limits": limits,
                    "keys": [{"id": name, "sha256": hashlib.sha256(key.encode()).hexdigest()}],
                }
                for name, key in KEYS.items()
            ],
            "batches": {"max_lines": 500, "max_file_bytes": 1 << 20, "cancel_grace_s": 0.1},
        }
        async with Gateway(folder / "gateway", config) as running:
            assert not running.pids(LANE), "nobody uses it yet"
            yield running


def client(gateway: Gateway, tenant: str = "acme") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEYS[tenant], max_retries=0)


def line(n: int, tokens: int = 4, **body: object) -> str:
    whole = {"model": "m", "max_tokens": tokens, "messages": [{"role": "user", "content": f"{n}"}]}
    whole |= body
    return json.dumps({"custom_id": f"r{n}", "method": "POST", "url": CHAT, "body": whole})


async def started(ai: openai.AsyncOpenAI, *lines: str, **more: object) -> Batch:
    content = "\n".join(lines).encode()
    file = await ai.files.create(file=("in.jsonl", content), purpose="batch")
    window = more.pop("completion_window", "24h")
    return await ai.batches.create(
        input_file_id=file.id,
        endpoint=CHAT,
        completion_window=window,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


async def over(ai: openai.AsyncOpenAI, batch: Batch, timeout_s: float = 40) -> Batch:
    found = batch

    async def so() -> bool:
        nonlocal found
        found = await ai.batches.retrieve(batch.id)
        return found.status in ("completed", "failed", "expired", "cancelled")

    await eventually(so, f"{batch.id} is over", timeout_s)
    return found


async def content(ai: openai.AsyncOpenAI, file: str | None) -> list[Json]:
    if file is None:
        return []
    text = (await ai.files.content(file)).text
    return [json.loads(one) for one in text.splitlines()]


async def test_the_client_as_it_is(gateway: Gateway) -> None:
    ai = client(gateway)
    file = await ai.files.create(
        file=("mine.jsonl", f"{line(0)}\n{line(1, messages='no')}\n".encode()),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (file.filename, file.purpose, file.object) == ("mine.jsonl", "batch", "file")
    assert file.expires_at == file.created_at + 3600
    assert await ai.files.retrieve(file.id) == file
    assert (await ai.files.list(purpose="batch", limit=1)).data == [file]
    assert (await ai.files.content(file.id)).text.startswith(line(0))

    batch = await ai.batches.create(
        input_file_id=file.id,
        endpoint=CHAT,
        completion_window="24h",
        metadata={"run": "7"},
    )
    assert (batch.status, batch.object, batch.metadata) == ("validating", "batch", {"run": "7"})
    assert batch.expires_at == batch.created_at + 86_400
    assert (await ai.files.delete(file.id)).deleted  # the batch goes on without it
    batch = await over(ai, batch)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (2, 1, 1)
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert all(one is not None for one in times)
    assert batch.usage is not None
    assert batch.usage.output_tokens == 4

    (good,), (bad,) = (
        await content(ai, batch.output_file_id),
        await content(ai, batch.error_file_id),
    )
    assert good["custom_id"] == "r0"
    response = good["response"]
    assert isinstance(response, dict)
    assert response["status_code"] == 200
    assert response["body"]["choices"][0]["message"]["role"] == "assistant"
    assert (bad["custom_id"], bad["error"]) == ("r1", None)
    assert isinstance(bad["response"], dict)
    assert bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["type"] == "invalid_request_error"
    out = await ai.files.retrieve(batch.output_file_id or "")
    assert (out.purpose, out.filename) == ("batch_output", f"{batch.id}_output.jsonl")

    more = await started(ai, line(0))
    await over(ai, more)
    page = await ai.batches.list(limit=1)
    assert [one.id for one in page.data] == [more.id]
    assert page.has_more
    assert batch.id in [one.id async for one in ai.batches.list(limit=1)]


async def test_what_is_of_another_tenant_is_not_there(gateway: Gateway) -> None:
    ai, other = client(gateway), client(gateway, "other")
    batch = await over(ai, await started(ai, line(0)))
    assert batch.output_file_id is not None
    for ask in (
        other.files.retrieve(batch.input_file_id),
        other.files.content(batch.output_file_id),
        other.files.delete(batch.output_file_id),
        other.batches.retrieve(batch.id),
        other.batches.cancel(batch.id),
        other.batches.create(
            input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            await ask
    assert [one async for one in other.files.list()] == []
    assert [one async for one in other.batches.list()] == []
    with pytest.raises(openai.AuthenticationError):
        await openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-no").files.list()


async def test_nobody_says_himself_who_he_is(gateway: Gateway) -> None:
    ai = client(gateway)
    batch = await started(ai, line(0))
    headers = {
        "authorization": f"Bearer {KEYS['other']}",
        "x-penstock-caller": "acme;acme;",
        "x-penstock-batch-line": "x;acme;acme;",
        "x-penstock-pool": "penstock_batches",
    }
    async with aiohttp.ClientSession(gateway.url, headers=headers) as session:
        assert (await session.get(f"/v1/batches/{batch.id}")).status == 404
        body = {"model": "m", "max_tokens": 1, "prompt": "x"}
        assert (await session.post("/v1/completions", json=body)).status == 200
        del session.headers["authorization"]
        assert (await session.get(f"/v1/batches/{batch.id}")).status == 401
        assert (await session.post("/v1/completions", json=body)).status == 401


async def test_a_file_that_is_no_batch_fails_with_its_lines(gateway: Gateway) -> None:
    ai = client(gateway)
    batch = await over(ai, await started(ai, line(0), "{", line(0), line(1, model="n")))
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(one.code, one.line) for one in batch.errors.data] == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
        ("model_mismatch", 4),
    ]
    with pytest.raises(openai.ConflictError):
        await ai.batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/batches", {"endpoint": CHAT, "completion_window": "24h"}, 400, "input_file_id"),
        ("/v1/batches", {"input_file_id": "file-x", "endpoint": CHAT}, 400, "completion_window"),
        (
            "/v1/batches",
            {"input_file_id": "f", "endpoint": "/v1/no", "completion_window": "24h"},
            400,
            "endpoint",
        ),
        (
            "/v1/batches",
            {"input_file_id": "f", "endpoint": CHAT, "completion_window": "9d"},
            400,
            "completion_window",
        ),
        (
            "/v1/batches",
            {"input_file_id": "f", "endpoint": CHAT, "completion_window": "24h"},
            404,
            "input_file_id",
        ),
        ("/v1/files", {"purpose": "batch"}, 400, None),
    ],
)
async def test_what_cannot_be_is_refused(
    gateway: Gateway, path: str, body: Json, status: int, param: str | None
) -> None:
    headers = {"authorization": f"Bearer {KEYS['acme']}"}
    async with aiohttp.ClientSession(gateway.url, headers=headers) as session:
        answer = await session.post(path, json=body)
        error = (await answer.json())["error"]
        assert (answer.status, error["param"]) == (status, param)
        assert error["type"] == "invalid_request_error"
        assert (await session.put("/v1/batches")).status == 405
        assert (await session.get("/v1/batches/x/y/z")).status == 404
        assert (await session.get("/v1/files", params={"limit": "0"})).status == 400


async def test_uploads_have_bounds(gateway: Gateway) -> None:
    ai, most = client(gateway), 1 << 20
    file = await ai.files.create(file=("x", b"x" * most), purpose="batch")
    assert file.bytes == most
    assert len((await ai.files.content(file.id)).content) == most
    for content, purpose, status in (
        (b"x" * (most + 1), "batch", 413),
        (b"", "batch", 400),
        (b"x", "vision", 400),
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            await ai.files.create(file=("x", content), purpose=purpose)  # type: ignore[arg-type]
        assert refused.value.status_code == status


async def test_killed_twice_every_line_is_answered_once_and_charged(gateway: Gateway) -> None:
    ai, lines = client(gateway, "other"), 150
    batch = await started(ai, *(line(n, 8) for n in range(lines)))
    folder = gateway.file.parent / "penstock-state" / "batches" / "files"

    async def answered(more_than: int) -> None:
        async def so() -> bool:
            # No other test's output is so long; inputs have no such ids.
            written = [one.read_bytes().count(b'{"id":"batch_req_') for one in folder.iterdir()]
            return max(written) > more_than

        await eventually(so, f"more than {more_than} lines are answered")

    await answered(30)
    (lane,) = gateway.pids(LANE)
    os.kill(lane, signal.SIGKILL)
    assert (await ai.batches.retrieve(batch.id)).status == "in_progress"  # it waits for the next
    await answered(80)
    gateway.signal(signal.SIGKILL)  # everything
    await gateway.exited()
    await eventually(gateway.alone, "nothing of it runs")
    await gateway.start()
    batch = await over(ai, batch)
    assert batch.status == "completed"
    output = await content(ai, batch.output_file_id)
    assert Counter(one["custom_id"] for one in output) == Counter(f"r{n}" for n in range(lines))
    assert batch.error_file_id is None
    assert batch.usage is not None
    assert batch.usage.output_tokens == 8 * lines


async def test_a_cancelled_batch_keeps_what_is_answered(gateway: Gateway) -> None:
    ai = client(gateway)
    lines = [line(0, 1), *(line(n, 5_000) for n in range(1, 60))]
    batch = await started(ai, *lines)

    async def so() -> bool:
        counts = (await ai.batches.retrieve(batch.id)).request_counts
        return counts is not None and counts.completed == 1

    await eventually(so, "the short line is answered")
    found = await ai.batches.cancel(batch.id)
    assert found.status == "cancelling"
    assert found.cancelling_at is not None
    batch = await over(ai, batch)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    assert [one["custom_id"] for one in await content(ai, batch.output_file_id)] == ["r0"]
    errors = await content(ai, batch.error_file_id)
    assert Counter(one["custom_id"] for one in errors) == Counter(f"r{n}" for n in range(1, 60))
    assert {str(one["error"]["code"]) for one in errors} == {"batch_cancelled"}  # type: ignore[index]
    await eventually(lambda: _idle(gateway), "its running lines have ended")


async def test_a_window_that_ends_keeps_what_is_answered(gateway: Gateway) -> None:
    ai = client(gateway)
    lines = [line(0, 1), line(1, 5_000)]
    batch = await over(ai, await started(ai, *lines, completion_window="2s"))
    assert batch.status == "expired"
    assert batch.expired_at is not None
    assert [one["custom_id"] for one in await content(ai, batch.output_file_id)] == ["r0"]
    (late,) = await content(ai, batch.error_file_id)
    assert late["error"]["code"] == "batch_expired"  # type: ignore[index]


async def test_operators_see_all_batches_and_may_cancel(gateway: Gateway) -> None:
    ai = client(gateway)
    batch = await started(ai, line(0, 5_000))
    async with aiohttp.ClientSession(gateway.admin) as session:
        listed = await (await session.get("/api/batches", params={"limit": "1"})).json()
        assert [(one["id"], one["tenant"]) for one in listed["batches"]] == [(batch.id, "acme")]
        path = f"/api/batches/{batch.id}"
        answer = await session.post(f"{path}/cancel", json={})
        assert (await answer.json())["status"] == "cancelling"
        await over(ai, batch)
        assert (await (await session.get(path)).json())["status"] == "cancelled"
        answer = await session.post(f"{path}/cancel", json={})
        assert answer.status == 200
        metrics = await gateway.metrics()
    assert 'penstock_batches{status="completed"}' in metrics
    assert "penstock_batch_stored_bytes" in metrics
    lane = (await gateway.status())["batches"]
    assert isinstance(lane, dict)
    assert lane["state"] == "ready"


async def _idle(gateway: Gateway) -> bool:
    return await gateway.in_flight() == 0
