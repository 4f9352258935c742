"""Assignments as messages."""

from __future__ import annotations

from typing import Final

from gateway.control.assignment import Assignment
from picker.request.role import Role
from picker.state.spec import EndpointChanges, EndpointSpec, KvPorts
from picker.wire import control_pb2

_SAME: Final = ("version", "whole", "proxy_generation", "registry_generation", "crash_generation")
"""Fields that an assignment and its message both have."""


def from_assignment(assignment: Assignment) -> control_pb2.Assignment:
    """The message."""
    return control_pb2.Assignment(
        **{name: getattr(assignment, name) for name in _SAME},
        configuration=assignment.configuration,
        pools=[
            control_pb2.PoolChanges(
                pool=changes.pool,
                upserts=[_from_spec(spec) for spec in changes.upserts],
                deletes=changes.deletes,
            )
            for changes in assignment.endpoints
        ],
        live_pickers=sorted(assignment.live_pickers),
    )


def to_assignment(message: control_pb2.Assignment) -> Assignment:
    """The assignment of the message."""
    return Assignment(
        **{name: getattr(message, name) for name in _SAME},
        configuration=message.configuration if message.HasField("configuration") else None,
        endpoints=tuple(
            EndpointChanges(
                changes.pool,
                tuple(_to_spec(endpoint) for endpoint in changes.upserts),
                tuple(changes.deletes),
            )
            for changes in message.pools
        ),
        live_pickers=frozenset(message.live_pickers),
    )


def _from_spec(spec: EndpointSpec) -> control_pb2.Endpoint:
    return control_pb2.Endpoint(
        address=spec.address,
        draining=spec.draining,
        role=spec.role.value,
        rank=spec.rank,
        labels=dict(spec.labels),
        kv_events_port=spec.kv_events.port if spec.kv_events is not None else None,
        kv_events_replay_port=spec.kv_events.replay_port if spec.kv_events is not None else None,
    )


def _to_spec(endpoint: control_pb2.Endpoint) -> EndpointSpec:
    return EndpointSpec(
        endpoint.address,
        draining=endpoint.draining,
        role=Role(endpoint.role),
        rank=endpoint.rank if endpoint.HasField("rank") else None,
        labels=tuple(sorted(endpoint.labels.items())),
        kv_events=_kv_ports(endpoint),
    )


def _kv_ports(endpoint: control_pb2.Endpoint) -> KvPorts | None:
    if not endpoint.HasField("kv_events_port"):
        return None
    replays = endpoint.HasField("kv_events_replay_port")
    return KvPorts(endpoint.kv_events_port, endpoint.kv_events_replay_port if replays else None)
