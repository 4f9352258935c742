"""What is recorded of a run of the requests, on a server or on the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


class ParityError(ValueError):
    """A server cannot be compared, or the run was disturbed; the message says why."""


@dataclass(slots=True)
class RecordedAnswer:
    """The answer to one request."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    tokens: tuple[int, ...] = ()
    """The answer itself, as ids."""


@dataclass(frozen=True, slots=True)
class Moment:
    """An engine's step, named by the tokens of a request that gets one in each step: the oldest
    unfinished request. For an arrival: the step after which the scheduler saw it."""

    request: str
    tokens: int


@dataclass(slots=True)
class Recording:
    """A whole run. Counters are those of the run alone."""

    who: str
    answers: dict[str, RecordedAnswer] = field(default_factory=dict)
    came: list[Moment | None] = field(default_factory=list)
    """When each burst arrived; None: nothing else was under way."""
    admitted: list[str] | None = None
    """Requests in order of their first admission, as far as KV events show it; None: there were
    none."""
    preemptions: int = 0
    hit_tokens: int = 0
    """Tokens found in the prefix cache at first admissions."""
    evicted_blocks: int | None = None
    """None: there were no KV events."""
    stops: dict[str, str] = field(default_factory=dict)
    """By request, why no more of its prompt was found cached. Only the model knows."""

    def document(self) -> dict[str, object]:
        """For JSON; answers' tokens are left out."""
        plain = asdict(self)
        for answer in plain["answers"].values():
            del answer["tokens"]
        return plain
