"""A redis-server for one benchmark: on a unix socket, without persistence."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final, Self, cast

import redis

from loadtests.bench.stand import Process

_START_S: Final = 20.0
_ANSWER_S: Final = 5.0


def installed() -> str | None:
    """Path of redis-server or valkey-server; None: neither is installed."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer:
    """``with RedisServer(program) as server``."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._closing = contextlib.ExitStack()
        self._client = redis.Redis()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def url(self) -> str:
        """The value for `limits.store.redis.url`."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def script_calls(self) -> int:
        """Number of script calls so far."""
        stats = cast("dict[str, dict[str, int]]", self._client.info("commandstats"))
        commands = ("cmdstat_eval", "cmdstat_evalsha")
        return sum(stats[name]["calls"] for name in commands if name in stats)

    def _start(self) -> None:
        folder = Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="pst-redis-")))
        self._socket = folder / "redis.sock"
        log = str(folder / "redis.log")  # `Process.problem` reads this file
        options = ["--port", "0", "--unixsocket", str(self._socket), "--logfile", log]
        command = [self._program, *options, "--save", "", "--appendonly", "no"]
        self._process = Process("redis", command, folder)
        self._closing.callback(self._process.stop)
        self._client = self._closing.enter_context(
            redis.Redis.from_url(self.url, socket_timeout=_ANSWER_S)
        )
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                self._client.ping()
            except redis.ConnectionError:
                if not self._process.running or time.monotonic() > deadline_s:
                    raise self._process.problem() from None
                time.sleep(0.02)
            else:
                return
