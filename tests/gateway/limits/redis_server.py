"""A private redis-server: no persistence, a unix socket in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import redis

_START_S = 20.0


class NoRedisError(RuntimeError):
    """redis-server is missing and cannot be installed."""


def program() -> str:
    """Path of redis-server or valkey-server; installs Debian's when root and missing."""
    for attempt in range(2):
        for name in ("redis-server", "valkey-server"):
            if found := shutil.which(name):
                return found
        if attempt or os.geteuid() != 0 or not shutil.which("apt-get"):
            break
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "redis-server"]):
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    raise NoRedisError("these tests need redis-server: apt-get install redis-server")


class RedisServer:
    """Started, killed, frozen and started again by its own pid."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it empty; return when it answers."""
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program(), "--port", "0", "--unixsocket", str(self.socket)),
                    *("--save", "", "--appendonly", "no", "--dir", str(self._folder)),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
            )
        end_s = time.monotonic() + _START_S
        while True:
            try:
                self.ask("PING")
            except redis.ConnectionError:
                if time.monotonic() > end_s or self._process.poll() is not None:
                    text = (self._folder / "redis.log").read_text()
                    raise RuntimeError(f"redis-server does not start:\n{text}") from None
                time.sleep(0.01)
            else:
                return

    def ask(self, *command: str | int) -> object:
        """One command on a connection of its own."""
        with redis.Redis.from_url(self.url, socket_timeout=20) as client:
            answer: object = client.execute_command(*command)
            return answer

    def signal(self, number: signal.Signals) -> None:
        """For example SIGSTOP and SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; nothing of its data is left."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)
