"""Log probabilities of tokens: made up, but such that they add up, and the same each time."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import xxhash

from loadtests.sim.serving import tokens
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.tokens import TOKEN_BYTES, Tokens

_MOST: Final = 20
"""vLLM's --max-logprobs."""
_WORDS: Final = (" the", " and", " for", " can", " its", " one", " not", " all", " out", " new")


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """A token and how likely it was."""

    token: str
    logprob: float

    def openai(self) -> dict[str, object]:
        """As chat completions report it."""
        data = list(self.token.encode())
        return {"token": self.token, "logprob": self.logprob, "bytes": data}


@dataclass(frozen=True, slots=True)
class LogprobsWanted:
    """What a request asks for."""

    alternatives: int

    @classmethod
    def of_chat(cls, body: Body) -> "LogprobsWanted | None":
        """``logprobs`` is a flag there. Raises ApiError."""
        most = body.integer("top_logprobs", least=0)
        if not body.flag("logprobs"):
            if most:
                raise ApiError(
                    "when using `top_logprobs`, `logprobs` must be set to true.",
                    param="top_logprobs",
                )
            return None
        return cls(_bounded(most or 0, "top_logprobs"))

    @classmethod
    def of_completions(cls, body: Body) -> "LogprobsWanted | None":
        """``logprobs`` is a number there. Raises ApiError."""
        most = body.integer("logprobs", least=0)
        return None if most is None else cls(_bounded(most, "logprobs"))

    def chat(self, answer: Tokens, first: int, last: int) -> dict[str, object]:
        """Of some of an answer's tokens, for chat completions."""
        content = []
        for likely, others in self._of(answer, first, last):
            top = [one.openai() for one in others[: self.alternatives]]
            content.append({**likely.openai(), "top_logprobs": top})
        return {"content": content}

    def completions(
        self, answer: Tokens, first: int, last: int, offset: int, *, prompt: Tokens | None = None
    ) -> dict[str, object]:
        """The same for completions. ``offset``: characters before the first of them. ``prompt``
        comes in front when it is echoed; nothing is known of its first token."""
        likely = [] if prompt is None else list(self._of(prompt, 0, tokens.count(prompt)))
        echoed = len(likely)
        likely += self._of(answer, first, last)
        offsets, known, top = [], [], []
        for index, (token, others) in enumerate(likely):
            offsets.append(offset)
            offset += len(token.token)
            unknown = index == 0 and echoed > 0
            known.append(None if unknown else token.logprob)
            shown = [token, *others[1 : self.alternatives]] if self.alternatives else [token]
            top.append(None if unknown else {one.token: one.logprob for one in shown})
        return {
            "text_offset": offsets,
            "token_logprobs": known,
            "tokens": [token.token for token, _ in likely],
            "top_logprobs": top,
        }

    def _of(
        self, answer: Tokens, first: int, last: int
    ) -> Iterable[tuple[LikelyToken, Sequence[LikelyToken]]]:
        """Each token, with the likeliest ones in its place, itself first."""
        for index in range(first, last):
            piece = answer[index * TOKEN_BYTES : (index + 1) * TOKEN_BYTES]
            drawn = xxhash.xxh3_64_intdigest(answer[: (index + 1) * TOKEN_BYTES][-64:])
            share = 0.5 + (drawn % 1000) / 2001
            token = tokens.decode(piece)
            others = [word for word in _WORDS * 2 if word != token]
            top = [LikelyToken(token, round(math.log(share), 6))]
            for other in dict.fromkeys(others):
                share = (1 - math.exp(top[0].logprob)) * 0.5 ** len(top)
                top.append(LikelyToken(other, round(math.log(share), 6)))
            top += [
                LikelyToken(f" {number}", round(math.log(share) - number, 6))
                for number in range(1, _MOST + 1 - len(top))
            ]
            yield top[0], top


def _bounded(most: int, param: str) -> int:
    if most > _MOST:
        raise ApiError(
            f"Requested sample logprobs of {most}, which is greater than max allowed: {_MOST}",
            param=param,
        )
    return most
