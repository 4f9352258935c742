"""A whole Penstock, started as a user would: ``penstock up -c FILE`` on free ports."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

import aiohttp
import psutil
import yaml

from tests.real.ports import free_port
from tests.real.spawn import spawn, tail

Json: TypeAlias = dict[str, object]

_READY_S: Final = 60.0
_STOP_S: Final = 45.0
_POLL_S: Final = 0.02


async def eventually(
    check: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 15.0
) -> float:
    """Ask again and again until it is so; the seconds that took. AssertionError when it is not
    so within the time."""
    started_s = time.monotonic()
    while not await check():
        if time.monotonic() - started_s > timeout_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - started_s


class Gateway:
    """Runs for the time of an ``async with``; its log is shown when something goes wrong with it.

    ``config`` is the user's file without what tests should not meddle with: ports, run_dir and
    logs. ``run_dir=None`` leaves the folder to Penstock.
    """

    def __init__(self, folder: Path, config: Mapping[str, object], *, run_dir: bool = True) -> None:
        self.port, self.admin_port = free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "penstock.yaml"
        self.log_file = folder / "requests.jsonl"
        # Not in the test's folder: unix sockets have short paths.
        self.temp_dir = Path(tempfile.mkdtemp(prefix="pst-"))
        self.run_dir = self.temp_dir / "run" if run_dir else None
        self._output = folder / "up.log"
        self._output.unlink(missing_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] = []
        self.config: Json = {}
        self.write(config)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        """The admin API."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self._process is not None
        return self._process.pid

    def write(self, config: Mapping[str, object]) -> None:
        """Replace the configuration file; a running gateway follows it."""
        self.config = dict(config)
        listen = config.get("listen", {})
        assert isinstance(listen, dict)
        whole = {
            "admin": {"port": self.admin_port},
            "envoy": {"concurrency": 1},
            "telemetry": {"request_log": {"file": str(self.log_file)}, "log_level": "info"},
            **config,
            "listen": {"port": self.port, **listen},
        }
        if self.run_dir is not None:
            whole["run_dir"] = str(self.run_dir)
        self.write_text(yaml.safe_dump(whole))

    def write_text(self, text: str) -> None:
        """Replace the configuration file by this text, good or bad."""
        partial = self.file.with_suffix(".new")
        partial.write_text(text)
        partial.replace(self.file)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(f"--- {self.file.parent.name}: penstock's last lines\n{self.logs()}")
        await self.stop()

    # -- life

    async def start(self) -> None:
        """Returns when it says that it is ready and its first replica takes requests."""
        self.launch()
        try:
            await self._ready()
        except BaseException:
            print(self.logs())
            await self.stop()
            raise

    def launch(self) -> None:
        """Start it and do not wait."""
        command = [sys.executable, "-m", "gateway.cli", "up", "-c", str(self.file)]
        self._process = spawn(command, self._output, TMPDIR=str(self.temp_dir))

    async def exited(self, timeout_s: float = _STOP_S) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        try:
            return await asyncio.to_thread(self._process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout_s:g} s:\n{self.logs()}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal; ``survivors`` then tells what is left of its family."""
        self._family = self.family()
        os.kill(self.pid, number)

    async def stop(self) -> None:
        """SIGTERM; AssertionError when it does not end well, or leaves a process behind."""
        process = self._process
        try:
            if process is None:
                return
            if process.poll() is None:
                self.signal(signal.SIGTERM)
                try:
                    code = await self.exited()
                except AssertionError:
                    process.kill()
                    process.wait()
                    raise
                assert code == 0, f"exit code {code}:\n{self.logs()}"
            await eventually(self.alone, f"all of {self._family} ended", timeout_s=5)
        finally:
            for left in self.survivors():
                left.kill()
            shutil.rmtree(self.temp_dir, ignore_errors=True)

    def family(self) -> list[psutil.Process]:
        """The supervisor and everything it has started."""
        try:
            supervisor = psutil.Process(self.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def survivors(self) -> list[psutil.Process]:
        """Of the family at the last signal: those who still run."""
        return [one for one in self._family if one.is_running() and _alive(one)]

    def pids(self, word: str) -> list[int]:
        """Processes it has started whose command line holds the word: ``envoy``,
        ``gateway.run.worker``, ``loadtests.sim``."""
        found = []
        for one in self.family()[1:]:
            try:
                line = one.cmdline()
            except psutil.NoSuchProcess:
                continue
            if any(word == part or part.endswith(f"/{word}") for part in line):
                found.append(one.pid)
        return found

    # -- what it says

    async def status(self) -> Json:
        """GET /api/status."""
        async with aiohttp.ClientSession() as session:
            answer = await session.get(f"{self.admin}/api/status")
            found: Json = await answer.json()
            return found

    async def in_flight(self) -> int:
        """Requests under way on all endpoints, as the status tells."""
        found = await self.endpoints()
        return sum(int(str(endpoint["in_flight_requests"])) for endpoint in found.values())

    async def endpoints(self) -> dict[str, Json]:
        """What the status tells of each endpoint, by address."""
        pools = (await self.status())["pools"]
        assert isinstance(pools, list)
        return {endpoint["address"]: endpoint for pool in pools for endpoint in pool["endpoints"]}

    async def healthy(self, *addresses: str) -> None:
        """Returns when these endpoints, and no others, get requests."""

        async def so() -> bool:
            told = await self.endpoints()
            return {a for a, one in told.items() if one["healthy"]} == set(addresses)

        await eventually(so, f"{addresses} get requests")

    async def metrics(self) -> str:
        """GET /metrics."""
        async with aiohttp.ClientSession() as session:
            answer = await session.get(f"{self.admin}/metrics")
            return await answer.text()

    def request_log(self) -> list[Json]:
        """The lines of the request log so far."""
        if not self.log_file.exists():
            return []
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def logs(self) -> str:
        """The last lines of everything it writes, for people."""
        parts = [f"-- up\n{tail(self._output)}"]
        for folder in [self.run_dir, *self.temp_dir.glob("penstock-*")]:
            files = sorted(folder.glob("logs/*.log")) if folder is not None else []
            parts += [f"-- {file.name}\n{tail(file, 25)}" for file in files]
        return "\n".join(parts)

    async def _ready(self) -> None:
        deadline_s = time.monotonic() + _READY_S
        assert self._process is not None
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline_s:
                assert self._process.poll() is None, "penstock up has ended"
                if "Ready in" in self.output() and await self._takes_requests(session):
                    return
                await asyncio.sleep(_POLL_S)
        raise AssertionError(f"not ready within {_READY_S:g} s")

    async def _takes_requests(self, session: aiohttp.ClientSession) -> bool:
        try:
            answer = await session.get(f"{self.admin}/readyz")
        except aiohttp.ClientError:
            return False
        return answer.status == 200

    async def alone(self) -> bool:
        """Nothing of the family at the last signal runs any more."""
        return not self.survivors()


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
