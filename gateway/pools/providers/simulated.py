"""Simulated pools: replicas that are processes of the vLLM simulator."""

from __future__ import annotations

import sys
from typing import Final

from gateway.config.schema.pools import Ready, Restart, SimulatedPool, Stop
from gateway.pools.providers.replica import LaunchTemplate, ReplicaPlan

_READY: Final = Ready(timeout_s=60.0, interval_s=0.1)
_STOP: Final = Stop(grace_s=5.0)
_RESTART: Final = Restart(initial_backoff_s=0.5, max_backoff_s=10.0, stable_after_s=30.0)


def simulated_plan(config: SimulatedPool) -> ReplicaPlan:
    """How the replicas of a `simulated` pool are run."""
    options: dict[str, object] = {
        "host": "{host}",
        "port": "{port}",
        "model": config.model,
        "profile": config.engine_profile,
        "num-blocks": config.num_blocks,
        "block-size": config.block_size,
        "max-num-seqs": config.max_num_seqs,
        "max-num-batched-tokens": config.max_num_batched_tokens,
        "max-model-len": config.max_model_len,
        "max-loras": config.max_loras,
        "time-scale": config.time_scale,
        "seed": "{seed}",
    }
    if config.kv_events.enabled:
        options["kv-events-endpoint"] = "tcp://*:{kv_events_port}"
        options["kv-events-replay-endpoint"] = "tcp://*:{kv_replay_port}"
    arguments = [f"--{key}={value}" for key, value in options.items() if value is not None]
    arguments += [f"--lora={adapter}" for adapter in config.adapters]
    command = (sys.executable, "-m", "loadtests.sim", *arguments)
    launch = LaunchTemplate(command, first_seed=config.seed)
    return ReplicaPlan(launch, _READY, _STOP, _RESTART)
