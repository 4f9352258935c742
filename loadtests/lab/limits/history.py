"""What clients saw of a gateway's limits, and what stands against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Count = Literal["requests", "input_tokens", "output_tokens", "total_tokens"]
"""What a limit counts."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one request."""

    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as its client saw it. Instants of one clock, s."""

    id: str
    sent_s: float
    head_s: float
    """The answer's headers were there; of a request without an answer, its end."""
    end_s: float
    status: int
    """0: no answer came."""
    reserved: Tokens
    """What a gateway may set aside at most: its estimate of the prompt, and the output that the
    request allows."""
    usage: Tokens | None = None
    """As the answer reports it."""
    shown_tokens: int | None = None
    """Tokens in the events of a stream; None: not streamed, or not one token an event."""
    whole: bool = False
    """The answer came to its end."""
    retry_after_s: float | None = None
    final: bool = False
    """The answer says that trying again is of no use (x-should-retry: false)."""
    left: Mapping[Count, float] = field(default_factory=dict)
    """What x-ratelimit-remaining-* says is left, by what is counted."""

    @property
    def admitted(self) -> bool:
        """A replica was asked, as far as the client can tell."""
        return self.status == 200

    @property
    def refused(self) -> bool:
        """Over a limit, says the gateway."""
        return self.status == 429

    @property
    def uncertain(self) -> bool:
        """It may have been admitted, and may count in part or not at all."""
        return not self.whole and not self.refused and not 400 <= self.status < 500


@dataclass(frozen=True, slots=True)
class History:
    """All requests of one run, and what others report of them."""

    seen: tuple[Seen, ...]
    generated: dict[str, Tokens]
    """By request id, of replicas that can be asked; without an entry usage counts."""
    charged: int | None = None
    """Tokens by which the gateway's own account has grown; None: unknown."""
    rested: bool = False
    """Nothing had been used of the limits when it began; else what the first answer says was left,
    and nothing where it does not say."""

    @property
    def began_s(self) -> float:
        """When the first request was sent."""
        return min((one.sent_s for one in self.seen), default=0.0)

    def left_at_first(self, count: Count) -> float:
        """A bound below what was left at the start, of a history that had not rested."""
        first = min(self.seen, key=lambda one: one.sent_s, default=None)
        return first.left.get(count, 0.0) if first is not None else 0.0
