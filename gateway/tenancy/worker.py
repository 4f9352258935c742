"""The gate and limiter of a picker worker, with or without tenants in the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from gateway.batches.records import Owner
from gateway.config.config import Config
from gateway.tenancy.batch_lines import BatchLines
from gateway.tenancy.picker import PickerTenancy
from picker import names
from picker.request.caller import ANYBODY, Caller
from picker.request.grant import Grant
from picker.request.head import RequestHead
from picker.request.report import Report
from picker.seams.gate import Gate, OpenGate
from picker.seams.limiter import Limiter, Unlimited
from policies.limits.plan import Subject
from policies.limits.prices import Usage
from policies.limits.verdict import Denied


class WorkerTenancy:
    """`picker.seams.gate.Gate` and `picker.seams.limiter.Limiter` as long as the worker lives.

    While the configuration has no tenants, everybody is the anonymous tenant without limits. When
    it loses its tenants, requests that still run are settled where they were reserved.
    """

    def __init__(
        self,
        make: Callable[[Config], PickerTenancy],
        socket: Path,
        batch_lines: BatchLines = BatchLines(""),  # noqa: B008 - frozen
    ) -> None:
        """``make`` is called when the configuration gains tenants. ``socket``: for the supervisor's
        questions about limits and usage."""
        self._batch_lines = batch_lines
        self._make = make
        self._socket = socket
        self._gate: Gate = OpenGate()
        self._limiter: Limiter = Unlimited()
        self._current: PickerTenancy | None = None
        self._ending = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()

    def identify(self, head: RequestHead) -> Caller:
        """See `Gate`."""
        if names.BATCH_LINE in head.headers:
            owner = self._batch_lines.owner_of(head)
            if owner is not None:
                return self._of_batch(owner)
        return self._gate.identify(head)

    def _of_batch(self, owner: Owner) -> Caller:
        if self._current is None:
            return structs.replace(ANYBODY, idle_only=True)
        found = self._current.gate.on_behalf(owner.tenant, owner.key, owner.user)
        return structs.replace(found, idle_only=True)

    async def reserve(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        subject: Subject,
        expected: Usage,
        *,
        guessed: bool,
    ) -> Grant | Denied | None:
        """See `Limiter`."""
        return await self._limiter.reserve(id, caller, subject, expected, guessed=guessed)

    async def spent(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        least: Usage,
    ) -> Denied | None:
        """See `Limiter`."""
        return await self._limiter.spent(id, caller, least)

    def settle_orphan(self, report: Report) -> None:
        """See `Limiter`."""
        self._limiter.settle_orphan(report)

    async def configure(self, config: Config) -> None:
        """Put a configuration into force. Raises OSError or sqlite3.Error when it gains tenants and
        the state's file cannot be opened."""
        current = self._current
        if current is not None and config.has_tenants:
            current.configure(config)
        elif current is not None:
            self._current, self._gate, self._limiter = None, OpenGate(), Unlimited()
            await current.retire()
            self._retiring.add(task := asyncio.create_task(self._close_later(current)))
            task.add_done_callback(self._retiring.discard)
        elif config.has_tenants:
            made = self._make(config)
            await made.start(self._socket)
            self._current, self._gate, self._limiter = made, made.gate, made.limiter

    async def refresh(self) -> None:
        """Something was written to the registry: read it now."""
        if self._current is not None:
            await self._current.refresh()

    async def close(self) -> None:
        """Wait until everything that has ended is settled, and let go of everything."""
        self._ending.set()
        if self._current is not None:
            await self._current.retire()
            await self._current.close()
        await asyncio.gather(*self._retiring)

    @property
    def current(self) -> PickerTenancy | None:
        """None: the configuration has no tenants."""
        return self._current

    async def _close_later(self, tenancy: PickerTenancy) -> None:
        """Close it when its requests have ended, or when the worker ends."""
        waits = {
            asyncio.create_task(tenancy.limiter.drained()),
            asyncio.create_task(self._ending.wait()),
        }
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        await tenancy.close()
