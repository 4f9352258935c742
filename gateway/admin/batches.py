"""/api/batches: the batches of all tenants, for operators."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aiohttp import web
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.admin.answers import answer, page
from gateway.admin.guard import error
from gateway.batches.cancel import cancelled
from gateway.batches.folder import Folder
from gateway.batches.problems import Refusal
from gateway.batches.records import BatchRecord, Json, Status
from gateway.batches.sqlite_store import SqliteStore
from gateway.batches.store import Page, Totals

_OFF: Final = "there are no files and batches: see `batches` in the configuration"


class BatchRecords:
    """Reads and writes the records beside the process of the lane."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._store: SqliteStore | None = None

    def configure(self, folder: Path | None) -> None:
        """``folder``: of the lane; None: there is none."""
        if folder != self._folder:
            self._folder, self._store = folder, None

    @property
    def is_on(self) -> bool:
        """There is a lane."""
        return self._folder is not None

    @property
    def store(self) -> SqliteStore | None:
        """None: nothing was recorded yet."""
        if self._folder is None:
            return None
        file = Folder(self._folder).database
        if self._store is None and file.exists():
            self._store = SqliteStore(file)
        return self._store

    async def totals(self) -> Totals | None:
        """Sums; None: there is nothing to sum."""
        store = self.store
        return None if store is None else await store.totals()

    async def close(self) -> None:
        """Let go of the file."""
        if self._store is not None:
            await self._store.close()


class BatchHandlers:
    """Handlers of /api/batches."""

    def __init__(self, records: BatchRecords) -> None:
        self._records = records

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/api/batches", self.list)
        app.router.add_get("/api/batches/{id}", self.show)
        app.router.add_post("/api/batches/{id}/cancel", self.cancel)

    async def list(self, request: web.Request) -> web.Response:
        """Batches, the newest first. Query: tenant, limit, cursor."""
        cursor, size = page(request, "tenant")
        if not self._records.is_on:
            return error(404, "batches_off", _OFF)
        store = self._records.store
        if store is None:
            return answer({"batches": [], "next": None})
        try:
            wanted = Page(cursor or None, size)
            found, more = await store.batches(request.query.get("tenant"), wanted)
        except LookupError:
            return error(404, "unknown_batch", f"there is no batch {cursor!r}")
        shown = [_shown(one) for one in found]
        return answer({"batches": shown, "next": found[-1].id if more else None})

    async def show(self, request: web.Request) -> web.Response:
        """One batch."""
        store, id_ = self._records.store, request.match_info["id"]
        found = None if store is None else await store.batch(id_, None)
        if found is None:
            return error(404, "unknown_batch", f"there is no batch {id_!r}")
        return answer(_shown(found))

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel a batch of any tenant."""
        store, id_ = self._records.store, request.match_info["id"]
        if store is None:
            return error(404, "unknown_batch", f"there is no batch {id_!r}")
        try:
            return answer(_shown(await cancelled(store, id_, time.time())))
        except Refusal as refusal:
            code = "unknown_batch" if refusal.status == 404 else "batch_is_over"
            return error(refusal.status, code, str(refusal))


class BatchCollector(Collector):
    """Prometheus gauges of the lane."""

    def __init__(self, totals: Totals, now_s: float) -> None:
        self._totals, self._now_s = totals, now_s

    def collect(self) -> Iterator[Metric]:
        """The families."""
        totals = self._totals
        batches = GaugeMetricFamily(
            "penstock_batches", "Batches that are kept, by status.", labels=("status",)
        )
        for status in Status:
            batches.add_metric((status.value,), totals.batches.get(status.value, 0))
        lines = GaugeMetricFamily(
            "penstock_batch_lines", "Lines of batches that are not over.", labels=("state",)
        )
        for state, count in totals.lines.items():
            lines.add_metric((state,), count)
        oldest_s = 0.0 if totals.oldest_s is None else max(0.0, self._now_s - totals.oldest_s)
        oldest = GaugeMetricFamily(
            "penstock_batch_oldest_seconds", "Age of the oldest batch that is not over."
        )
        oldest.add_metric((), oldest_s)
        stored = GaugeMetricFamily(
            "penstock_batch_stored_bytes", "Files of all tenants together, bytes."
        )
        stored.add_metric((), totals.stored_bytes)
        yield from (batches, lines, oldest, stored)


def _shown(record: BatchRecord) -> Json:
    return {"tenant": record.owner.tenant, "key": record.owner.key, **record.as_json()}
