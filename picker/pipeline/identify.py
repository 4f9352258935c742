"""Step: who sent the request, by its headers alone."""

from __future__ import annotations

from picker.request.context import RequestContext
from picker.request.rejection import Rejection
from picker.seams.gate import Gate


class Identify:
    """401 or 403 for a caller that the gate does not let in."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __call__(self, context: RequestContext) -> None:
        try:
            context.caller = self._gate.identify(context.head)
        except Rejection as rejection:
            context.caller = rejection.caller or context.caller
            raise
