"""From a pool's configuration to its provider."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from gateway.config.schema.pools import ProcessPool, SimulatedPool, StaticPool
from gateway.pools.provider import OnChange, PoolConfig, Provider
from gateway.pools.providers.process import ReplicaProcesses, process_plan
from gateway.pools.providers.simulated import simulated_plan
from gateway.pools.providers.static import StaticEndpoints


def build_provider(
    config: PoolConfig, on_change: OnChange, *, log_dir: Path | None = None
) -> Provider:
    """A `MakeProvider`. ``log_dir``: folder for the logs of replicas that are our processes."""
    match config:
        case StaticPool():
            return StaticEndpoints(config, on_change=on_change)
        case ProcessPool():
            return ReplicaProcesses(config, process_plan, on_change=on_change, log_dir=log_dir)
        case SimulatedPool():
            return ReplicaProcesses(config, simulated_plan, on_change=on_change, log_dir=log_dir)
    assert_never(config)
