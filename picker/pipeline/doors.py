"""Steps: what is not let in at all.

The engines' own admin paths are closed: passing them through would let any client unload an adapter
or put a replica to sleep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection

CLOSED_PATHS: Final = frozenset(
    {
        # vLLM
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/sleep",
        "/wake_up",
        "/is_sleeping",
        "/pause",
        "/resume",
        "/reset_prefix_cache",
        "/reset_mm_cache",
        "/reset_encoder_cache",
        "/collective_rpc",
        "/server_info",
        "/start_profile",
        "/stop_profile",
        "/scale_elastic_ep",
        "/abort_requests",
        "/metrics",
        "/load",
        "/is_paused",
        "/is_scaling_elastic_ep",
        "/release_kv_cache_memory",
        "/get_world_size",
        "/fault_tolerance/status",
        "/kv_event_sources",
        "/init_weight_transfer_engine",
        "/start_weight_update",
        "/start_draft_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/shutdown_weight_transfer_engine",
        "/update_weight_version",
        "/weight_info",
        "/weight_checker",
        # SGLang
        "/flush_cache",
        "/get_server_info",
        "/release_memory_occupation",
        "/resume_memory_occupation",
        "/load_lora_adapter",
        "/unload_lora_adapter",
        "/update_weights_from_disk",
        "/update_weights_from_distributed",
        "/update_weights_from_tensor",
    }
)


class RefuseWhenDraining:
    """503 while the picker shuts down."""

    def __init__(self, is_draining: Callable[[], bool]) -> None:
        self._is_draining = is_draining

    async def __call__(self, context: RequestContext) -> None:
        if self._is_draining():
            raise Rejection(Reason.SHUTTING_DOWN, "This gateway is shutting down.")


class RefuseClosedPaths:
    """404 for a closed path, whatever the method."""

    async def __call__(self, context: RequestContext) -> None:
        path = context.head.path.rstrip("/")
        if path in CLOSED_PATHS:
            raise Rejection(Reason.PATH_NOT_FOUND, f"There is no {path} here.")
