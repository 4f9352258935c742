"""The process of the batch lane: it is started when the first request for files or batches comes,
or when batches of an earlier run are not over. Until then it costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import replace
from typing import Final

from gateway.admin.batches import BatchRecords
from gateway.admin.status import BatchLaneStatus
from gateway.batches.folder import Folder
from gateway.batches.settings import LaneSettings
from gateway.children.child import Backoff, Child, ChildSpec, ChildState, Launch
from gateway.config.config import Config
from gateway.run import derive
from gateway.run.rundir import RunDir

_GRACE_S: Final = 5.0
_BACKLOG: Final = 512


class BatchLane:
    """Listens for the process, so that nobody is refused while it starts, or starts again."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self.records = BatchRecords()
        """For the admin API."""
        self._settings: LaneSettings | None = None
        """None: there is no lane."""
        self._listener: socket.socket | None = None
        self.child: Child | None = None

    def configure(self, config: Config) -> None:
        """Bring a configuration into force. Raises OSError."""
        wanted = None
        if config.handed_over:
            wanted = derive.lane_settings(config, self._run.lines_socket, self._run.batch_key())
        before, self._settings = self._settings, wanted
        self.records.configure(None if wanted is None else wanted.folder)
        if wanted is None:
            self._close_later()
            return
        if wanted == before:
            return
        file = self._run.batch_settings
        partial = file.with_suffix(".new")
        partial.touch(0o600)
        partial.write_bytes(wanted.to_bytes())
        partial.replace(file)
        if self._listener is None:
            self._listen()
        if before is not None and before.folder != wanted.folder:
            self._close_child_later()
        elif self.child is not None and self.child.state is ChildState.READY and self.child.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child.pid, signal.SIGHUP)
        if self.child is None and Folder(wanted.folder).database.exists():
            self._wake()

    def status(self) -> BatchLaneStatus:
        """For the admin API."""
        child = self.child
        if child is None:
            return BatchLaneStatus("off" if self._settings is None else "idle")
        ending = "" if child.last_exit is None else str(child.last_exit)
        return BatchLaneStatus(child.state.value, child.pid, child.restarts, ending)

    async def stop(self) -> None:
        """Send nothing more, and end what is under way."""
        self._unlisten()
        if self.child is not None:
            await self.child.stop()

    # -- inside

    def _listen(self) -> None:
        path = self._run.batches_socket
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._wake)

    def _unlisten(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _wake(self) -> None:
        """Somebody connects, or there is work."""
        assert self._listener is not None
        asyncio.get_running_loop().remove_reader(self._listener)
        if self.child is not None:
            return
        settings, listener = self._settings, self._listener
        assert settings is not None
        command = (
            *(sys.executable, "-m", "gateway.batches.process"),
            *("--settings", str(self._run.batch_settings)),
            *("--listener", str(listener.fileno())),
        )
        self.child = Child(
            ChildSpec(
                name="batches",
                launch=lambda: Launch(command, pass_fds=(listener.fileno(),)),
                grace_s=settings.drain_s + _GRACE_S,
                backoff=Backoff(initial_s=0.1, max_s=10.0, stable_after_s=10.0),
                log_file=self._run.logs / "batches.log",
            )
        )
        self.child.start()

    def _close_later(self) -> None:
        self._unlisten()
        self._close_child_later()

    def _close_child_later(self) -> None:
        """It ends, and another one is started when it is needed."""
        child, self.child = self.child, None
        if child is not None:
            child.spec = replace(child.spec, grace_s=_GRACE_S)
            self._ending = asyncio.create_task(self._closed(child))

    async def _closed(self, child: Child) -> None:
        await child.stop()
        settings = self._settings
        if settings is not None and self._listener is not None and self.child is None:
            if Folder(settings.folder).database.exists():
                self._wake()
            else:
                asyncio.get_running_loop().add_reader(self._listener, self._wake)
