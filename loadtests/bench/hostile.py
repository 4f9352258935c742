"""Bodies that are valid, or nearly so, and as dear to read as their form allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class HostileBody:
    """One way to make a gateway work."""

    name: str
    path: str
    make: Callable[[int], bytes]
    """A body of about so many bytes, for a model of the name that `corpus` was asked for."""


CHAT: Final = "/v1/chat/completions"
_COMPLETIONS: Final = "/v1/completions"
_HI: Final = b'"messages":[{"role":"user","content":"hi"}]'


def corpus(model: str) -> Iterator[HostileBody]:
    """The bodies, for a gateway that serves ``model``."""
    name = b'"model":"%s"' % model.encode()

    def many(before: bytes, item: bytes, after: bytes) -> Callable[[int], bytes]:
        """``item`` as often as it goes into the list between the two."""

        def make(size: int) -> bytes:
            count = max(1, size // (len(item) + 1))
            return b"{" + name + before + b",".join([item] * count) + after + b"}"

        return make

    def text(before: bytes, piece: bytes, after: bytes) -> Callable[[int], bytes]:
        """``piece`` over and over inside of a string."""
        return lambda size: b"{" + name + before + piece * (size // len(piece)) + after + b"}"

    def nested(before: bytes, depth: int, after: bytes) -> Callable[[int], bytes]:
        return many(before, b"[" * depth + b"]" * depth, after)

    def query(size: int) -> bytes:
        documents = b",".join([b'"a"'] * (size // 8))
        head = b'{%s,"query":"%s",' % (name, b"q" * (size // 2))
        return head + b'"documents":[' + documents + b"]}"

    def deep(size: int) -> bytes:
        return b'{%s,"x":%s%s,%s}' % (name, b"[" * (size // 2), b"]" * (size // 2), _HI)

    def keys(size: int) -> bytes:
        extra = b",".join(b'"k%d":0' % number for number in range(size // 12))
        return b"{%s,%s,%s}" % (name, _HI, extra)

    yield HostileBody("one long text", CHAT, text(b',"messages":[{"role":"user","content":"',
        b"abc, def ", b'"}]'))  # fmt: skip
    yield HostileBody("one long text of escapes", CHAT,
        text(b',"messages":[{"role":"user","content":"', rb"\u00e9\n", b'"}]'))  # fmt: skip
    yield HostileBody("brackets in a text", CHAT,
        text(b',"messages":[{"role":"user","content":"', b"[{,", b'"}]'))  # fmt: skip
    yield HostileBody("many messages", CHAT,
        many(b',"messages":[', b'{"role":"user","content":"a"}', b"]"))  # fmt: skip
    yield HostileBody("many empty parts", CHAT,
        many(b',"messages":[{"role":"user","content":[', b'{"type":"x"}', b"]}]"))  # fmt: skip
    yield HostileBody("many images", CHAT, many(b',"messages":[{"role":"user","content":[',
        b'{"type":"image_url","image_url":"a"}', b"]}]"))  # fmt: skip
    yield HostileBody("many tools", CHAT,
        many(b"," + _HI + b',"tools":[', b'{"type":"function"}', b"]"))  # fmt: skip
    yield HostileBody("a tool with many members", CHAT,
        many(b"," + _HI + b',"tools":[{"a":[', b"{}", b"]}]"))  # fmt: skip
    yield HostileBody("many tool calls", CHAT, many(
        b',"messages":[{"role":"assistant","tool_calls":[', b'{"id":"1"}', b"]}]"))  # fmt: skip
    yield HostileBody("many values that nobody reads", CHAT,
        many(b"," + _HI + b',"x":[', b'{"a":{}}', b"]"))  # fmt: skip
    yield HostileBody("many members", CHAT, keys)
    yield HostileBody("many names of the model", CHAT,
        many(b"," + _HI + b',"x":[', name.join((b"{", b"}")), b"]"))  # fmt: skip
    yield HostileBody("many stream options", CHAT, many(b"," + _HI + b',"stream":true,'
        b'"stream_options":{},"x":[', b'{"stream_options":{}}', b"]"))  # fmt: skip
    yield HostileBody("many deep lists", CHAT, nested(b"," + _HI + b',"x":[', 900, b"]"))
    yield HostileBody("nested without end", CHAT, deep)
    yield HostileBody("many prompts of a letter", _COMPLETIONS,
        many(b',"prompt":[', b'"a"', b"]"))  # fmt: skip
    yield HostileBody("many prompts of an id", _COMPLETIONS,
        many(b',"prompt":[', b"[1]", b"]"))  # fmt: skip
    yield HostileBody("many token ids", _COMPLETIONS, many(b',"prompt":[', b"1", b"]"))
    yield HostileBody("many prompts of 300 bytes", _COMPLETIONS,
        many(b',"prompt":[', b'"%s"' % (b"p" * 300), b"]"))  # fmt: skip
    yield HostileBody("many inputs", "/v1/embeddings", many(b',"input":[', b'"a"', b"]"))
    yield HostileBody("many items", "/v1/responses",
        many(b',"input":[', b'{"type":"a"}', b"]"))  # fmt: skip
    yield HostileBody("many parts of a message", "/v1/messages", many(
        b',"max_tokens":1,"messages":[{"role":"user","content":[',
        b'{"type":"tool_result","content":[]}', b"]}]"))  # fmt: skip
    yield HostileBody("a long query and many documents", "/v1/rerank", query)
    yield HostileBody("many documents", "/v1/rerank",
        many(b',"query":"q","documents":[', b'{"text":"a"}', b"]"))  # fmt: skip
    yield HostileBody("many pairs", "/v1/score",
        many(b',"text_1":"%s","text_2":[' % (b"q" * 50_000), b'"a"', b"]"))  # fmt: skip
    yield HostileBody("a long query and many items", "/generative_scoring", lambda size: query(
        size).replace(b'"documents"', b'"items"'))  # fmt: skip
    yield HostileBody("many texts to count", "/tokenize", many(b',"prompt":[', b'"a"', b"]"))
    yield HostileBody("many texts", "/generate", many(b',"text":[', b'"a"', b"]"))
    yield HostileBody("nested media", "/generate",
        many(b',"text":"a","image_data":[', b"[[[1]]]", b"]"))  # fmt: skip
    yield HostileBody("many adapters", "/generate",
        many(b',"text":"a","lora_path":[', b'"a"', b"]"))  # fmt: skip
    yield HostileBody("many sampling parameters", "/generate",
        many(b',"text":"a","sampling_params":[', b'{"n":1}', b"]"))  # fmt: skip
    yield HostileBody(
        "a path without a prompt", "/v1/images/generations", many(b',"x":[', b'{"a":{}}', b"]")
    )
