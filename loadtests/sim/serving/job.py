"""What a replica's engine is given: a prompt and the answer to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadtests.sim.model.request import Sequence, SequenceState
from loadtests.sim.serving.tokens import NO_TOKENS, Tokens, count


@dataclass(slots=True, eq=False)
class EngineJob:
    """One sequence to generate; without an answer it is a pooling request.

    Equal prefixes with different adapters (by name or path) or ``cache_salt`` are kept apart. The
    engine sets all fields after ``max_tokens``; times are wall time in seconds.
    """

    prompt: Tokens
    answer: Tokens = NO_TOKENS
    finish_reason: str = "stop"
    adapter: str | None = None
    adapter_path: str = ""
    cache_salt: str = ""
    session_id: str | None = None
    """The conversation that it belongs to, for KV events."""
    max_tokens: int | None = None
    """As the request states it."""
    sequence: Sequence | None = None
    """The job's sequence in the engine, once it is submitted."""
    block_ids: tuple[int, ...] = ()
    """Ids of the blocks of prompt and answer."""
    sent_s: float = 0.0
    queued_s: float = 0.0
    admitted_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float = 0.0
    prompt_tokens: int = field(init=False)
    answer_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = count(self.prompt)
        self.answer_tokens = count(self.answer)

    @property
    def generated_tokens(self) -> int:
        """Tokens of the answer that exist."""
        if self.sequence is None:
            return 0
        return min(self.sequence.generated_tokens, self.answer_tokens)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the prefix cache; 0 before the job is admitted."""
        return 0 if self.sequence is None else self.sequence.cached_tokens or 0

    @property
    def aborted(self) -> bool:
        """Whether it was ended early: no further token will come."""
        return self.sequence is not None and self.sequence.state is SequenceState.ABORTED

    @property
    def done(self) -> bool:
        """Whether it is finished or aborted."""
        return self.sequence is not None and self.sequence.done
