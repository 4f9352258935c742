"""What vLLM makes of a chat request before its chat template sees it: messages, tools, variables.

Checked against vLLM 0.32. Whatever is not plain text raises Unrenderable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

Conversation = list[dict[str, object]]

_TEXTS: Final = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Kinds of text parts, and the member that each has its text in."""
_MAY_LACK_TEXT: Final = frozenset({"text", "refusal"})
_BILLING: Final = "x-anthropic-billing-header"
"""A line of a coding client that changes with each request: vLLM leaves it out."""
_TOOL_MEMBERS: Final = ("name", "description", "parameters", "strict", "defer_loading")
_MAY_BE_NULL: Final = frozenset({"description", "parameters"})
_NOT_VARIABLES: Final = frozenset(
    {
        *("chat_template", "messages", "conversation", "tools", "tokenize", "return_dict"),
        *("padding", "truncation", "max_length", "return_tensors", "tokenizer_kwargs"),
        "return_assistant_tokens_mask",
    }
)
"""Names that mean something else to whoever applies a template."""


class Unrenderable(ValueError):  # noqa: N818 - a fact about a request
    """What the engine makes of this request is not known here."""


class ContentFormat(Enum):
    """How a template takes the content of messages."""

    STRING = "string"
    PARTS = "openai"


def conversation_of(messages: object, content_format: ContentFormat) -> Conversation:
    """The messages as a template gets them. Raises Unrenderable."""
    if not isinstance(messages, list) or not messages:
        raise Unrenderable("messages")
    return [_message(message, content_format) for message in messages]


def without_developer(conversation: Conversation) -> Conversation:
    """For a template that does not know the role: developers' messages are the system's, of which
    there is one, at the beginning."""
    made = [
        {**{key: value for key, value in message.items() if key != "tools"}, "role": "system"}
        if message["role"] == "developer"
        else message
        for message in conversation
    ]
    system = [index for index, message in enumerate(made) if message["role"] == "system"]
    if system in ([], [0]):
        return made
    contents = [_joined(made[index].get("content")) for index in system]
    merged: dict[str, object] = {"role": "system", "content": "\n\n".join(filter(None, contents))}
    return [merged, *(message for message in made if message["role"] != "system")]


def tools_of(document: Mapping[str, object]) -> list[dict[str, object]] | None:
    """Tool definitions, with the members that vLLM knows, in its order. Raises Unrenderable."""
    tools = document.get("tools")
    if tools is None:
        return None
    if not isinstance(tools, list) or not tools:
        raise Unrenderable("tools")
    return [_tool(tool) for tool in tools]


def variables_of(
    document: Mapping[str, object], defaults: Mapping[str, object]
) -> dict[str, object]:
    """What a template gets besides messages and tools. ``defaults``: the engine's own. Raises
    Unrenderable."""
    given = document.get("chat_template_kwargs")
    if given is not None and not isinstance(given, dict):
        raise Unrenderable("chat_template_kwargs")
    own = dict(given or {})
    if document.get("chat_template") is not None or not _NOT_VARIABLES.isdisjoint(own):
        raise Unrenderable("a template of its own")
    effort = document.get("reasoning_effort")
    said: dict[str, object] = {
        "add_generation_prompt": _flag(document, "add_generation_prompt", default=True),
        "continue_final_message": _flag(document, "continue_final_message", default=False),
        "documents": document.get("documents"),
        "reasoning_effort": effort,
    }
    if effort is not None and "enable_thinking" not in own:
        said["enable_thinking"] = effort != "none"
    asked = own | {key: value for key, value in said.items() if value not in (None, "auto")}
    return dict(defaults) | {
        key: value for key, value in asked.items() if value not in (None, "auto")
    }


def _flag(document: Mapping[str, object], key: str, *, default: bool) -> bool:
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Unrenderable(key)
    return value


def _message(message: object, content_format: ContentFormat) -> dict[str, object]:
    if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
        raise Unrenderable("messages")
    texts = _texts(message.get("content"))
    if role == "system":
        texts = [kept for text in texts if (kept := _without_billing(text)) is not None]
    made: dict[str, object] = {"role": role}
    if content_format is ContentFormat.STRING:
        made["content"] = "\n".join(filter(None, texts))
    elif role == "tool":
        made["content"] = "\n".join(texts)
    else:
        made["content"] = [{"type": "text", "text": text} for text in texts]
    if role == "assistant":
        calls = message.get("tool_calls")
        if calls:
            made["tool_calls"] = _tool_calls(calls)
        reasoning = message.get("reasoning")
        reasoning = message.get("reasoning_content") if reasoning is None else reasoning
        if reasoning is not None:
            made["reasoning"] = made["reasoning_content"] = reasoning
    elif role == "tool" and "tool_call_id" in message:
        made["tool_call_id"] = message["tool_call_id"]
    for key in ("name", "task"):
        if isinstance(message.get(key), str):
            made[key] = message[key]
    if role == "developer":
        made["tools"] = message.get("tools")
    return made


def _texts(content: object) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise Unrenderable("content")
    return [text for part in content if (text := _text(part)) is not None]


def _text(part: object) -> str | None:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in _TEXTS:
        raise Unrenderable("a part that is no text")
    text = part.get(_TEXTS[kind])
    if text is None and kind in _MAY_LACK_TEXT:
        return None
    if not isinstance(text, str):
        raise Unrenderable("a part without its text")
    return text


def _without_billing(text: str) -> str | None:
    if not text.startswith(_BILLING):
        return text
    return text.partition("\n")[2] or None


def _tool_calls(calls: object) -> list[dict[str, object]]:
    if not isinstance(calls, list):
        raise Unrenderable("tool_calls")
    return [_tool_call(call) for call in calls]


def _tool_call(call: object) -> dict[str, object]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise Unrenderable("tool_calls")
    if call.get("type", "function") != "function":
        raise Unrenderable("tool_calls")
    made = {key: call[key] for key in ("id", "function", "type") if key in call}
    arguments = {"arguments": _arguments(function.get("arguments"))}
    made["function"] = arguments | {"name": function["name"]} if "name" in function else arguments
    return made


def _arguments(given: object) -> dict[str, object]:
    """Templates take an object; what is none counts as an empty one."""
    if isinstance(given, str) and given:
        try:
            given = json.loads(given)
        except (json.JSONDecodeError, RecursionError):
            return {}
    return given if isinstance(given, dict) else {}


def _tool(tool: object) -> dict[str, object]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or not isinstance(function, dict):
        raise Unrenderable("tools")
    defer = tool.get("defer_loading")
    known = {
        key: function.get(key)
        for key in _TOOL_MEMBERS
        if key in _MAY_BE_NULL or function.get(key) is not None
    }
    if defer is not None:
        known.setdefault("defer_loading", defer)
    made: dict[str, object] = {"type": "function", "function": known}
    return made if defer is None else made | {"defer_loading": defer}


def _joined(content: object) -> str:
    if isinstance(content, str):
        return content
    parts: Sequence[object] = content if isinstance(content, list) else ()
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, dict))
