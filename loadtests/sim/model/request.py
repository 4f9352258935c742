"""A request as the engine model sees it: lengths and block ids, never tokens.

A block id stands for the content of one full KV block *and* everything before it (a chained hash):
equal ids mean equal prefixes. The chain covers the prompt. It also covers the answer when a later
request will repeat it, as the next turn of a conversation does.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

PRIVATE_BLOCKS = 1 << 40
"""Negative block ids belong to one sequence alone: -(serial * 2**40 + index + 1)."""


class SequenceState(enum.Enum):
    """The state of a sequence."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as it arrives. ``output_tokens`` is the length that the answer will have.

    ``block_ids``: ids of the prompt's full blocks, in order, not negative. Further ids, up to
    (prompt + output) // block size, are those of the answer's blocks. Blocks without an id belong
    to the sequence alone.
    """

    request_id: str
    prompt_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()
    adapter: str | None = None
    arrival_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"request {self.request_id}: {name} is {getattr(self, name)}, "
                    "must be at least 1"
                )


@dataclass(slots=True, eq=False)
class Sequence:
    """A request inside the engine. Times are seconds of the engine's clock."""

    request: EngineRequest
    serial: int
    prompt_tokens: int
    output_tokens: int
    adapter: str | None
    state: SequenceState = SequenceState.WAITING
    scheduled_tokens: int = 0
    """Tokens whose KV is computed or being computed by a step in flight."""
    promised_tokens: int = 0
    """Output tokens that exist, and those that steps in flight will produce."""
    generated_tokens: int = 0
    """Output tokens that exist."""
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache at the first admission; None before it."""
    preemptions: int = 0
    blocks: list[int] = field(default_factory=list)
    """KV blocks held, in order."""
    published_blocks: int = 0
    """How many of them, from the first on, other sequences can find."""
    arrived_s: float = 0.0
    admitted_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None

    @property
    def known_tokens(self) -> int:
        """Tokens of the prompt and the output so far, promised ones included."""
        return self.prompt_tokens + self.promised_tokens

    @property
    def done(self) -> bool:
        """Finished or aborted."""
        return self.state is SequenceState.FINISHED or self.state is SequenceState.ABORTED

    def block_id(self, index: int) -> int:
        """Id of the sequence's ``index``-th block."""
        ids = self.request.block_ids
        if index < len(ids):
            return ids[index]
        return -(self.serial * PRIVATE_BLOCKS + index + 1)
