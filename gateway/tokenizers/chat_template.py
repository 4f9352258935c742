"""A model's chat template: from a chat request to the text that its engine tokenizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from gateway.tokenizers.conversation import (
    ContentFormat,
    Conversation,
    Unrenderable,
    conversation_of,
    tools_of,
    variables_of,
    without_developer,
)

_END: Final = "END-OF-THE-FINAL-MESSAGE "
"""Put behind the message that is to be continued, and found again in the text."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """How an engine renders conversations. Can be sent to another process."""

    source: str
    with_tools: str | None = None
    """Another one for requests with tools; None: the same."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """By name, `bos_token` for instance."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Variables that requests do not set."""
    content_format: ContentFormat | None = None
    """None: as the template seems to want it."""

    def check(self) -> None:
        """Raises ValueError for what is no template."""
        from gateway.tokenizers.jinja import check

        for source in {self.source, self.with_tools or self.source}:
            check(source)

    def text(self, document: Mapping[str, object]) -> str:
        """Of a chat request's body. Raises Unrenderable."""
        from gateway.tokenizers.jinja import format_of, render

        tools = tools_of(document)
        source = self.with_tools if tools is not None and self.with_tools else self.source
        content_format = self.content_format or format_of(source)
        conversation = conversation_of(document.get("messages"), content_format)
        if "developer" in (one["role"] for one in conversation) and not (
            "'developer'" in source or '"developer"' in source
        ):
            conversation = without_developer(conversation)
        variables = variables_of(document, self.defaults)
        goes_on = variables.pop("continue_final_message", False)
        if goes_on:
            conversation = _marked(conversation)
        values = {"documents": None, **self.special_tokens, **variables}
        text = render(source, values | {"messages": conversation, "tools": tools})
        return _up_to_mark(text) if goes_on else text


def text_of_body(body: bytes, template: ChatTemplate) -> str | None:
    """Of a chat request; None: not known. For a process that works on large bodies."""
    try:
        document = orjson.loads(body)
        return template.text(document) if isinstance(document, dict) else None
    except (Unrenderable, orjson.JSONDecodeError):
        return None


def _marked(conversation: Conversation) -> Conversation:
    last = dict(conversation[-1])
    content = last.get("content")
    if isinstance(content, str):
        last["content"] = content + _END
    elif isinstance(content, list) and content:
        last["content"] = [*content[:-1], {**content[-1], "text": content[-1]["text"] + _END}]
    else:
        raise Unrenderable("continue_final_message")
    return [*conversation[:-1], last]


def _up_to_mark(text: str) -> str:
    at = text.rfind(_END.strip())
    if at < 0:
        raise Unrenderable("continue_final_message")
    return text[:at] if text.startswith(_END, at) else text[:at].rstrip()
