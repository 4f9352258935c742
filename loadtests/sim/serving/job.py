"""What the engine of a replica is given: a prompt and the answer it will get."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadtests.sim.model.request import Sequence, SequenceState
from loadtests.sim.serving.tokens import NO_TOKENS, Tokens, count


@dataclass(slots=True, eq=False)
class EngineJob:
    """One sequence to generate; without an answer it is a pooling request.

    Prefixes that look alike but have different adapters (by name or path) or ``cache_salt`` are
    kept apart. What follows ``max_tokens`` is the engine's to set; times are wall time in seconds.
    """

    prompt: Tokens
    answer: Tokens = NO_TOKENS
    finish_reason: str = "stop"
    adapter: str | None = None
    adapter_path: str = ""
    cache_salt: str = ""
    session_id: str | None = None
    """Which conversation it belongs to, for KV events."""
    max_tokens: int | None = None
    """As the request says."""
    sequence: Sequence | None = None
    """Its counterpart in the engine, once it is submitted."""
    block_ids: tuple[int, ...] = ()
    """Of prompt and answer."""
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
        """Of the answer, so far."""
        if self.sequence is None:
            return 0
        return min(self.sequence.generated_tokens, self.answer_tokens)

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, found in the prefix cache; 0 before it is admitted."""
        return 0 if self.sequence is None else self.sequence.cached_tokens or 0

    @property
    def aborted(self) -> bool:
        """Ended before its time: what is generated is all there will be."""
        return self.sequence is not None and self.sequence.state is SequenceState.ABORTED

    @property
    def done(self) -> bool:
        """Finished or aborted."""
        return self.sequence is not None and self.sequence.done
