"""A request as the engine model sees it: lengths and block ids, never tokens.

A block id stands for the content of one full KV block *and* everything before it (a chained hash):
equal id means equal prefix. The chain covers the prompt and, where somebody will read it again (the
next turn of a conversation), the answer as well.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

PRIVATE_BLOCKS = 1 << 40
"""Block ids below zero belong to one sequence alone: -(serial * 2**40 + index + 1)."""


class SequenceState(enum.Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What arrives. ``output_tokens`` is the length the answer will have (at most max_tokens).

    ``block_ids``: full blocks of the prompt, in order, not negative; more of them, up to
    (prompt + output) // block size, name the blocks of the answer. Blocks without an id are the
    sequence's own.
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
    """Output tokens that exist or that a step in flight will produce."""
    generated_tokens: int = 0
    """Output tokens that exist."""
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache at the first admission; None before it."""
    preemptions: int = 0
    blocks: list[int] = field(default_factory=list)
    """KV blocks held, in order."""
    published_blocks: int = 0
    """Of these, how many (from the first on) others can find."""
    arrived_s: float = 0.0
    admitted_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None

    @property
    def known_tokens(self) -> int:
        """Prompt and output so far, counting what is promised."""
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
