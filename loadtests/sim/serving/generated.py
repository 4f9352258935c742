"""What a replica has generated for each request, whether its client stayed or not."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from loadtests.sim.serving.job import EngineJob

_LATEST: Final = 100_000


@dataclass(frozen=True, slots=True)
class GeneratedTokens:
    """One request, over its choices."""

    request_id: str
    """The client's X-Request-Id, "" without one."""
    prompt_tokens: int
    generated_tokens: int
    whole: bool
    """All of the answer exists."""


class GeneratedLog:
    """The latest requests, in the order of their ends."""

    def __init__(self) -> None:
        self._entries: deque[GeneratedTokens] = deque(maxlen=_LATEST)

    def note(self, request_id: str, prompt_tokens: int, jobs: Iterable[EngineJob]) -> None:
        """A request has ended, or its client has left."""
        counts = [(job.generated_tokens, job.answer_tokens) for job in jobs]
        made = sum(generated for generated, _ in counts)
        whole = all(generated == planned for generated, planned in counts)
        self._entries.append(GeneratedTokens(request_id, prompt_tokens, made, whole))

    def describe(self) -> list[dict[str, object]]:
        """As JSON."""
        return [
            {
                "request_id": one.request_id,
                "prompt_tokens": one.prompt_tokens,
                "generated_tokens": one.generated_tokens,
                "whole": one.whole,
            }
            for one in self._entries
        ]

    def clear(self) -> None:
        """Forget them."""
        self._entries.clear()
