"""What a scheduler hands to the accelerator: one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadtests.sim.model.request import Sequence
from loadtests.sim.model.step_time import Work


@dataclass(slots=True)
class Step:
    """One forward pass."""

    prefill: list[tuple[Sequence, int]] = field(default_factory=list)
    """Sequences with more than one token to compute, each with the number of tokens."""
    decode: list[Sequence] = field(default_factory=list)
    producing: list[Sequence] = field(default_factory=list)
    """Sequences that will have a new token, in order."""
    prefill_tokens: int = 0
    prefill_pairs: float = 0.0
    prefill_context_tokens: int = 0
    decode_context_tokens: int = 0
    adapter_loads: int = 0
    first_tokens: int = 0
    """Sequences whose first token this step produces."""

    @property
    def plain(self) -> bool:
        """Whether every sequence gets one more token, and none its first."""
        return not self.prefill and not self.first_tokens

    @property
    def work(self) -> Work:
        """The same, as `StepTime` takes it."""
        return Work(
            self.prefill_tokens,
            self.prefill_pairs,
            len(self.decode),
            self.decode_context_tokens,
            self.prefill_context_tokens,
        )
