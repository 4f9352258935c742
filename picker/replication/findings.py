"""What was found of circuit breakers, packed for the other pickers."""

from __future__ import annotations

import math

from picker.seams.peers import Finding
from picker.wire import state_pb2
from policies.health.breaker import Verdict


def pack(finding: Finding) -> state_pb2.Breaker:
    """As a message."""
    verdict = finding.verdict
    return state_pb2.Breaker(
        pool=finding.pool,
        address=finding.address,
        model=finding.model,
        at_s=verdict.at_s,
        until_s=verdict.until_s,
        opened=verdict.opened,
        reason=verdict.reason,
    )


def unpack(message: state_pb2.Breaker) -> Finding:
    """Raises ValueError for times that are none."""
    if not (math.isfinite(message.at_s) and math.isfinite(message.until_s)):
        raise ValueError("a breaker has times that are none")
    verdict = Verdict(message.at_s, message.until_s, message.opened, message.reason)
    return Finding(message.pool, message.address, message.model, verdict)
