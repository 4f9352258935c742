"""Which tool an answer calls: the fields of the three APIs."""

from collections.abc import Mapping, Sequence
from typing import Final

import xxhash

from loadtests.sim.serving.structures import Structure, tool_arguments
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.structure import checked

_ANYTHING: Final[Mapping[str, object]] = {"type": "object", "properties": {}}
_RESULTS: Final = ("tool", "function", "function_call_output")


def chat_tools(body: Body) -> Structure | None:
    """Of chat completions. None: the answer is text. Raises ApiError."""
    tools = {}
    for tool in _objects(body, "tools"):
        function = tool.get("function")
        if isinstance(function, dict):
            tools[_name(function)] = function.get("parameters") or _ANYTHING
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        function = choice.get("function")
        return _named(tools, _name(function if isinstance(function, dict) else choice))
    return _wanted(tools, choice, answered=_answered(body.objects("messages")))


def response_tools(body: Body) -> Structure | None:
    """Of the Responses API. Raises ApiError."""
    tools = {
        _name(tool): tool.get("parameters") or _ANYTHING
        for tool in _objects(body, "tools")
        if tool.get("type") == "function"
    }
    choice, given = body.get("tool_choice"), body.get("input")
    if isinstance(choice, dict):
        return _named(tools, _name(choice)) if choice.get("type") == "function" else None
    items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    return _wanted(tools, choice, answered=_answered(items))


def message_tools(body: Body) -> Structure | None:
    """Of Anthropic's Messages API. Raises ApiError."""
    tools = {_name(tool): tool.get("input_schema") or _ANYTHING for tool in _objects(body, "tools")}
    choice = body.part("tool_choice")
    kind = choice.text("type", "auto")
    if kind == "tool":
        return _named(tools, choice.text("name"))
    content = body.objects("messages")[-1].get("content")
    parts = content if isinstance(content, list) else []
    answered = any(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts)
    return _wanted(tools, "required" if kind == "any" else kind, answered=answered)


def call_id(request_id: str, choice: int) -> str:
    """Of a call: the same request has the same one in its stream and as a whole."""
    return xxhash.xxh3_128_hexdigest(f"{request_id},{choice}".encode())


def _wanted(tools: Mapping[str, object], choice: object, *, answered: bool) -> Structure | None:
    """By a choice in a word. A model that may choose calls a tool, unless it was just told what one
    has returned: so agents come to an end."""
    match choice:
        case "none":
            return None
        case "required" if not tools:
            raise ApiError("When using `tool_choice`, `tools` must be set.", param="tool_choice")
        case None | "auto" if not tools or answered:
            return None
        case None | "auto" | "required":
            return checked(lambda: tool_arguments(tools, named=False), "tools")
    raise ApiError(
        f"tool_choice: Input should be 'none', 'auto' or 'required', got {choice!r:.80}",
        param="tool_choice",
    )


def _named(tools: Mapping[str, object], name: str) -> Structure:
    if name not in tools:
        raise ApiError(
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
            param="tool_choice",
        )
    return checked(lambda: tool_arguments({name: tools[name]}, named=True), "tools")


def _answered(messages: Sequence[Mapping[str, object]]) -> bool:
    last = messages[-1] if messages else {}
    return last.get("role") in _RESULTS or last.get("type") in _RESULTS


def _objects(body: Body, name: str) -> list[Mapping[str, object]]:
    return body.objects(name) if body.get(name) else []


def _name(tool: Mapping[str, object]) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise ApiError("tools: each tool needs a name", param="tools")
    return name
