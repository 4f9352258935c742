"""The API of files and batches, as OpenAI's clients know it. Our Envoy sends what the picker has
let in, with the header that says who it is from."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import orjson
from aiohttp import web

from gateway.batches.cancel import cancelled
from gateway.batches.folder import Folder
from gateway.batches.problems import Refusal, invalid, no_such, refusals
from gateway.batches.reading import expires_after_s, owner_of, page_of, wanted_batch
from gateway.batches.records import BatchRecord, FileRecord, Json
from gateway.batches.settings import LaneSettings
from gateway.batches.store import BatchStore, QuotaExceeded
from gateway.batches.upload import receive

_FREE_BYTES: Final = 256 << 20
"""What must be left of the disk."""


class _Shown(Protocol):
    """A record of a list."""

    @property
    def id(self) -> str: ...

    def as_json(self) -> Json: ...


class LaneApi:
    """Handlers of /v1/files and /v1/batches."""

    def __init__(
        self,
        store: BatchStore,
        folder: Folder,
        settings: Callable[[], LaneSettings],
        wake: Callable[[], None],
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """``wake``: called when there is work."""
        self._store, self._folder = store, folder
        self._settings, self._wake, self._now_s = settings, wake, now_s

    def application(self) -> web.Application:
        """To be served on a unix socket that only our Envoy reaches."""
        app = web.Application(middlewares=[refusals], client_max_size=1 << 20)
        router = app.router
        router.add_post("/v1/files", self.upload)
        router.add_get("/v1/files", self.files)
        router.add_get("/v1/files/{id}", self.file)
        router.add_delete("/v1/files/{id}", self.delete_file)
        router.add_get("/v1/files/{id}/content", self.content)
        router.add_post("/v1/batches", self.create)
        router.add_get("/v1/batches", self.batches)
        router.add_get("/v1/batches/{id}", self.batch)
        router.add_post("/v1/batches/{id}/cancel", self.cancel)
        return app

    # -- files

    async def upload(self, request: web.Request) -> web.Response:
        """Store a file."""
        owner, settings = owner_of(request.headers), self._settings()
        used = await self._store.stored_bytes(owner.tenant)
        room = settings.max_tenant_bytes - used
        if (request.content_length or 0) > room + (64 << 10):
            raise _no_quota(settings.max_tenant_bytes)
        free = await asyncio.to_thread(self._folder.free_bytes)
        if free < _FREE_BYTES + (request.content_length or 0):
            raise Refusal(507, "disk_full", "The gateway has no room for this file now.")
        id_ = f"file-{secrets.token_hex(12)}"
        arriving = self._folder.arriving(id_)
        try:
            form = await receive(request, arriving, settings.max_file_bytes)
            record = self._received(id_, owner.tenant, form.filename, form.size_bytes, form.fields)
            await asyncio.to_thread(arriving.rename, self._folder.file(id_))
            try:
                await self._store.add_file(record, settings.max_tenant_bytes)
            except QuotaExceeded:
                await asyncio.to_thread(self._folder.file(id_).unlink, missing_ok=True)
                raise _no_quota(settings.max_tenant_bytes) from None
        finally:
            await asyncio.to_thread(arriving.unlink, missing_ok=True)
        return _answer(record.as_json())

    def _received(
        self, id_: str, tenant: str, filename: str | None, size: int, fields: dict[str, str]
    ) -> FileRecord:
        purpose = fields.get("purpose")
        if filename is None:
            invalid("The form has no file in its field `file`.", param="file")
        if purpose is None:
            invalid("Missing required parameter: 'purpose'.", param="purpose")
        if purpose != "batch":
            invalid("purpose must be `batch`: other files have no use here.", param="purpose")
        if not size:
            invalid("The file is empty.", param="file", code="empty_file")
        now_s = int(self._now_s())
        keep_s = expires_after_s(fields) or int(self._settings().retention_s)
        return FileRecord(
            id=id_,
            tenant=tenant,
            filename=filename,
            purpose=purpose,
            size_bytes=size,
            created_s=now_s,
            expires_s=now_s + keep_s,
        )

    async def files(self, request: web.Request) -> web.Response:
        """The tenant's files."""
        owner, page = owner_of(request.headers), page_of(request.query, most=10_000, usual=10_000)
        purpose = request.query.get("purpose")
        try:
            found, more = await self._store.files(owner.tenant, purpose, page)
        except LookupError:
            no_such("file", request.query.get("after", ""))
        return _list(found, more=more)

    async def file(self, request: web.Request) -> web.Response:
        """One file."""
        return _answer((await self._file(request)).as_json())

    async def delete_file(self, request: web.Request) -> web.Response:
        """Delete a file. A batch that works on it has a name of its own for it."""
        record = await self._file(request)
        if not await self._store.delete_file(record.id, record.tenant):
            no_such("file", record.id)
        await asyncio.to_thread(self._folder.file(record.id).unlink, missing_ok=True)
        return _answer({"id": record.id, "object": "file", "deleted": True})

    async def content(self, request: web.Request) -> web.StreamResponse:
        """The bytes of a file."""
        record = await self._file(request)
        path = self._folder.file(record.id)
        if not await asyncio.to_thread(path.exists):
            no_such("file", record.id)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f'attachment; filename="{record.id}.jsonl"',
            "X-Content-Type-Options": "nosniff",
        }
        return web.FileResponse(path, chunk_size=256 * 1024, headers=headers)

    async def _file(self, request: web.Request) -> FileRecord:
        owner, id_ = owner_of(request.headers), request.match_info["id"]
        found = await self._store.file(id_, owner.tenant)
        if found is None or (found.expires_s is not None and found.expires_s <= self._now_s()):
            no_such("file", id_)
        return found

    # -- batches

    async def create(self, request: web.Request) -> web.Response:
        """Begin a batch. Its input is checked afterwards: what is wrong with it stands in the
        batch."""
        owner, settings = owner_of(request.headers), self._settings()
        wanted = wanted_batch(await request.read())
        file = await self._store.file(wanted.input_file_id, owner.tenant)
        if file is None:
            message = f"No such file: {wanted.input_file_id[:100]!r}."
            raise Refusal(404, "not_found", message, param="input_file_id")
        if file.purpose != "batch":
            invalid("The input file must be uploaded for the purpose batch.", param="input_file_id")
        now_s, id_ = int(self._now_s()), f"batch_{secrets.token_hex(16)}"
        record = BatchRecord(
            id=id_,
            owner=owner,
            endpoint=wanted.endpoint,
            input_file_id=file.id,
            completion_window=wanted.window,
            created_s=now_s,
            expires_s=now_s + wanted.window_s,
            output_id=f"file-{secrets.token_hex(12)}",
            error_id=f"file-{secrets.token_hex(12)}",
            metadata=wanted.metadata,
            output_expires_after_s=wanted.output_expires_after_s,
        )
        try:
            await asyncio.to_thread(self._folder.keep_input, id_, file.id)
        except FileNotFoundError:
            no_such("file", file.id)
        try:
            await self._store.add_batch(record, settings.max_tenant_batches)
        except BaseException as error:
            await asyncio.to_thread(self._folder.input(id_).unlink, missing_ok=True)
            if isinstance(error, QuotaExceeded):
                most = settings.max_tenant_batches
                message = f"There are {most} batches that are not over: wait for one, or cancel it."
                raise Refusal(429, "too_many_batches", message, retry_after_s=60) from None
            raise
        self._wake()
        return _answer(record.as_json())

    async def batches(self, request: web.Request) -> web.Response:
        """The tenant's batches."""
        owner, page = owner_of(request.headers), page_of(request.query, most=100, usual=20)
        try:
            found, more = await self._store.batches(owner.tenant, page)
        except LookupError:
            no_such("batch", request.query.get("after", ""))
        return _list(found, more=more)

    async def batch(self, request: web.Request) -> web.Response:
        """One batch."""
        owner, id_ = owner_of(request.headers), request.match_info["id"]
        found = await self._store.batch(id_, owner.tenant)
        if found is None:
            no_such("batch", id_)
        return _answer(found.as_json())

    async def cancel(self, request: web.Request) -> web.Response:
        """End a batch early; what is answered by then is kept."""
        owner, id_ = owner_of(request.headers), request.match_info["id"]
        if await self._store.batch(id_, owner.tenant) is None:
            no_such("batch", id_)
        found = await cancelled(self._store, id_, self._now_s())
        self._wake()
        return _answer(found.as_json())


def _no_quota(most_bytes: int) -> Refusal:
    message = f"The files of this tenant may have {most_bytes} bytes together: delete some."
    return Refusal(413, "storage_limit_exceeded", message)


def _answer(document: Json) -> web.Response:
    return web.Response(
        body=orjson.dumps(document),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _list(found: Sequence[_Shown], *, more: bool) -> web.Response:
    return _answer(
        {
            "object": "list",
            "data": [one.as_json() for one in found],
            "first_id": found[0].id if found else None,
            "last_id": found[-1].id if found else None,
            "has_more": more,
        }
    )
