"""Assignments as messages."""

from __future__ import annotations

from gateway.control.assignment import Assignment
from picker.request.role import Role
from picker.state.endpoints import EndpointChanges, EndpointSpec
from picker.wire import control_pb2


def from_assignment(assignment: Assignment) -> control_pb2.Assignment:
    """The message."""
    return control_pb2.Assignment(
        version=assignment.version,
        whole=assignment.whole,
        configuration=assignment.configuration,
        pools=[
            control_pb2.PoolChanges(
                pool=changes.pool,
                upserts=[_from_spec(spec) for spec in changes.upserts],
                deletes=changes.deletes,
            )
            for changes in assignment.endpoints
        ],
        proxy_generation=assignment.proxy_generation,
        registry_generation=assignment.registry_generation,
        crash_generation=assignment.crash_generation,
        live_pickers=sorted(assignment.live_pickers),
    )


def to_assignment(message: control_pb2.Assignment) -> Assignment:
    """The assignment of the message."""
    return Assignment(
        version=message.version,
        whole=message.whole,
        configuration=message.configuration if message.HasField("configuration") else None,
        endpoints=tuple(
            EndpointChanges(
                changes.pool,
                tuple(_to_spec(endpoint) for endpoint in changes.upserts),
                tuple(changes.deletes),
            )
            for changes in message.pools
        ),
        proxy_generation=message.proxy_generation,
        registry_generation=message.registry_generation,
        crash_generation=message.crash_generation,
        live_pickers=frozenset(message.live_pickers),
    )


def _from_spec(spec: EndpointSpec) -> control_pb2.Endpoint:
    return control_pb2.Endpoint(
        address=spec.address,
        draining=spec.draining,
        role=spec.role.value,
        rank=spec.rank,
        labels=dict(spec.labels),
    )


def _to_spec(endpoint: control_pb2.Endpoint) -> EndpointSpec:
    return EndpointSpec(
        endpoint.address,
        draining=endpoint.draining,
        role=Role(endpoint.role),
        rank=endpoint.rank if endpoint.HasField("rank") else None,
        labels=tuple(sorted(endpoint.labels.items())),
    )
