"""The seam to where files and batches are recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from gateway.batches.records import BatchRecord, FileRecord


class QuotaExceeded(Exception):  # noqa: N818 - a state of the tenant, not a fault of ours
    """The tenant has too much already."""


class Page(Struct, frozen=True):
    """A part of a list."""

    after: str | None = None
    """Id of the last item of the page before, None for the first page."""
    limit: int = 20
    newest_first: bool = True


class Totals(Struct, frozen=True):
    """Of all tenants, for metrics."""

    batches: dict[str, int]
    """By status."""
    lines: dict[str, int]
    """Of batches that are not over, by state: pending, completed, failed."""
    oldest_s: float | None
    """When the oldest batch that is not over was made, seconds since the epoch."""
    stored_bytes: int


class BatchStore(Protocol):
    """Records of files and batches. What is written is on disk when a method returns, and no method
    blocks the event loop. Several processes may use one store.

    SQLite is the one there is (`sqlite_store`). One in Redis, for several machines with a shared
    folder, is one more class, with a lease in the place of `lead`.
    """

    async def add_file(self, record: FileRecord, most_bytes: int) -> None:
        """Raises QuotaExceeded when the tenant's files together would be larger than that."""
        ...

    async def file(self, id_: str, tenant: str | None) -> FileRecord | None:
        """A file of the tenant, or of any tenant (None); None: there is none."""
        ...

    async def files(
        self, tenant: str, purpose: str | None, page: Page
    ) -> tuple[list[FileRecord], bool]:
        """Files of a tenant, and whether there are more. Raises LookupError when the page's
        ``after`` is not there."""
        ...

    async def delete_file(self, id_: str, tenant: str) -> bool:
        """False: it was not there."""
        ...

    async def stored_bytes(self, tenant: str) -> int:
        """Size of the tenant's files together."""
        ...

    async def outdated_files(self, now_s: float, limit: int) -> list[FileRecord]:
        """Files past their time."""
        ...

    async def add_batch(self, record: BatchRecord, most: int) -> None:
        """Raises QuotaExceeded when the tenant has so many that are not over."""
        ...

    async def batch(self, id_: str, tenant: str | None) -> BatchRecord | None:
        """As `file`."""
        ...

    async def batches(self, tenant: str | None, page: Page) -> tuple[list[BatchRecord], bool]:
        """As `files`."""
        ...

    async def unfinished(self) -> list[BatchRecord]:
        """Batches that are not over, the oldest first."""
        ...

    async def version(self) -> int:
        """Another number than the last one when another process has written."""
        ...

    async def change(
        self,
        id_: str,
        change: Callable[[BatchRecord], BatchRecord],
        files: tuple[FileRecord, ...] = (),
    ) -> BatchRecord | None:
        """Change a batch, and record files of it, in one step; the batch as it is then, None when
        there is none. ``change`` may raise: then nothing has changed."""
        ...

    async def forget_batches(self, before_s: float) -> int:
        """Delete batches that were over and made before a time; how many."""
        ...

    async def known(self) -> set[str]:
        """Ids of all files, of batches that are not over, and of their outputs."""
        ...

    async def totals(self) -> Totals:
        """Sums."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...
