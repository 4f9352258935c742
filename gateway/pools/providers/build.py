"""From a pool's configuration to the pool."""

from __future__ import annotations

from pathlib import Path

from gateway.config.schema.pools import ProcessPool, StaticPool
from gateway.pools.provider import OnChange, Pool, PoolConfig
from gateway.pools.providers.process import ReplicaProcesses, process_plan
from gateway.pools.providers.simulated import simulated_plan
from gateway.pools.providers.static import StaticEndpoints


def build_pool(config: PoolConfig, *, on_change: OnChange, log_dir: Path | None = None) -> Pool:
    """The pool that a configuration describes, not started yet.

    ``log_dir``: folder for the logs of replicas that are our processes.
    """
    if isinstance(config, StaticPool):
        return StaticEndpoints(config, on_change=on_change)
    plan_of = process_plan if isinstance(config, ProcessPool) else simulated_plan
    return ReplicaProcesses(config, plan_of, on_change=on_change, log_dir=log_dir)
