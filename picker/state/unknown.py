"""What stands in a pool's columns for an endpoint that does not report its load."""

from __future__ import annotations

from policies.routing.types import PoolView, Slots


def fill_in(view: PoolView, unknown: Slots, known: Slots) -> None:
    """Give each endpoint of ``unknown`` the mean of those that report: no policy then prefers it or
    leaves it alone for what is not known of it, and what is in flight decides. 0 when none
    reports."""
    reported = (
        view.waiting_requests,
        view.running_requests,
        view.foreign_requests,
        view.kv_usage,
        view.lora_active,
    )
    for column in reported:
        column[unknown] = column[known].mean() if known.size else 0.0
    # How many adapters fit does not change while an engine lives.
    never = unknown[view.lora_slots[unknown] == 0]
    view.lora_slots[never] = view.lora_slots[known].mean() if known.size else 0.0
