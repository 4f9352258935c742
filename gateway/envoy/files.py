"""Envoy's discovery files. Each is replaced in one step, and only when it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import orjson

from gateway.envoy import render
from gateway.envoy.clusters import pool_members, worker_members
from gateway.envoy.message import Json
from gateway.envoy.plan import EnvoyPlan

_MODE: Final = 0o600
"""Listener and cluster files may hold keys."""


class DiscoveryFiles:
    """Writes the files that Envoy watches. Envoy applies a change without dropping a connection."""

    def __init__(self) -> None:
        self._written: dict[Path, bytes] = {}

    def write(self, plan: EnvoyPlan, endpoints: Mapping[str, Iterable[str]]) -> bool:
        """Bring all files up to date; returns whether one changed. Endpoints come before the
        clusters that need them, clusters before the listener that needs them."""
        changed = False
        for pool in plan.config.pools:
            members = endpoints.get(pool.name, ())
            file = plan.endpoints_file(pool.name)
            changed |= self._replace(file, {"resources": [pool_members(pool.name, members)]})
        for name, sockets in worker_members(plan).items():
            changed |= self._replace(plan.workers_file(name), {"resources": [sockets]})
        changed |= self._replace(plan.clusters_file, render.clusters(plan))
        changed |= self._replace(plan.listeners_file, render.listeners(plan))
        return changed

    def _replace(self, path: Path, document: Json) -> bool:
        content = orjson.dumps(document)
        if self._written.get(path) == content:
            return False
        partial = path.with_suffix(".new")
        partial.touch(_MODE)
        partial.write_bytes(content)
        partial.replace(path)
        self._written[path] = content
        return True
