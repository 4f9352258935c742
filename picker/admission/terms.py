"""On what terms a request waits: its class, whose share it takes, and until when."""

from __future__ import annotations

from math import inf
from typing import Final

from msgspec import Struct

from picker.request.context import RequestContext, bounded
from picker.settings import FlowSettings, Objective

_MARGIN: Final = 0.1
"""Share of a gateway's patience that is left for deciding, and for the way."""


class Terms(Struct, frozen=True):
    """See `Item`, whose fields of the same names they become."""

    flow: str
    priority: int
    ttl_s: float
    due_s: float


class TermsOf:
    """By the settings: who is trusted may name an objective and a flow of its own."""

    def __init__(self, settings: FlowSettings) -> None:
        self._settings = settings
        self._objectives = {one.name: one for one in settings.objectives}

    def __call__(self, context: RequestContext) -> Terms:
        """The terms of a request."""
        policy, settings = context.caller.policy, self._settings
        flow, objective = policy.tenant, None
        if settings.trust_headers or policy.flow_headers:
            objective = self._objective(context)
            flow = _flow(policy.tenant, context.fairness_id)
        priority = policy.priority if objective is None else objective.priority
        ttl_s = settings.class_ttl_s.get(priority)
        if ttl_s is None:
            ttl_s = settings.ttl_s if priority >= 0 else settings.sheddable_ttl_s
        due_s = inf if objective is None else context.head.received_s + objective.ttft_s
        return Terms(flow, priority, min(ttl_s, context.patience_s * (1.0 - _MARGIN)), due_s)

    def sheddable(self, context: RequestContext) -> bool:
        """The request has a priority below 0."""
        policy = context.caller.policy
        if self._objectives and (self._settings.trust_headers or policy.flow_headers):
            return self(context).priority < 0
        return policy.priority < 0

    def _objective(self, context: RequestContext) -> Objective | None:
        return self._objectives.get(context.objective) if self._objectives else None


def _flow(tenant: str, fairness_id: str) -> str:
    """A tenant's flows are its own: nobody can take another's share by its name."""
    return f"{tenant}/{bounded(fairness_id)}" if fairness_id else tenant
