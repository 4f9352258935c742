"""What a request asks of one endpoint, as the ledger counts it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from picker.request.context import RequestContext
from picker.request.role import Role
from picker.state.endpoints import PoolState
from policies.routing.types import Features


class Leg(Struct):
    """One role of a request on one endpoint. Tokens are whole numbers, so that sums come back to
    exactly 0."""

    id: str
    """Of the request."""
    role: Role
    pool: str
    address: str
    prompt_tokens: float
    uncached_tokens: float
    output_tokens: float
    """Expected, 0 = unknown."""
    features: Features | None = None
    """What the policy saw of the endpoint; None: no policy chose it."""
    started_s: float = 0.0
    backlog_tokens: float = 0.0
    """Prefill backlog of the endpoint, without this request, at dispatch."""
    prefill_due_s: float = 0.0
    """When its prefill is believed to be done."""
    prefill_done: bool = False
    slot: int = 0
    generation: int = 0
    counted_in: PoolState | None = None
    """The pool whose columns hold it, as long as the slot is of this generation; None: not
    counted."""

    @property
    def key(self) -> tuple[str, Role]:
        """Unique over all legs of a picker."""
        return self.id, self.role

    @property
    def in_columns(self) -> bool:
        """False when the columns no longer hold it: its slot was freed, and its columns zeroed."""
        state = self.counted_in
        return state is not None and state.generation_of(self.slot) == self.generation


def legs_of(context: RequestContext) -> Iterator[Leg]:
    """Of a decided request, in the order of its picks."""
    for pick in context.picks:
        prefills, decodes = pick.role is not Role.DECODE, pick.role is not Role.PREFILL
        yield Leg(
            context.id,
            pick.role,
            context.pool,
            pick.address,
            prompt_tokens=context.prompt_tokens,
            uncached_tokens=context.prompt_tokens - pick.matched_tokens if prefills else 0.0,
            output_tokens=context.output_tokens if decodes else 0.0,
            features=pick.features,
        )
