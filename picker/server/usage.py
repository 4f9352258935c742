"""Token usage from responses, in the shapes of OpenAI, the Responses API and Anthropic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

HAS_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')


@dataclass(slots=True)
class Usage:
    """Token counts of one response as far as they were reported; the last report wins."""

    input_tokens: int | None = None
    """Of the whole prompt, cached or not."""
    output_tokens: int | None = None
    cached_tokens: int | None = None

    def read(self, text: bytes) -> None:
        """Take what a JSON answer or an event of a stream reports; invalid JSON reports nothing."""
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            return
        if not isinstance(document, dict):
            return
        # In streams: response.completed of the Responses API, Anthropic's message_start.
        for holder in (document, document.get("response"), document.get("message")):
            usage = holder.get("usage") if isinstance(holder, dict) else None
            if isinstance(usage, dict):
                self._take(usage)

    def _take(self, usage: Mapping[str, object]) -> None:
        whole = _count(usage, "prompt_tokens")
        given = _count(usage, "input_tokens")
        read = _count(usage, "cache_read_input_tokens")
        if whole is None and given is not None:
            # Anthropic leaves cached and newly cached tokens out of input_tokens.
            created = _count(usage, "cache_creation_input_tokens")
            whole = given + (read or 0) + (created or 0)
        if whole is not None:
            self.input_tokens = whole
        for name in ("completion_tokens", "output_tokens"):
            produced = _count(usage, name)
            if produced is not None:
                self.output_tokens = produced
        cached = read
        for key in ("prompt_tokens_details", "input_tokens_details"):
            details = usage.get(key)
            if cached is None and isinstance(details, dict):
                cached = _count(details, "cached_tokens")
        if cached is not None:
            self.cached_tokens = cached


def _count(usage: Mapping[str, object], name: str) -> int | None:
    value = usage.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None
