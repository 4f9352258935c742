"""Token usage from responses, in the shapes of OpenAI, the Responses API, Anthropic and SGLang."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

MAX_REPORTED: Final = 2**31
"""A count this large is ignored, as if it had not been reported."""


def is_possible(tokens: float) -> bool:
    """Whether a replica can have counted so many."""
    if 0 <= tokens < MAX_REPORTED:
        return True
    log.warning("a replica reports a usage of %g tokens: it is not believed", tokens)
    return False


@dataclass(slots=True)
class ReportedUsage:
    """Token counts of one response as far as they were reported; the last report wins."""

    input_tokens: int | None = None
    """Of the whole prompt, cached or not."""
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    """Part of the output."""

    def take(self, document: object) -> None:
        """What a JSON answer or an event of a stream reports."""
        if not isinstance(document, dict):
            return
        meta = document.get("meta_info")
        if isinstance(meta, dict):
            self._take_meta(meta)
        # In streams: response.completed of the Responses API, Anthropic's message_start, whose
        # output is 0 or 1: a stream that is broken off would count as that.
        for place in ("", "response", "message"):
            holder = document.get(place) if place else document
            usage = holder.get("usage") if isinstance(holder, dict) else None
            if isinstance(usage, dict):
                self._take(usage, premature=place == "message")

    def _take(self, usage: Mapping[str, object], *, premature: bool) -> None:
        whole = _count(usage, "prompt_tokens")
        given = _count(usage, "input_tokens")
        read = _count(usage, "cache_read_input_tokens")
        if whole is None and given is not None:
            # Anthropic leaves cached and newly cached tokens out of input_tokens; nobody leaves
            # them out of prompt_tokens.
            created = _count(usage, "cache_creation_input_tokens")
            whole = given + (read or 0) + (created or 0)
        if whole is not None:
            self.input_tokens = whole
        for name in ("completion_tokens", "output_tokens"):
            produced = _count(usage, name)
            if produced is not None and not premature:
                self.output_tokens = produced
        cached = read
        for key in ("prompt_tokens_details", "input_tokens_details"):
            if cached is None:
                cached = _detail(usage, key, "cached_tokens")
        if cached is not None:
            self.cached_tokens = cached
        for key in ("completion_tokens_details", "output_tokens_details"):
            reasoning = _detail(usage, key, "reasoning_tokens")
            if reasoning is not None:
                self.reasoning_tokens = reasoning

    def _take_meta(self, meta: Mapping[str, object]) -> None:
        """SGLang's own API: so far, in each event of a stream."""
        given, output = _count(meta, "prompt_tokens"), _count(meta, "completion_tokens")
        cached = _count(meta, "cached_tokens")
        if given is not None:
            self.input_tokens = given
        if output is not None:
            self.output_tokens = output
        if cached is not None:
            self.cached_tokens = cached


def produced(reported: int | None, streamed: int, *, whole: bool) -> int | None:
    """Tokens of output that a response reported; None: none. One that broke off may have reported
    less than it had streamed: in mid-stream usage is that of one choice, of several."""
    return reported if reported is None or whole else max(reported, streamed)


def is_content(name: str, document: object) -> bool:
    """An event of a stream that carries output, one token as a rule. ``name``: the event's, ""
    without one. On the fast path ``filters.lua`` goes by the same signs."""
    if not isinstance(document, dict) or document.get("error") is not None:
        return False
    choices = document.get("choices")
    if not name and isinstance(choices, list):
        return bool(choices) and not _opens_choice(choices[0])
    kind = name or document.get("type", "delta")
    # Anthropic's and the Responses API name their events, and only some are output.
    if not isinstance(kind, str) or not kind.endswith("delta") or kind == "message_delta":
        return False
    delta = document.get("delta")
    return not (isinstance(delta, dict) and delta.get("type") == "signature_delta")


def _opens_choice(choice: object) -> bool:
    """A role and nothing else: no token is in it yet."""
    delta = choice.get("delta") if isinstance(choice, dict) else None
    if not isinstance(delta, dict) or delta.get("role") is None:
        return False
    return not any(value for key, value in delta.items() if key != "role")


def _detail(usage: Mapping[str, object], part: str, name: str) -> int | None:
    details = usage.get(part)
    return _count(details, name) if isinstance(details, dict) else None


def _count(usage: Mapping[str, object], name: str) -> int | None:
    value = usage.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and is_possible(value):
        return value
    return None
