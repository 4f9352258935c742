"""What Envoy's configuration is rendered from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.config.config import Config
from gateway.config.schema.identity import Jwt
from gateway.config.schema.secret import Secret
from picker import names
from picker.flight.quiet import SIGN_S

PICKER_CLUSTER: Final = "penstock_picker"
"""Name of the cluster of the picker workers: where requests are decided."""
ACCESS_LOG_CLUSTER: Final = "penstock_access_log"
"""Name of the cluster of the same workers' other sockets, for access logs."""
BATCHES_SOCKET: Final = "batches.sock"
LINES_SOCKET: Final = "lines.sock"
_ANSWER_BYTES: Final = 256 << 20
"""Longest JSON answer that is not streamed."""


@dataclass(frozen=True, slots=True)
class WorkerSockets:
    """The unix sockets of a picker worker."""

    decisions: Path
    access_logs: Path


@dataclass(frozen=True, slots=True)
class EnvoyPlan:
    """Everything Envoy's configuration depends on."""

    run_dir: Path
    """Folder of the discovery files and of Envoy's own sockets."""
    config: Config
    workers: tuple[WorkerSockets, ...]
    """Of the picker workers that requests can go to."""
    secret: Callable[[Secret], str] = Secret.reveal
    """What stands in the place of each secret."""
    sign_s: float = SIGN_S
    """Envoy shows so often that a request is under way, seconds."""

    @property
    def default_pool(self) -> str | None:
        """The pool for requests without a picker's answer, where these are not refused."""
        pools = self.config.pools
        return next((pool.name for pool in (*(p for p in pools if p.default), *pools)), None)

    @property
    def has_own_key(self) -> bool:
        """The replicas of the default pool ask for a key, which the picker sends."""
        pools = (pool for pool in self.config.pools if pool.name == self.default_pool)
        return any(name in names.CREDENTIALS for pool in pools for name, _ in pool.upstream_headers)

    @property
    def fails_open(self) -> bool:
        """Without a picker's answer, send requests to the default pool. Else they get 503."""
        return self.config.picker.failure_mode == "open"

    @property
    def jwt(self) -> Jwt | None:
        """The tokens that Envoy verifies. Their keys are public: they are shown as they are."""
        return self.config.identity.jwt if self.config.identity is not None else None

    @property
    def buffer_bytes(self) -> int:
        """Longest body that Envoy buffers. It buffers JSON answers too, and they may be longer
        than requests; the picker holds the limit for requests."""
        return max(self.config.listen.max_body_bytes, _ANSWER_BYTES)

    @property
    def batches_socket(self) -> Path:
        """Where the batch lane serves files and batches."""
        return self.run_dir / BATCHES_SOCKET

    @property
    def lines_socket(self) -> Path:
        """Where Envoy takes the lines of batches."""
        return self.run_dir / LINES_SOCKET

    @property
    def admin_socket(self) -> Path:
        """Unix socket of Envoy's admin interface."""
        return self.run_dir / "envoy-admin.sock"

    @property
    def listeners_file(self) -> Path:
        """Discovery file of the listener (LDS)."""
        return self.run_dir / "lds.json"

    @property
    def clusters_file(self) -> Path:
        """Discovery file of the clusters (CDS)."""
        return self.run_dir / "cds.json"

    def workers_file(self, cluster: str) -> Path:
        """Discovery file of the picker workers' sockets in one of their clusters (EDS)."""
        return self.run_dir / f"eds.{cluster}.json"

    def endpoints_file(self, pool: str) -> Path:
        """Discovery file of a pool's replicas (EDS)."""
        return self.run_dir / f"eds.pool.{pool}.json"
