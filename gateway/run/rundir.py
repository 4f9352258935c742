"""The folder of a running Penstock: sockets, Envoy's files, metrics, logs of child processes."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from gateway.envoy.plan import BATCHES_SOCKET, LINES_SOCKET, WorkerSockets

_LONGEST_SOCKET_PATH: Final = 100
"""Unix socket paths end at 107 bytes; the file names of ours are below 30."""
_LEFT_BEHIND: Final = (
    "control.sock",
    "envoy-admin.sock",
    "peer-*.sock",
    "accounts-*.sock",
    "decisions-*.sock",
    "picker-*.sock",
    "access-log-*.grpc",
    "batches.sock",
    "lines.sock",
    "batch-lines.key",
    "batches.json",
    "eds.pool.*.json",
)
"""Files of an earlier run that this one does not write anew."""


class RunDirError(ValueError):
    """The folder cannot be used; the message names the reason and a remedy."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths in the run folder; only this user may enter it."""

    path: Path
    temporary: bool
    lock: TextIO | None = field(default=None, compare=False, repr=False)
    """Open and locked while the supervisor that made the folder lives; workers have none."""

    @classmethod
    def create(cls, wanted: Path | None) -> RunDir:
        """The configured folder, made if missing, or a new temporary one. Raises RunDirError."""
        if wanted is None:
            made = Path(tempfile.mkdtemp(prefix="penstock-"))
            return cls(made, temporary=True, lock=_locked(made)).prepared()
        if len(str(wanted)) + 30 > _LONGEST_SOCKET_PATH:
            raise RunDirError(
                f"run_dir {wanted} is too long for unix sockets: at most"
                f" {_LONGEST_SOCKET_PATH - 30} characters"
            )
        try:
            wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted.chmod(0o700)
        except OSError as error:
            raise RunDirError(f"run_dir {wanted}: {error.strerror}") from error
        return cls(wanted, temporary=False, lock=_locked(wanted)).prepared()

    def prepared(self) -> RunDir:
        """Make its folders, remove what an earlier run has left, and return itself."""
        for pattern in _LEFT_BEHIND:
            for file in self.path.glob(pattern):
                file.unlink()
        shutil.rmtree(self.metrics, ignore_errors=True)
        self.metrics.mkdir()
        self.logs.mkdir(exist_ok=True)
        return self

    def remove(self) -> None:
        """Delete it when it was made for this run; else leave it to the next run."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        if self.lock is not None:
            self.lock.close()

    @property
    def control_socket(self) -> Path:
        """Where picker workers attach to the supervisor."""
        return self.path / "control.sock"

    def worker_environment(self) -> dict[str, str]:
        """Environment of a picker worker: its counters are shared through files here."""
        return {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self.metrics)}

    def worker_sockets(self, worker: int) -> WorkerSockets:
        """Where a picker worker serves Envoy."""
        return WorkerSockets(
            decisions=self.path / f"picker-{worker}.sock",
            access_logs=self.path / f"access-log-{worker}.grpc",
        )

    def learned(self, index: int) -> Path:
        """What a picker worker has learned; it is left to the next run."""
        return self.path / f"learned-{index}.json"

    def peer_socket(self, worker: int) -> Path:
        """Where a picker worker receives from the other ones."""
        return self.path / f"peer-{worker}.sock"

    def accounts_socket(self, worker: int) -> Path:
        """Where a picker worker answers the supervisor's questions about limits and usage."""
        return self.path / f"accounts-{worker}.sock"

    def decisions_socket(self, worker: int) -> Path:
        """Where a picker worker answers the supervisor's questions about its decisions."""
        return self.path / f"decisions-{worker}.sock"

    @property
    def batches_socket(self) -> Path:
        """Where the batch lane serves files and batches."""
        return self.path / BATCHES_SOCKET

    @property
    def lines_socket(self) -> Path:
        """Where Envoy takes the lines of batches."""
        return self.path / LINES_SOCKET

    @property
    def batch_settings(self) -> Path:
        """What the batch lane works by."""
        return self.path / "batches.json"

    def batch_key(self) -> str:
        """By which pickers know the lines of batches; made by the first call of this run."""
        file = self.path / "batch-lines.key"
        try:
            return file.read_text("ascii")
        except FileNotFoundError:
            key = secrets.token_urlsafe(32)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
                new.write(key)
            return key

    @property
    def metrics(self) -> Path:
        """Shared counters of the picker workers (prometheus_client's multiprocess mode)."""
        return self.path / "metrics"

    @property
    def logs(self) -> Path:
        """Output of Envoy, of the picker workers and of replicas that are our processes."""
        return self.path / "logs"

    @property
    def certificate(self) -> Path:
        """Self-signed certificate and key of the ext_proc server, PEM."""
        return self.path / "ext_proc.pem"


def _locked(folder: Path) -> TextIO:
    """The folder's lock, ours until it is closed; raises RunDirError when another has it."""
    try:
        lock = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise RunDirError(f"run_dir {folder}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        lock.close()
        raise RunDirError(
            f"run_dir {folder} is used by the Penstock with pid {pid}: stop that one, or give"
            " each its own run_dir"
        ) from error
    except OSError as error:
        lock.close()
        raise RunDirError(f"run_dir {folder} cannot be locked: {error.strerror}") from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock
