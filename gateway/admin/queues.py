"""/api/queue: what waits for the pools."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from gateway.admin.answers import answer
from gateway.admin.status import StatusSource
from picker.admission.sight import ClassSight, PoolSight


class QueueHandlers:
    """Handler of /api/queue."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_get("/api/queue", self.queue)

    async def queue(self, _: web.Request) -> web.Response:
        """The queue of each pool that has one, by class and flow."""
        return answer({"pools": [_pool(sight) for sight in self._source.queues()]})


def waiting(classes: Iterable[ClassSight]) -> tuple[int, float]:
    """Requests and tokens of some classes."""
    flows = [flow for one in classes for flow in one.flows]
    return sum(flow.requests for flow in flows), sum(flow.tokens for flow in flows)


def _pool(sight: PoolSight) -> dict[str, object]:
    requests, tokens = waiting(sight.classes)
    return {
        "pool": sight.pool,
        "saturation": round(sight.saturation, 3),
        "requests": requests,
        "tokens": round(tokens),
        "classes": [_class(one) for one in sight.classes],
    }


def _class(sight: ClassSight) -> dict[str, object]:
    requests, tokens = waiting((sight,))
    return {
        "priority": sight.priority,
        "requests": requests,
        "tokens": round(tokens),
        "oldest_s": round(max((flow.oldest_s for flow in sight.flows), default=0.0), 3),
        "service_gap_tokens": round(sight.gap),
        "flows": [
            {
                "flow": flow.flow,
                "requests": flow.requests,
                "tokens": round(flow.tokens),
                "oldest_s": round(flow.oldest_s, 3),
                "predicted_wait_s": round(flow.wait_s, 3),
            }
            for flow in sight.flows
        ],
    }
