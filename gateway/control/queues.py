"""The queues of the picker workers: as messages, and those of all workers as one."""

from __future__ import annotations

from collections.abc import Iterable

from picker.admission.sight import ClassSight, FlowSight, PoolSight
from picker.wire import control_pb2


def from_sight(sight: PoolSight) -> control_pb2.PoolQueue:
    """As a worker reports it."""
    message = control_pb2.PoolQueue(pool=sight.pool, saturation=sight.saturation)
    for one in sight.classes:
        row = message.classes.add(priority=one.priority, gap=one.gap)
        for flow in one.flows:
            row.flows.add(
                flow=flow.flow,
                requests=flow.requests,
                tokens=flow.tokens,
                oldest_s=flow.oldest_s,
                wait_s=flow.wait_s,
            )
    return message


def together(reported: Iterable[control_pb2.PoolQueue]) -> dict[str, PoolSight]:
    """By pool: what waits in all workers. Each predicts the wait and the gap of its own queue; the
    longest and the widest count. Two workers that see an endpoint differently are both right for
    what they have: the higher saturation counts."""
    saturation: dict[str, float] = {}
    gaps: dict[str, dict[int, float]] = {}
    flows: dict[tuple[str, int], dict[str, FlowSight]] = {}
    for queue in reported:
        pool = queue.pool
        saturation[pool] = max(saturation.get(pool, 0.0), queue.saturation)
        for one in queue.classes:
            widest = gaps.setdefault(pool, {})
            widest[one.priority] = max(widest.get(one.priority, 0.0), one.gap)
            rows = flows.setdefault((pool, one.priority), {})
            for flow in one.flows:
                rows[flow.flow] = _sum(rows.get(flow.flow), flow)
    return {
        pool: PoolSight(
            pool,
            share,
            tuple(
                ClassSight(priority, _ordered(flows[pool, priority].values()), gap)
                for priority, gap in sorted(gaps.get(pool, {}).items(), reverse=True)
            ),
        )
        for pool, share in saturation.items()
    }


def _sum(before: FlowSight | None, flow: control_pb2.QueueFlow) -> FlowSight:
    if before is None:
        return FlowSight(flow.flow, flow.requests, flow.tokens, flow.oldest_s, flow.wait_s)
    return FlowSight(
        flow.flow,
        before.requests + flow.requests,
        before.tokens + flow.tokens,
        max(before.oldest_s, flow.oldest_s),
        max(before.wait_s, flow.wait_s),
    )


def _ordered(flows: Iterable[FlowSight]) -> tuple[FlowSight, ...]:
    return tuple(sorted(flows, key=lambda one: (not one.flow, -one.tokens, one.flow)))
