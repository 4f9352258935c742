"""Sessions: what one client asks, turn after turn, each turn after the answers before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from loadtests.workloads.prompts import Prompt, Role, Segment
from picker.prompt.blocks import Blocks

UNLOADED_TTFT_S = 0.2
UNLOADED_S_PER_TOKEN = 0.02
"""Speed of a server without limits, for when no engine is simulated."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a turn: what is said after the conversation so far, and the answer."""

    says: tuple[Segment, ...]
    answer_tokens: int
    """Length of the answer; no gateway knows it."""
    max_tokens: int | None
    """The bound that the client declares; None: it declares none."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Requests that are sent together. When all are answered, the conversation goes on from the
    first of them and its answer; the others (of sub-agents, say) are asides."""

    asks: tuple[Ask, ...]
    pause_s: float = 0.0
    """Time between the answer to the turn before and this turn: somebody thinks, or a tool
    works."""


@dataclass(frozen=True, slots=True)
class Session:
    """The plan of one client's conversation."""

    id: str
    context: tuple[Segment, ...]
    """What stands before the first turn: system prompts."""
    turns: tuple[Turn, ...]
    tenant: str = ""
    adapter: str = ""
    """LoRA adapter, "" = the base model."""

    @property
    def requests(self) -> int:
        """Number of requests in all turns."""
        return sum(len(turn.asks) for turn in self.turns)


class Workload(Protocol):
    """A supply of sessions. The session of an ``index`` is always the same, so that what is asked
    does not depend on how fast it is answered."""

    @property
    def name(self) -> str:
        """Prefix of all ids."""
        ...

    def session(self, index: int) -> Session:
        """The session number ``index``, from 0. Raises IndexError beyond the last."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One request to send."""

    id: str
    session: str
    tenant: str
    adapter: str
    arrival_s: float
    prompt: Prompt
    answer: Segment
    """What a simulated engine generates, and the session's next turn repeats."""
    max_tokens: int | None
    """As the client declares it; a gateway knows nothing else about the answer's length."""

    @property
    def prompt_tokens(self) -> int:
        return self.prompt.tokens

    @property
    def output_tokens(self) -> int:
        return self.answer.tokens

    def block_ids(self, block_tokens: int) -> list[int]:
        """KV block ids of the full blocks of prompt and answer; the first ``prompt_tokens //
        block_tokens`` are those of the prompt."""
        return self.prompt.then(self.answer).block_ids(block_tokens, salt=self.adapter)

    def live_blocks(self, model: str = "") -> Blocks:
        """Block hashes for the picker's prefix index."""
        return self.prompt.live_blocks(model=model, adapter=self.adapter)


class Conversation:
    """A session under way. It gives the next requests when those before are answered."""

    def __init__(self, session: Session, *, run: int = 0) -> None:
        """``run`` distinguishes the runs of a session that is repeated."""
        self.session = session
        self._id = f"{session.id}~{run}" if run else session.id
        self._prompt = Prompt(session.context)
        self._turn = 0
        self._open: set[str] = set()
        self._main = ""
        self._next = self._prompt
        self.abandoned = False
        """A request has failed, or no more may be sent: nothing more is asked."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to ask, and nothing is unanswered."""
        return not self._open and self._turn >= len(self.session.turns)

    def ask(self, at_s: float) -> list[Request]:
        """The requests of the next turn, sent at ``at_s``; none when the session is over."""
        if self._open or self.over:
            return []
        turn = self.session.turns[self._turn]
        requests = [self._request(index, ask, at_s) for index, ask in enumerate(turn.asks)]
        self._open = {request.id for request in requests}
        self._main = requests[0].id
        self._next = requests[0].prompt.then(requests[0].answer)
        self._turn += 1
        return requests

    def answered(self, request: Request, answer: Segment | None = None) -> float | None:
        """A request is answered; ``answer`` is given when it is not as planned. Returns the seconds
        until the next turn; None when there is none, or other requests of this turn are open."""
        self._open.discard(request.id)
        if answer is not None and request.id == self._main:
            self._next = request.prompt.then(answer)
        if self._open:
            return None
        self._prompt = self._next
        return None if self.over else self.session.turns[self._turn].pause_s

    def catch_up(self, begun_s: float, now_s: float) -> float | None:
        """The session began earlier, and a server without limits (`UNLOADED_TTFT_S`) has answered
        since: skip the turns sent before ``now_s``. Returns when it goes on; None when it is over
        by then."""
        at_s = begun_s
        while at_s < now_s:
            requests = self.ask(at_s)
            pause_s: float | None = None
            for request in requests:
                pause_s = self.answered(request)
            if pause_s is None:
                return None
            longest = max(request.output_tokens for request in requests)
            at_s += UNLOADED_TTFT_S + UNLOADED_S_PER_TOKEN * longest + pause_s
        return at_s

    def finish(self) -> None:
        """Ask nothing after this turn."""
        self._turn = max(self._turn, len(self.session.turns))

    def abandon(self) -> None:
        """Ask nothing more."""
        self.abandoned = True
        self._open.clear()
        self._turn = len(self.session.turns)

    def _request(self, index: int, ask: Ask, at_s: float) -> Request:
        answer_id = f"{self.session.id}/{self._turn}.{index}/answer"
        return Request(
            id=self._request_id(self._turn, index),
            session=self._id,
            tenant=self.session.tenant,
            adapter=self.session.adapter,
            arrival_s=at_s,
            prompt=self._prompt.then(*ask.says),
            answer=Segment(answer_id, ask.answer_tokens, Role.ASSISTANT),
            max_tokens=ask.max_tokens,
        )

    def _request_id(self, turn: int, index: int) -> str:
        return f"{self._id}/{turn}.{index}"


def said(answer: Segment, *, text: str | None, tokens: int | None) -> Segment | None:
    """The answer as the server gave it; None when it is as planned."""
    if text is None and tokens in (None, answer.tokens):
        return None
    return replace(answer, literal=text, tokens=answer.tokens if tokens is None else tokens)
