"""Rendering of messages: roles, content parts, tools and media as bytes, in template order."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import xxhash

_TURN = "\x1e"
_FIELD = "\x1f"
_OTHER = b"\x1f"
"""Ahead of what is no text."""

_PREAMBLE = (
    "previous_response_id",
    "chat_template",
    "chat_template_kwargs",
    "reasoning_effort",
    "documents",
    "tools",
    "functions",
)
"""Parameters that chat templates render ahead of the conversation."""
_ANY_PREAMBLE = frozenset(_PREAMBLE)

_TEXT_KEYS = ("text", "refusal", "thinking")
_TEXT_KINDS = frozenset(
    {"text", "input_text", "output_text", "summary_text", "reasoning_text", *_TEXT_KEYS}
)
_MORE_OF_A_MESSAGE = (
    "reasoning_content",
    "reasoning",
    "tool_calls",
    "function_call",
    "tool_call_id",
    "tools",
)
"""Beside its content, what chat templates render of a message."""
_ANY_MORE = frozenset(_MORE_OF_A_MESSAGE)
_MEDIA_KEYS = ("image_url", "video_url", "audio_url", "input_audio")
"""Of a part without a type, as vLLM reads it."""


class InvalidPrompt(ValueError):  # noqa: N818 - named by what the client sent
    """The body's prompt has a wrong type or is empty: 400, with the parameter that is wrong."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class Rendering:
    """Collects the chunks of one sequence."""

    __slots__ = ("chunks", "media_items")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.media_items = 0

    def turn(self, role: str, name: object) -> None:
        """Begin a message."""
        self.text(f"{_TURN}{role}{_FIELD}")
        if isinstance(name, str) and name:
            self.text(f"{name}{_FIELD}")

    def text(self, text: str) -> None:
        """As it stands."""
        self.chunks.append(text.encode("utf-8", "surrogatepass"))

    def content(self, content: object, where: str, *, in_tool_result: bool = False) -> None:
        """A message's content: null, a string, or a list of parts. Raises InvalidPrompt."""
        if isinstance(content, str):
            self.text(content)
        elif isinstance(content, list):
            for part in content:
                self._part(part, where, in_tool_result=in_tool_result)
        elif content is not None:
            raise InvalidPrompt(f"{where} must be a string, a list of parts or null", where)

    def media(self, data: str) -> None:
        """An image, audio clip or the like: its digest, whatever its size."""
        self.media_items += 1
        digest = xxhash.xxh3_64_digest(data.encode("utf-8", "surrogatepass"))
        self.chunks.append(_OTHER + digest)

    def json(self, value: object) -> None:
        """Any other value that the template renders, tool calls for instance."""
        try:
            self.chunks.append(_OTHER + orjson.dumps(value))
        except orjson.JSONEncodeError:  # it was JSON, so only its depth can be wrong
            raise InvalidPrompt("the request is nested too deeply", None) from None

    def _part(self, part: object, where: str, *, in_tool_result: bool) -> None:
        if isinstance(part, str):
            self.text(part)
            return
        if not isinstance(part, dict):
            raise InvalidPrompt(f"{where}: each part must be an object with a type", where)
        kind = part.get("type")
        if kind is not None and not isinstance(kind, str):
            raise InvalidPrompt(f"{where}: the type of a part must be a string", where)
        # A text beside it must not hide what an engine reads by the part's type.
        if kind in _TEXT_KINDS or (kind is None and not any(map(part.get, _MEDIA_KEYS))):
            for key in _TEXT_KEYS:
                text = part.get(key)
                if isinstance(text, str):
                    self.text(text)
                    return
        if kind in ("text", "input_text", "output_text"):
            raise InvalidPrompt(f"{where}: a part of type {kind} needs its text as a string", where)
        if kind == "tool_result" and not in_tool_result:
            self.json(part.get("tool_use_id"))
            self.content(part.get("content"), where, in_tool_result=True)
        elif kind == "document" and (text := _plain_text(part)) is not None:
            self.text(text)
        elif kind == "tool_use":
            self.json([part.get("name"), part.get("input")])
        else:
            data = _media_data(part)
            if data is None:
                self.json({key: value for key, value in part.items() if key != "cache_control"})
            else:
                self.media(data)


def render_preamble(body: Mapping[str, object], out: Rendering) -> None:
    """Tool definitions and whatever else stands before the first message."""
    if _ANY_PREAMBLE.isdisjoint(body):
        return
    for key in _PREAMBLE:
        value = body.get(key)
        if value:
            out.json(value)


def render_messages(messages: object, out: Rendering) -> None:
    """OpenAI's or Anthropic's ``messages``. Raises InvalidPrompt when empty or of a wrong type."""
    if not isinstance(messages, list) or not messages:
        raise InvalidPrompt("messages must be a list of messages, not empty", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidPrompt(f"messages[{index}] must be an object", "messages")
        _render_message(message, "messages", index, out)


def render_items(items: list[object], out: Rendering) -> None:
    """The ``input`` items of the Responses API. Raises InvalidPrompt for a wrong type."""
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidPrompt(f"input[{index}] must be an object", "input")
        if "role" in item and item.get("type", "message") == "message":
            _render_message(item, "input", index, out)
        elif item.get("type") == "function_call_output":
            out.turn("tool", item.get("call_id"))
            output = item.get("output")
            if isinstance(output, str | list):
                out.content(output, f"input[{index}].output")
            else:
                out.json(output)
        else:
            out.turn(str(item.get("type", "")), item.get("name"))
            out.json({k: v for k, v in item.items() if k not in ("id", "status")})


def as_bytes(value: object, param: str) -> bytes:
    """A text or a text-like object of rerank and score. Raises InvalidPrompt."""
    if isinstance(value, str) and value:
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict):
        out = Rendering()
        content = value.get("content")
        out.content(content if isinstance(content, list) else [value], param)
        return b"".join(out.chunks)
    raise InvalidPrompt(f"{param} must be text, not empty", param)


def _render_message(message: Mapping[str, object], param: str, index: int, out: Rendering) -> None:
    """``message``: number ``index`` of the list ``param``. Most are a role and a text."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        where = f"{param}[{index}].role"
        raise InvalidPrompt(f"{where} must be a string, not empty", where)
    out.turn(role, message.get("name"))
    if isinstance(content, str):
        out.text(content)
    elif content is not None:
        out.content(content, f"{param}[{index}].content")
    if _ANY_MORE.isdisjoint(message):
        return
    for key in _MORE_OF_A_MESSAGE:
        value = message.get(key)
        if value:
            out.json(value)


def _plain_text(document: Mapping[str, object]) -> str | None:
    """Of Anthropic's document that is text; None for any other."""
    source = document.get("source")
    if not isinstance(source, dict) or source.get("type") != "text":
        return None
    text = source.get("data")
    return text if isinstance(text, str) else None


def _media_data(part: Mapping[str, object]) -> str | None:
    """What identifies a media part: its url, data or file id; None when it is no media part.

    OpenAI: ``image_url``, ``input_audio``, ``file`` and vLLM's ``video_url``, ``audio_url``;
    Responses: ``input_image``, ``input_file``; Anthropic: ``image`` and ``document`` sources.
    """
    kind = part.get("type")
    inner = part.get("source") or (part.get(kind) if isinstance(kind, str) else None) or part
    if isinstance(inner, str):
        return inner
    if isinstance(inner, dict):
        for key in ("url", "data", *_MEDIA_KEYS, "file_data", "file_id", "file_url", "content"):
            value = inner.get(key)
            if isinstance(value, dict):
                value = value.get("url") or value.get("data")
            if isinstance(value, str):
                return value
    return None
