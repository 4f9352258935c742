"""Tenants, keys and limits as their users meet them: the commands, and the OpenAI and Anthropic
clients through Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import anthropic
import openai
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json, eventually
from tests.real.replicas import FAST, Recorder, Replica

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


async def run(gateway: Gateway, *arguments: str, code: int = 0) -> str:
    """``penstock ...`` against the gateway's admin API."""
    command = ["-m", "gateway.cli", *arguments]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PENSTOCK_ADMIN_URL": gateway.admin, "COLUMNS": "200"},
    )
    out, err = await process.communicate()
    assert process.returncode == code, (out, err)
    return (out + err).decode()


async def new_key(gateway: Gateway, tenant: str, *more: str) -> tuple[str, str]:
    """(id, key)"""
    made = json.loads(await run(gateway, "keys", "create", tenant, "--json", *more))
    key = made["key"]
    text = key if isinstance(key, str) else made["text"]
    return str(text.split("_")[1]), text


def config(*replicas: str) -> Json:
    """A pool of each replica."""
    return {
        "pools": [
            {"name": f"pool-{place}", "type": "static", "endpoints": [replica]}
            for place, replica in enumerate(replicas)
        ],
        "identity": {},
        "plans": [
            {
                "name": "free",
                "models": ["m"],
                "limits": [
                    {"count": "requests", "limit": 6, "period": "hour", "window": "calendar"},
                    {"count": "total_tokens", "limit": 5000, "period": "minute"},
                    {"count": "cost", "limit": 3, "period": "month", "window": "calendar"},
                ],
            },
            {"name": "gold"},
        ],
        "tenants": [{"name": "acme", "plan": "gold"}, {"name": "trial", "plan": "free"}],
        "pricing": {"models": [{"model": "*", "input": 1, "output": 10}]},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replica]:
    async with Replica(tmp_path_factory.mktemp("replica"), *FAST) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorder() -> AsyncIterator[Recorder]:
    async with Recorder() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    replica: Replica, recorder: Recorder, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """Each test makes keys of its own, and uses up no limit that another one needs."""
    whole = config(replica.address, recorder.address)
    async with Gateway(tmp_path_factory.mktemp("gateway"), whole) as made:
        await made.healthy(replica.address, recorder.address)
        yield made


def client(gateway: Gateway, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


async def chat(one: openai.AsyncOpenAI, model: str = "m", max_tokens: int = 4) -> object:
    return await one.chat.completions.create(
        model=model, max_tokens=max_tokens, messages=[{"role": "user", "content": "Hello"}]
    )


async def test_a_key_from_its_making_to_its_end(gateway: Gateway) -> None:
    key_id, key = await new_key(gateway, "acme", "--name", "ci")
    async with client(gateway, key) as one:
        await chat(one)  # at once: the command returned when every picker knew it
        listed = await run(gateway, "keys", "list", "--tenant", "acme")
        assert key_id in listed
        assert "active" in listed
        assert key not in listed
        rotated = json.loads(
            await run(gateway, "keys", "rotate", key_id, "--overlap", "1h", "--json")
        )
        assert key_id not in str(rotated["key"])
        await chat(one)  # both work while they overlap
        await run(gateway, "keys", "revoke", key_id)
        with pytest.raises(openai.AuthenticationError, match="revoked"):
            await chat(one)

    async def logged() -> bool:
        lines = [line for line in gateway.request_log() if line["status"] == 401]
        return [line["tenant"] for line in lines if line.get("key") == key_id] == ["acme"]

    await eventually(logged, "the log says whose key was refused")
    secret = key.rpartition("_")[2]
    assert secret not in gateway.logs() + gateway.log_file.read_text() + await gateway.metrics()
    database = gateway.file.parent / "penstock-state" / "penstock.db"
    assert secret.encode() not in b"".join(
        file.read_bytes() for file in database.parent.iterdir() if file.is_file()
    )
    assert database.stat().st_mode & 0o077 == 0


async def test_who_is_turned_away(gateway: Gateway) -> None:
    async with client(gateway, "psk_nobody_knows") as one:
        with pytest.raises(openai.AuthenticationError) as refused:
            await chat(one)
        assert refused.value.code == "invalid_api_key"
        assert "nobody" not in str(refused.value)
    _, key = await new_key(gateway, "trial")
    async with client(gateway, key) as one:
        with pytest.raises(openai.PermissionDeniedError) as closed:
            await chat(one, model="other")
        assert closed.value.code == "model_not_allowed"
    await run(gateway, "tenants", "create", "late", "--plan", "gold")
    _, key = await new_key(gateway, "late")
    async with client(gateway, key) as one:
        await chat(one)
        await run(gateway, "tenants", "disable", "late")
        with pytest.raises(openai.PermissionDeniedError) as disabled:
            await chat(one)
        assert disabled.value.code == "tenant_disabled"
        await run(gateway, "tenants", "enable", "late")
        await chat(one)


async def test_limits_headers_and_refusals(gateway: Gateway) -> None:
    _, key = await new_key(gateway, "trial")
    async with client(gateway, key) as one:
        told = await one.chat.completions.with_raw_response.create(
            model="m", max_tokens=4, messages=[{"role": "user", "content": "Hello"}]
        )
        assert told.headers["x-ratelimit-limit-requests"] == "6"
        assert told.headers["x-ratelimit-remaining-requests"] == "5"
        assert told.headers["x-ratelimit-limit-tokens"] == "5000"
        assert 4_900 < int(told.headers["x-ratelimit-remaining-tokens"]) < 5_000
        with pytest.raises(openai.RateLimitError) as large:
            await chat(one, max_tokens=6_000)
        assert large.value.response.headers["x-should-retry"] == "false"
        assert "retry-after" not in large.value.response.headers
        stream = await one.chat.completions.create(
            model="m", max_tokens=4, stream=True, messages=[{"role": "user", "content": "Hi"}]
        )
        assert stream.response.headers["x-ratelimit-remaining-requests"] == "4"
        async for _ in stream:
            pass
        with pytest.raises(openai.NotFoundError):  # refunded: nothing was served
            await one.post("/responses/none/cancel", cast_to=object, body={"model": "m"})

        async def refunded() -> bool:
            told = json.loads(await run(gateway, "limits", "--tenant", "trial", "--json"))
            return [x["remaining"] for x in told["limits"] if x["count"] == "requests"] == [4]

        await eventually(refunded, "the failed request was given back")
        for _ in range(4):
            await chat(one)
        with pytest.raises(openai.RateLimitError) as refused:
            await chat(one)
        assert refused.value.code == "rate_limit_exceeded"
        left_s = 3_600 - time.time() % 3_600
        assert abs(int(refused.value.response.headers["retry-after"]) - left_s) < 5
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=key, max_retries=0) as other:
        with pytest.raises(anthropic.RateLimitError) as also:
            await other.messages.create(
                model="m", max_tokens=4, messages=[{"role": "user", "content": "Hello"}]
            )
        assert also.value.response.json()["error"]["type"] == "rate_limit_error"
        assert also.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
    table = await run(gateway, "limits", "--tenant", "trial")
    assert "requests-per-calendar-hour" in table


async def test_limits_change_without_a_restart(gateway: Gateway) -> None:
    _, key = await new_key(gateway, "acme")
    async with client(gateway, key) as one:
        await chat(one)
        before = gateway.config
        changed = dict(before)
        limit = {"count": "requests", "limit": 2, "period": "day", "window": "calendar"}
        changed["plans"] = [{"name": "free"}, {"name": "gold", "limits": [limit]}]
        gateway.write(changed)

        async def free() -> bool:
            try:
                await chat(one)
            except openai.RateLimitError:
                return False
            return True

        async def limited() -> bool:
            return not await free()

        await eventually(limited, "the new limit holds")
        gateway.write(before)
        await eventually(free, "the old plan is back")


async def test_nobody_uploads_a_body_without_a_key(gateway: Gateway, recorder: Recorder) -> None:
    sent, before = 0, len(recorder.seen)

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += 100_000
            yield b"x" * 100_000
            await asyncio.sleep(0.01)

    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"{gateway.url}/v1/chat/completions", data=body())
        assert answer.status == 401
    assert sent < 20_000_000
    assert len(recorder.seen) == before


async def test_the_replica_never_sees_a_key(gateway: Gateway, recorder: Recorder) -> None:
    before = len(recorder.seen)
    _, key = await new_key(gateway, "acme")
    async with aiohttp.ClientSession() as session:
        for headers in (
            {"authorization": f"Bearer {key}"},
            {"x-api-key": key},
            {"api-key": key},
        ):
            await session.post(
                f"{gateway.url}/v1/chat/completions",
                json={"model": recorder.model, "messages": [{"role": "user", "content": "Hi"}]},
                headers=headers,
            )
    # The gateway itself may have asked its tokenizer besides.
    seen = recorder.seen[before:]
    assert [one.path for one in seen].count("/v1/chat/completions") == 3
    assert key not in str([dict(request.headers) for request in seen])


async def test_the_admin_api_is_closed_without_its_token(tmp_path: Path, replica: Replica) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef-secret\n")
    whole = config(replica.address)
    made = Gateway(tmp_path / "gateway", whole)
    whole["admin"] = {"port": made.admin_port, "token": {"file": str(token)}}
    made.write(whole)
    async with made as gateway:
        assert "token" in await run(gateway, "tenants", "list", code=1)
        listed = await run(gateway, "tenants", "list", "--token-file", str(token))
        assert "acme" in listed


async def test_what_a_running_penstock_cannot_change_is_refused_as_a_whole(
    gateway: Gateway, tmp_path: Path
) -> None:
    before = dict(gateway.config)

    async def refused(word: str) -> None:
        async def so() -> bool:
            told = (await gateway.status())["config"]
            assert isinstance(told, dict)
            return told["refused"] is not None and word in str(told["refused"]["problems"])

        await eventually(so, f"the reload is refused for {word}")

    gateway.write({**before, "state_dir": str(tmp_path / "elsewhere")})
    await refused("restart Penstock")
    _, key = await new_key(gateway, "acme")
    async with client(gateway, key) as one:
        await chat(one)
    gateway.write(before)

    async def accepted() -> bool:
        told = (await gateway.status())["config"]
        assert isinstance(told, dict)
        return told["refused"] is None

    await eventually(accepted, "the old configuration is back")


async def test_tenants_that_cannot_be_kept_are_refused_and_nothing_breaks(
    tmp_path: Path, replica: Replica
) -> None:
    (tmp_path / "file").write_text("not a folder")
    whole = config(replica.address)
    plain: Json = {"pools": whole["pools"]}
    async with Gateway(tmp_path / "gateway", plain) as gateway:
        gateway.write({**whole, "state_dir": str(tmp_path / "file" / "state")})

        async def refused() -> bool:
            told = (await gateway.status())["config"]
            assert isinstance(told, dict)
            return "state_dir" in str(told["refused"])

        await eventually(refused, "the reload is refused")
        async with client(gateway, "anything") as one:
            await chat(one)


async def test_usage_is_counted_once_and_survives_restarts(gateway: Gateway) -> None:
    """The last test of the file: it ends what the others share."""
    key_id, key = await new_key(gateway, "acme")
    async with client(gateway, key) as one:
        for _ in range(5):
            await one.chat.completions.create(
                model="m",
                max_tokens=4,
                user="ann",
                messages=[{"role": "user", "content": "Hello"}],
            )

    async def rows() -> list[Json]:
        told = json.loads(await run(gateway, "usage", "--by", "tenant,key,user,model", "--json"))
        found: list[Json] = [row for row in told["rows"] if row["key"] == key_id]
        return found

    async def counted() -> bool:
        try:
            return [row["requests"] for row in await rows()] == [5]
        except AssertionError:  # no picker runs just now
            return False

    await eventually(counted, "five requests are in the ledger")
    (row,) = await rows()
    assert (row["tenant"], row["key"], row["user"], row["model"]) == ("acme", key_id, "ann", "m")
    logged = [
        line for line in gateway.request_log() if (line["status"], line.get("key")) == (200, key_id)
    ]
    assert len(logged) == 5
    assert row["input_tokens"] == sum(int(str(line["input_tokens"])) for line in logged)
    assert row["output_tokens"] == 20
    assert {(line["tenant"], line["user"]) for line in logged} == {("acme", "ann")}
    for pid in gateway.pids("gateway.run.worker"):
        os.kill(pid, 9)
    await eventually(counted, "the ledger is there after a picker was killed")
    await gateway.stop()
    with sqlite3.connect(gateway.file.parent / "penstock-state" / "penstock.db") as database:
        (requests,) = database.execute(
            "SELECT sum(requests) FROM usage_rows WHERE key = ?", (key_id,)
        ).fetchone()
    assert requests == 5
