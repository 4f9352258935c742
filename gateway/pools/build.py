"""From a pool's configuration to the pool."""

from __future__ import annotations

from pathlib import Path

from gateway.config.pools import ProcessPool, StaticPool
from gateway.pools.process import ReplicaProcesses, process_plan
from gateway.pools.simulated import simulated_plan
from gateway.pools.static import StaticEndpoints
from gateway.pools.types import OnChange, Pool, PoolConfig


def build_pool(config: PoolConfig, *, on_change: OnChange, log_dir: Path | None = None) -> Pool:
    """The pool that a configuration describes, not started yet.

    ``log_dir``: folder for the logs of replicas that are our processes.
    """
    if isinstance(config, StaticPool):
        return StaticEndpoints(config, on_change=on_change)
    plan_of = process_plan if isinstance(config, ProcessPool) else simulated_plan
    return ReplicaProcesses(config, plan_of, on_change=on_change, log_dir=log_dir)
