"""A stand-in for a tokenizer: every token is exactly four bytes, so prompts are plain bytes.

A text is cut into pieces of four bytes, from the beginning of its message; the last piece is padded
with a byte that UTF-8 never uses. Markers between messages are four bytes that UTF-8 never uses
either. So text, tokens and ids are three views of the same bytes (an id is the token's bytes as an
unsigned little-endian number), and a conversation that extends another one begins with its tokens.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NewType

import orjson
import xxhash

Tokens = NewType("Tokens", bytes)
"""A sequence of tokens; its length in bytes is TOKEN_BYTES times its length in tokens."""

TOKEN_BYTES = 4
IMAGE_TOKENS = 64
MAX_TOKEN_ID = 2**32 - 1

NO_TOKENS = Tokens(b"")
TURN_START = Tokens(b"\xff\xff\xff\x01")
TURN_END = Tokens(b"\xff\xff\xff\x02")
"""Ends a message; it is also the model's end-of-sequence token."""

_NAME_MASK = (1 << 63) - 1
_PAD = b"\xfe"
_IMAGE = b"\xfd"


def count(tokens: bytes) -> int:
    """Length in tokens."""
    return len(tokens) // TOKEN_BYTES


def encode(text: str) -> Tokens:
    """Tokens of a text without markers."""
    data = text.encode()
    return Tokens(data + _PAD * (-len(data) % TOKEN_BYTES))


def decode(tokens: bytes) -> str:
    """Text of tokens; markers become visible, bytes that are not UTF-8 become U+FFFD."""
    visible = tokens.replace(TURN_START, b"<|im_start|>").replace(TURN_END, b"<|im_end|>")
    return visible.replace(_PAD, b"").decode(errors="replace")


def from_ids(ids: Sequence[int]) -> Tokens:
    """Tokens of ids.

    Raises OverflowError for an id outside 0..MAX_TOKEN_ID and TypeError for one that is no integer.
    """
    return Tokens(array("I", ids).tobytes())


def to_ids(tokens: bytes) -> list[int]:
    """Ids of tokens, each 0..MAX_TOKEN_ID."""
    return memoryview(tokens).cast("I").tolist()


def prefix_salt(adapter: str | None, adapter_path: str, cache_salt: str) -> int:
    """The start of a chain of block names: prefixes with different salts never match."""
    return xxhash.xxh3_64_intdigest(f"{adapter or ''}\0{adapter_path}\0{cache_salt}".encode())


def block_ids(tokens: bytes, salt: int, block_tokens: int) -> tuple[int, ...]:
    """Names of the full KV blocks: 63 bits, each hashed with the name before it, the first with
    salt.

    So equal names mean equal tokens from the beginning on, and equal salts.
    """
    size = block_tokens * TOKEN_BYTES
    view = memoryview(tokens)
    digest = xxhash.xxh3_64_intdigest
    names: list[int] = []
    name = salt
    for end in range(size, len(tokens) + 1, size):
        name = digest(view[end - size : end], name) & _NAME_MASK
        names.append(name)
    return tuple(names)


def render_chat(
    messages: Iterable[Mapping[str, object]],
    tools: object = None,
    *,
    generation_prompt: bool = True,
) -> Tokens:
    """Tokens of a conversation; they end where the assistant's answer begins.

    Content is null, a string or a list of parts. The texts of parts are joined by a newline; an
    image or sound counts as IMAGE_TOKENS tokens that depend on its address or data.
    """
    pieces: list[bytes] = []
    if tools:
        pieces += [TURN_START, encode("tools"), encode(_json(tools)), TURN_END]
    for message in messages:
        pieces += [TURN_START, encode(str(message.get("role", "user")))]
        pieces += _content(message.get("content"))
        calls = message.get("tool_calls")
        if calls:
            pieces.append(encode(_json(calls)))
        pieces.append(TURN_END)
    if generation_prompt:
        pieces += [TURN_START, encode("assistant")]
    return Tokens(b"".join(pieces))


def _content(content: object) -> list[bytes]:
    if content is None:
        return []
    if isinstance(content, str):
        return [encode(content)]
    if not isinstance(content, list):
        return [encode(_json(content))]
    texts: list[str] = []
    media: list[bytes] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, dict) and part.get("type") in ("tool_use", "tool_result"):
            texts.append(_json(part))
        else:
            digest = xxhash.xxh3_64_digest(_json(part).encode())[: TOKEN_BYTES - 1]
            media.append((_IMAGE + digest) * IMAGE_TOKENS)
    return [*media, encode("\n".join(texts))] if texts else media


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
