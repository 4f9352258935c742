"""What Envoy's configuration is rendered from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.envoy.jwt import JwtProvider
from gateway.envoy.tls import ClusterTls, ListenerTls
from picker import names

PICKER_CLUSTER: Final = "penstock_picker"
"""Name of the cluster of the picker workers."""
_ANSWER_BYTES: Final = 256 << 20
"""Longest JSON answer that is not streamed."""


@dataclass(frozen=True, slots=True)
class PoolCluster:
    """One pool as Envoy sees it: a cluster whose endpoints the picker chooses from."""

    pool: str
    tls: ClusterTls | None = None

    @property
    def name(self) -> str:
        """Name of the cluster, which the picker puts into a header."""
        return names.cluster_name(self.pool)


@dataclass(frozen=True, slots=True)
class EnvoyPlan:
    """Everything Envoy's configuration depends on."""

    run_dir: Path
    """Folder of the discovery files and of Envoy's own sockets."""
    address: str
    """IP address that clients connect to."""
    port: int
    max_body_bytes: int
    stream_idle_timeout_s: float
    decision_timeout_s: float
    fail_open: bool
    """Without a picker's answer, send requests to ``default_pool``. Else they get 503."""
    fallbacks: int
    """Further attempts after the first one could not reach its replica."""
    picker_sockets: tuple[Path, ...]
    pools: tuple[PoolCluster, ...]
    default_pool: str | None
    tls: ListenerTls | None = None
    jwt: JwtProvider | None = None

    @property
    def buffer_bytes(self) -> int:
        """Longest body that Envoy buffers. It buffers JSON answers too, and they may be longer
        than requests; the picker holds the limit for requests."""
        return max(self.max_body_bytes, _ANSWER_BYTES)

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

    @property
    def pickers_file(self) -> Path:
        """Discovery file of the picker workers' sockets (EDS)."""
        return self.run_dir / "eds.pickers.json"

    def endpoints_file(self, pool: str) -> Path:
        """Discovery file of a pool's replicas (EDS)."""
        return self.run_dir / f"eds.pool.{pool}.json"
