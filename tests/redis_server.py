"""A private redis-server: no persistence, a unix socket in a folder of its own."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import redis

_START_S = 60.0
_PORTS = range(10_000, 32_000)
"""Below those that outgoing connections get, so that none of these is in a server's way."""
_ATTEMPTS = 20
_INSTALL_S = 240.0


class NoRedisError(RuntimeError):
    """redis-server is missing and cannot be installed."""


def program() -> str:
    """Path of redis-server or valkey-server; installs Debian's when root and missing.

    Raises NoRedisError.
    """
    if found := _installed():
        return found
    why = "only root can install it"
    if os.geteuid() == 0:
        # Test workers run side by side, and apt-get refuses to.
        with (Path(tempfile.gettempdir()) / "penstock-tests-apt.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            why = "" if _installed() else _install()
        if found := _installed():
            return found
    raise NoRedisError(f"these tests need redis-server (apt-get install redis-server): {why}")


def _installed() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def _install() -> str:
    """Why it failed, in apt-get's words; empty if it did not."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-y", "redis-server"]
    said = ""
    for command in (install, ["apt-get", "update"], install):
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=_INSTALL_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if command is install and done.returncode == 0:
            return ""
        said = done.stderr.strip() or said
    return said


class RedisServer:
    """Started, killed, frozen and started again by its own pid."""

    def __init__(
        self,
        folder: Path,
        *,
        cluster: bool = False,
        options: Sequence[str] = (),
        password: str | None = None,
    ) -> None:
        """``cluster``: a cluster's node, which listens on ``port`` of 127.0.0.1, too. ``options``
        are added to the command line; ``password`` is the one that they set, if any."""
        self._folder = folder
        self._cluster = cluster
        self._options = options
        self._password = password
        self.port = 0
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it empty; return when it answers."""
        for _ in range(_ATTEMPTS):
            said = self._started()
            if said is None:
                return
            if not self._cluster or "Address already in use" not in said:
                break
        raise RuntimeError(f"redis-server does not start:\n{said}")

    def _started(self) -> str | None:
        """What it said if it does not answer."""
        options = list(self._options)
        if self._cluster:
            self.port, bus = random.SystemRandom().sample(_PORTS, 2)
            options += [
                "--bind",
                "127.0.0.1",
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                f"{bus}",
            ]
        with (self._folder / "redis.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(program(), "--port", str(self.port), "--unixsocket", str(self.socket)),
                    *("--save", "", "--appendonly", "no", "--dir", str(self._folder)),
                    *options,
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
                    self.kill()
                    return (self._folder / "redis.log").read_text()
                time.sleep(0.01)
            else:
                return None

    def ask(self, *command: str | int) -> object:
        """One command on a connection of its own."""
        with redis.Redis.from_url(self.url, socket_timeout=20, password=self._password) as client:
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
