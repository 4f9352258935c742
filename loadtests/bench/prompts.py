"""Chat requests of a given size: conversations that share their beginning, each with a new end."""

from __future__ import annotations

import random
from dataclasses import dataclass

_WORDS = (
    "prefill", "decode", "token", "gateway", "replica", "the", "of", "and", "a", "cache",
    "request", "stream", "answer", "because", "system", "user", "please", "explain", "how",
)  # fmt: skip
_MARK_DIGITS = 32
_LONGEST_MESSAGE_BYTES = 10_000
_REQUEST_LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
MODEL = "bench"


def api_key(number: int) -> str:
    """The API key of that number; nobody's outside of benchmarks."""
    return f"bench-{number:08d}"


@dataclass(frozen=True, slots=True)
class PromptShape:
    """``prompt_bytes`` of text; the first ``shared`` (0..1) of it is one of the conversations'."""

    prompt_bytes: int
    shared: float = 0.75
    conversations: int = 16


class Requests:
    """Whole HTTP/1.1 requests as bytes; no two have the same prompt."""

    def __init__(
        self,
        shape: PromptShape,
        *,
        max_tokens: int,
        stream: bool,
        seed: int,
        keys: int = 0,
        first_key: int = 0,
    ) -> None:
        """``keys``: so many API keys are shown in turn, from ``first_key``; 0: none is."""
        self._keys, self._first_key = keys, first_key
        self._rng = random.Random(seed)
        self._pieces = [
            self._render(shape, max_tokens, stream=stream) for _ in range(shape.conversations)
        ]
        self._sent = 0

    def next(self) -> bytes:
        """The next request, the conversations in turn."""
        before, after = self._pieces[self._sent % len(self._pieces)]
        mark = self._rng.getrandbits(4 * _MARK_DIGITS)
        shown = b""
        if self._keys:
            key = api_key(self._first_key + self._sent % self._keys)
            shown = b"authorization: Bearer %b\r\n" % key.encode()
        self._sent += 1
        return b"%b%b%b%032x%b" % (_REQUEST_LINE, shown, before, mark, after)

    def _render(self, shape: PromptShape, max_tokens: int, *, stream: bool) -> tuple[bytes, bytes]:
        shared_bytes = int(shape.shared * (shape.prompt_bytes - _MARK_DIGITS))
        ends_bytes = shape.prompt_bytes - _MARK_DIGITS - shared_bytes
        shared, end = (_turns(text(size, self._rng)) for size in (shared_bytes, ends_bytes))
        options = f'"max_tokens":{max_tokens}' + (',"stream":true' if stream else "")
        before = f'{{"model":"{MODEL}","messages":[{{"role":"user","content":"{shared}'
        after = f'{end}"}}],{options}}}'
        length_bytes = len(before) + _MARK_DIGITS + len(after)
        head = (
            "host: bench\r\n"
            f"content-type: application/json\r\ncontent-length: {length_bytes}\r\n\r\n"
        )
        return (head + before).encode(), after.encode()


def _turns(text: str) -> str:
    """Text broken into messages of a conversation."""
    pieces = [
        text[start : start + _LONGEST_MESSAGE_BYTES]
        for start in range(0, len(text), _LONGEST_MESSAGE_BYTES)
    ]
    roles = ('"},{"role":"assistant","content":"', '"},{"role":"user","content":"')
    return "".join(
        piece if index == 0 else roles[index % 2] + piece for index, piece in enumerate(pieces)
    )


def text(size_bytes: int, rng: random.Random) -> str:
    """Words at random."""
    return " ".join(rng.choices(_WORDS, k=size_bytes // 2 + 1))[:size_bytes]
