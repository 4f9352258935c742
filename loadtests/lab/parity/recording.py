"""What a run of the requests left behind, whoever ran it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


class ParityError(ValueError):
    """A server cannot be compared, or something came between; the message says what."""


@dataclass(slots=True)
class RecordedAnswer:
    """What one request was told, in tokens."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    tokens: tuple[int, ...] = ()
    """The answer itself, as ids."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment: when the oldest unfinished request had so many tokens. It gets one in each step.

    Of an arrival: the step after which the scheduler saw it.
    """

    request: str
    tokens: int


@dataclass(slots=True)
class Recording:
    """A whole run. Counters are those of the run alone."""

    who: str
    answers: dict[str, RecordedAnswer] = field(default_factory=dict)
    came: list[Moment | None] = field(default_factory=list)
    """When each burst came; None: nothing else was under way."""
    admitted: list[str] | None = None
    """Requests in order of first admission, as far as it can be told; None: nobody told."""
    preemptions: int = 0
    hit_tokens: int = 0
    """Tokens found in the prefix cache, those of preempted requests left out."""
    evicted_blocks: int | None = None
    """None: nobody told."""
    stops: dict[str, str] = field(default_factory=dict)
    """By request, why no more of its prompt was found. Only the model knows."""

    def document(self) -> dict[str, object]:
        """For JSON; answers' tokens are left out."""
        plain = asdict(self)
        for answer in plain["answers"].values():
            del answer["tokens"]
        return plain
