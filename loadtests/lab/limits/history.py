"""What clients saw of a gateway's limits, and what stands against it."""

from __future__ import annotations

from dataclasses import dataclass


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
