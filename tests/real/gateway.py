"""A whole Penstock, started as a user would: ``penstock up -c FILE`` on free ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import yaml

_READY_S = 60.0
_STOP_S = 45.0


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Gateway:
    """Runs for the time of an ``async with``; its log is shown when it does not start."""

    def __init__(self, folder: Path, config: dict[str, object]) -> None:
        self.port, self.admin_port = free_port(), free_port()
        self.file = folder / "penstock.yaml"
        self.log_file = folder / "requests.jsonl"
        self.run_dir = Path("/tmp") / f"pst-{os.getpid()}-{self.port}"
        self._output = folder / "up.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.write(config)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def write(self, config: dict[str, object]) -> None:
        """Replace the configuration file; a running gateway follows it."""
        whole = {
            "listen": {"port": self.port},
            "admin": {"port": self.admin_port},
            "envoy": {"concurrency": 1},
            "telemetry": {"request_log": {"file": str(self.log_file)}},
            "run_dir": str(self.run_dir),
            **config,
        }
        partial = self.file.with_suffix(".new")
        partial.write_text(yaml.safe_dump(whole))
        partial.replace(self.file)

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "gateway.cli", "up", "-c", str(self.file)]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - starts at once
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        try:
            await self._ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def status(self) -> dict[str, object]:
        """GET /api/status."""
        async with aiohttp.ClientSession() as session:
            answer = await session.get(f"{self.admin}/api/status")
            found: dict[str, object] = await answer.json()
            return found

    async def metrics(self) -> str:
        """GET /metrics."""
        async with aiohttp.ClientSession() as session:
            answer = await session.get(f"{self.admin}/metrics")
            return await answer.text()

    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text(errors="replace")

    async def _ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _READY_S
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise AssertionError(f"penstock up ended:\n{self.output()}")
                try:
                    answer = await session.get(f"{self.admin}/readyz")
                    if answer.status == 200:
                        return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
        raise AssertionError(f"not ready within {_READY_S:g} s:\n{self.output()}")

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"did not stop within {_STOP_S:g} s:\n{self.output()}") from None
