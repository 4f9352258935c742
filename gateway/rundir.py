"""The folder of a running Penstock: sockets, Envoy's files, metrics, logs of child processes."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LONGEST_SOCKET_PATH: Final = 100
"""Unix socket paths end at 107 bytes; the file names of ours are below 30."""


class RunDirError(ValueError):
    """The folder cannot be used; the message says why and what would do."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths in the run folder; only this user may enter it."""

    path: Path
    temporary: bool

    @classmethod
    def create(cls, wanted: Path | None) -> RunDir:
        """The configured folder, made if missing, or a new temporary one. Raises RunDirError."""
        if wanted is None:
            return cls(Path(tempfile.mkdtemp(prefix="penstock-")), temporary=True).prepared()
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
        return cls(wanted, temporary=False).prepared()

    def prepared(self) -> RunDir:
        """Itself, with its folders made and what an earlier run counted removed."""
        shutil.rmtree(self.metrics, ignore_errors=True)
        self.metrics.mkdir()
        self.logs.mkdir(exist_ok=True)
        return self

    def remove(self) -> None:
        """Delete it, if it was made for this run."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)

    @property
    def control_socket(self) -> Path:
        return self.path / "control.sock"

    def worker_environment(self) -> dict[str, str]:
        """Environment of a picker worker: its counters are shared through files here."""
        return {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self.metrics)}

    def picker_socket(self, worker: int) -> Path:
        return self.path / f"picker-{worker}.sock"

    def peer_socket(self, worker: int) -> Path:
        return self.path / f"peer-{worker}.sock"

    @property
    def metrics(self) -> Path:
        """Shared counters of the picker workers (prometheus_client's multiprocess mode)."""
        return self.path / "metrics"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def certificate(self) -> Path:
        """Self-signed certificate and key of the ext_proc server, PEM."""
        return self.path / "ext_proc.pem"
