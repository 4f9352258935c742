"""What a simulated model answers: deterministic text that looks like English, of a seeded length.

Every word, with the space before it and the stop after it, fills whole four-byte tokens. So a
stream sends whole words, and the text of an answer tokenizes to the tokens that were generated.
"""

import bisect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import orjson
import xxhash

from loadtests.sim.serving.structures import Structure, Written
from loadtests.sim.serving.tokens import TOKEN_BYTES, TURN_END, Tokens, count, encode

_FIRST_WORDS = ("Here", "This", "Most", "When", "Each", "Both", "Such", "Once", "Then", "With")
_STARTS = ("The", "One", "Any", "Our", "Its", "Another", "Because", "Through")
_WORDS = (
    "the", "and", "for", "can", "its", "one", "not", "all", "out", "new", "may", "use", "way",
    "run", "set", "key", "big", "low", "few", "see", "now", "per", "request", "replica",
    "routing", "serving", "through", "between", "picking", "waiting", "longest", "shorter",
    "however", "because", "already", "another", "latency", "reading", "writing", "measure",
    "balance", "engineering", "development",
)  # fmt: skip
_ENDS = ("it", "so", "us", "answer", "system", "prompt", "result", "memory", "tokens", "theory")
_CORPUS_TOKENS = 8192
_LONGEST_MEDIAN_TOKENS = 1e9
_WIDEST_SIGMA = 10.0
_SEED_WINDOW_BYTES = 4096


@dataclass(frozen=True, slots=True)
class AnswerLengths:
    """The natural length of answers, log-normal; the end-of-sequence token counts."""

    median_tokens: float = 128.0
    sigma: float = 0.6
    shortest_tokens: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.median_tokens <= _LONGEST_MEDIAN_TOKENS:
            raise ValueError(
                f"an answer's median is {self.median_tokens} tokens, "
                f"must be above 0 and at most {_LONGEST_MEDIAN_TOKENS:.0e}"
            )
        if not 0.0 <= self.sigma <= _WIDEST_SIGMA:
            raise ValueError(f"an answer's sigma is {self.sigma}, must be 0 to {_WIDEST_SIGMA}")

    def draw(self, rng: random.Random) -> int:
        """Draw one length, in tokens."""
        drawn = rng.lognormvariate(math.log(self.median_tokens), self.sigma)
        return max(self.shortest_tokens, round(drawn))


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """What the request says about its output."""

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PlannedAnswer:
    """A whole answer, known before the engine starts on it.

    `tokens` are generated; `text` is what the client sees of them: without the end-of-sequence
    token and without the stop string.
    """

    tokens: Tokens
    text: str
    finish_reason: str
    stop_reason: str | None
    tool: str = ""
    """The tool that it calls; the text is its arguments."""
    named: bool = False
    """The client had named the tool."""
    prescribed: bool = False
    """The text may hold what JSON has to escape; the model's own words do not."""

    @property
    def calls(self) -> bool:
        """It is a call of a tool, and whole."""
        return bool(self.tool) and self.finish_reason == "stop"

    def piece(self, first: int, last: int) -> str:
        """Visible text of the tokens first (inclusive) to last (exclusive)."""
        return self.text[first * TOKEN_BYTES : last * TOKEN_BYTES]

    def piece_in_json(self, first: int, last: int) -> str:
        """The same as it stands in a JSON string."""
        piece = self.piece(first, last)
        return orjson.dumps(piece).decode()[1:-1] if self.prescribed else piece

    def cut(self, tokens: int) -> "PlannedAnswer":
        """The answer as it is when it is aborted after so many tokens."""
        end = tokens * TOKEN_BYTES
        return replace(
            self,
            tokens=Tokens(self.tokens[:end]),
            text=self.text[:end],
            finish_reason="abort",
            stop_reason=None,
        )


def write_answer(
    prompt: bytes,
    limits: OutputLimits,
    lengths: AnswerLengths,
    *,
    seed: int,
    choice: int = 0,
    structure: Structure | None = None,
) -> PlannedAnswer:
    """The answer to a prompt; the same arguments give the same answer. With ``structure`` it is
    what that writes, as far as it may go."""
    rng = random.Random(
        xxhash.xxh3_64_intdigest(
            prompt[-_SEED_WINDOW_BYTES:] + b"%d,%d,%d,%d" % (len(prompt), seed, limits.seed, choice)
        )
    )
    if structure is not None:
        return _prescribed(structure(rng), limits)
    natural_tokens = max(lengths.draw(rng), limits.min_tokens + 1)
    cut_short = limits.ignore_eos or natural_tokens > limits.max_tokens
    words = _words(rng, limits.max_tokens if cut_short else natural_tokens - 1)
    end, stop = _first_stop(words, limits)
    if stop is not None:
        tokens = math.ceil((end + len(stop)) / TOKEN_BYTES)
        cut = words[: tokens * TOKEN_BYTES]
        return PlannedAnswer(Tokens(cut.encode()), words[:end], "stop", stop)
    if cut_short:
        return PlannedAnswer(Tokens(words.encode()), words, "length", None)
    return PlannedAnswer(Tokens(words.encode() + TURN_END), words, "stop", None)


def _prescribed(written: Written, limits: OutputLimits) -> PlannedAnswer:
    """A text that its client prescribes ends where it is whole, whatever the usual length is."""
    text, reason, stop_reason = written.text, "stop", None
    tokens = encode(text)
    end, stop = _first_stop(text, limits)
    if stop is not None:
        tokens = encode(text[: end + len(stop)])
        text, stop_reason = text[:end], stop
    if count(tokens) >= limits.max_tokens:
        tokens = Tokens(tokens[: limits.max_tokens * TOKEN_BYTES])
        whole = tokens.rstrip(b"\xfe").decode(errors="ignore")
        text, reason, stop_reason = text[: len(whole)], "length", None
    elif stop is None:
        tokens = Tokens(tokens + TURN_END)
    return PlannedAnswer(
        tokens, text, reason, stop_reason, written.tool, written.named, prescribed=True
    )


def _first_stop(text: str, limits: OutputLimits) -> tuple[int, str | None]:
    earliest: tuple[int, str | None] = (len(text), None)
    for stop in limits.stop:
        floor = max(0, limits.min_tokens * TOKEN_BYTES - len(stop) + 1)
        found = text.find(stop, floor)
        if 0 <= found < earliest[0]:
            earliest = (found, stop)
    return earliest


def _words(rng: random.Random, tokens: int) -> str:
    if tokens <= 0:
        return ""
    text, starts = _corpus()
    first = rng.choice(_FIRST_WORDS)
    start = starts[rng.randrange(len(starts))]
    missing = (tokens - 1) * TOKEN_BYTES
    rest = text[start : start + missing]
    missing -= len(rest)
    whole, part = divmod(missing, len(text))
    return first + rest + text * whole + text[:part]


@cache
def _corpus() -> tuple[str, Sequence[int]]:
    """The text from which answers are cut, and the offsets just after each sentence's first
    word."""
    rng = random.Random(1)
    pieces: list[str] = []
    starts: list[int] = []
    size = 0
    while size < _CORPUS_TOKENS * TOKEN_BYTES:
        opening = " " + rng.choice(_STARTS)
        words = "".join(" " + word for word in rng.choices(_WORDS, k=rng.randint(4, 14)))
        sentence = f"{opening}{words} {rng.choice(_ENDS)}."
        starts.append(size + len(opening))
        pieces.append(sentence)
        size += len(sentence)
    return "".join(pieces), starts[: bisect.bisect(starts, size // 2)]
