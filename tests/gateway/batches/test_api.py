"""What the API takes and refuses, without a gateway before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace

from gateway.batches.api import LaneApi
from gateway.batches.folder import Folder
from gateway.batches.settings import LaneSettings
from gateway.batches.sqlite_store import SqliteStore
from picker import names

CHAT = "/v1/chat/completions"
Json = dict[str, object]


@dataclass
class Served:
    folder: Folder
    settings: LaneSettings
    http: TestClient[web.Request, web.Application]
    woken: int = 0

    async def upload(
        self, content: bytes = b"x", tenant: str = "acme", keep_s: str | None = None
    ) -> Json:
        form = aiohttp.FormData({"purpose": "batch"})
        if keep_s is not None:
            form.add_field("expires_after[seconds]", keep_s)
        form.add_field("file", content, filename="in.jsonl")
        return await self.ask("POST", "/v1/files", tenant=tenant, data=form)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        tenant: str = "acme",
        data: aiohttp.FormData | bytes | None = None,
        json: object = None,
    ) -> Json:
        headers = {names.CALLER: f"{tenant};k1;"}
        content = orjson.dumps(json) if json is not None else data
        answer = await self.http.request(method, path, headers=headers, data=content)
        found: Json = {"status": answer.status, "headers": dict(answer.headers)}
        body = await answer.read()
        if answer.content_type == "application/json" and body:
            found |= orjson.loads(body)
        return found


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    folder = Folder(tmp_path / "lane")
    folder.prepare()
    settings = LaneSettings(
        folder=folder.path,
        socket=tmp_path / "none",
        key="k",
        max_file_bytes=10_000,
        max_lines=100,
        max_line_bytes=1_000,
        max_tenant_bytes=15_000,
        max_tenant_batches=2,
        retention_s=86_400.0,
        concurrency=1,
        attempts=1,
        cancel_grace_s=1.0,
        drain_s=1.0,
    )
    store = SqliteStore(folder.database)

    def wake() -> None:
        made.woken += 1

    api = LaneApi(store, folder, lambda: made.settings, wake, now_s=lambda: 1_000.7)
    async with TestClient(TestServer(api.application())) as http:
        made = Served(folder, settings, http)
        yield made
    await store.close()


def error(answer: Json) -> tuple[object, object, object]:
    found = answer["error"]
    assert isinstance(found, dict)
    assert set(found) == {"message", "type", "param", "code"}
    return answer["status"], found["code"], found["param"]


async def test_a_file_is_kept_as_it_came(served: Served) -> None:
    content = bytes(range(256)) * 30
    file = await served.upload(content)
    assert file | {"status": "processed"} == file | {
        "status": "processed",
        "object": "file",
        "bytes": len(content),
        "created_at": 1_000,
        "expires_at": 87_400,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status_details": None,
    }
    assert served.folder.file(str(file["id"])).read_bytes() == content
    head = await served.ask("HEAD", f"/v1/files/{file['id']}/content")
    assert head["status"] == 200


async def test_fields_may_come_after_the_file(served: Served) -> None:
    form = aiohttp.FormData()
    form.add_field("file", b"abc", filename="../../a.jsonl")
    form.add_field("expires_after[anchor]", "created_at")
    form.add_field("expires_after[seconds]", "7200")
    form.add_field("purpose", "batch")
    file = await served.ask("POST", "/v1/files", data=form)
    assert (file["bytes"], file["expires_at"]) == (3, 8_200)
    assert [one.name for one in (served.folder.path / "files").iterdir()] == [file["id"]]


@pytest.mark.parametrize("seconds", ["3599", "2592001", "x", "", "1e4"])
async def test_a_time_to_keep_has_bounds(served: Served, seconds: str) -> None:
    refused = await served.upload(keep_s=seconds)
    assert error(refused) == (400, "invalid_value", "expires_after")


async def test_a_broken_form_leaves_nothing(served: Served) -> None:
    kind = {"content-type": "multipart/form-data; boundary=b", names.CALLER: "acme;;"}
    whole = b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\nabc'
    for body in (b"", b"--b", whole, whole.replace(b"form-data", b"")):
        answer = await served.http.post("/v1/files", data=body, headers=kind)
        assert answer.status == 400, body
    no_boundary = {"content-type": "multipart/form-data", names.CALLER: "acme;;"}
    answer = await served.http.post("/v1/files", data=whole, headers=no_boundary)
    assert answer.status == 400
    assert [*(served.folder.path / "files").iterdir()] == []


async def test_a_tenants_files_are_bounded_and_another_tenants_are_its_own(
    served: Served,
) -> None:
    assert (await served.upload(b"x" * 9_000))["bytes"] == 9_000
    refused = await served.upload(b"x" * 9_000)
    assert error(refused) == (413, "storage_limit_exceeded", None)
    assert (await served.upload(b"x" * 9_000, tenant="other"))["bytes"] == 9_000
    assert error(await served.upload(b"x" * 10_001)) == (413, "file_too_large", None)
    assert len([*(served.folder.path / "files").iterdir()]) == 2


async def test_batches_that_are_not_over_are_bounded(served: Served) -> None:
    file = await served.upload()
    wanted = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    for _ in range(2):
        assert (await served.ask("POST", "/v1/batches", json=wanted))["status"] == "validating"
    refused = await served.ask("POST", "/v1/batches", json=wanted)
    assert error(refused) == (429, "too_many_batches", None)
    assert served.woken == 2
    assert len([*(served.folder.path / "work").iterdir()]) == 2


@pytest.mark.parametrize(
    "metadata",
    [[], {"a": 1}, {"a": None}, {"k" * 65: "v"}, {"k": "v" * 513}, {str(n): "" for n in range(17)}],
)
async def test_metadata_are_few_short_texts(served: Served, metadata: object) -> None:
    wanted = {
        "input_file_id": "file-x",
        "endpoint": CHAT,
        "completion_window": "24h",
        "metadata": metadata,
    }
    refused = await served.ask("POST", "/v1/batches", json=wanted)
    assert error(refused) == (400, "invalid_value", "metadata")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null"])
async def test_a_batch_is_asked_for_in_json(served: Served, body: bytes) -> None:
    refused = await served.ask("POST", "/v1/batches", data=body)
    assert error(refused)[:2] == (400, "invalid_json")


async def test_a_body_that_is_too_long_is_refused(served: Served) -> None:
    refused = await served.ask("POST", "/v1/batches", data=b"x" * (2 << 20))
    assert refused["status"] == 413


async def test_without_a_caller_nothing_is_served(served: Served) -> None:
    assert (await served.http.get("/v1/files")).status == 500


async def test_a_folder_that_cannot_be_used_is_no_end(served: Served) -> None:
    (served.folder.path / "files").rmdir()
    (served.folder.path / "files").write_text("")
    refused = await served.upload()
    assert error(refused) == (503, "storage_unavailable", None)


async def test_settings_are_written_and_read(served: Served) -> None:
    assert LaneSettings.from_bytes(served.settings.to_bytes()) == served.settings
    served.settings = replace(served.settings, max_file_bytes=10)
    assert error(await served.upload(b"x" * 11))[0] == 413
