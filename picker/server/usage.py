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
    """Token counts of one response as far as they were reported. They add up during an answer: the
    last report counts, but for a 0 after more."""

    input_tokens: int | None = None
    """Of the whole prompt, cached or not."""
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    """Part of the output."""

    def take(self, document: object) -> bool:
        """What a JSON answer or an event of a stream reports. False: nothing."""
        if not isinstance(document, dict):
            return False
        meta = document.get("meta_info")
        reported = isinstance(meta, dict)
        if isinstance(meta, dict):
            self._take_meta(meta)
        # In streams: response.completed of the Responses API, Anthropic's message_start, whose
        # output is 0 or 1: a stream that is broken off would count as that.
        for place in ("", "response", "message"):
            holder = document.get(place) if place else document
            usage = holder.get("usage") if isinstance(holder, dict) else None
            if isinstance(usage, dict):
                self._take(usage, premature=place == "message")
                reported = True
        return reported

    def _take(self, usage: Mapping[str, object], *, premature: bool) -> None:
        whole = _count(usage, "prompt_tokens")
        given = _count(usage, "input_tokens")
        read = _count(usage, "cache_read_input_tokens")
        if whole is None and given is not None:
            # Anthropic leaves cached and newly cached tokens out of input_tokens; nobody leaves
            # them out of prompt_tokens.
            created = _count(usage, "cache_creation_input_tokens")
            whole = given + (read or 0) + (created or 0)
        self.input_tokens = _later(self.input_tokens, whole)
        for name in ("completion_tokens", "output_tokens"):
            if not premature:
                self.output_tokens = _later(self.output_tokens, _count(usage, name))
        cached = read
        for key in ("prompt_tokens_details", "input_tokens_details"):
            if cached is None:
                cached = _detail(usage, key, "cached_tokens")
        self.cached_tokens = _later(self.cached_tokens, cached)
        for key in ("completion_tokens_details", "output_tokens_details"):
            reasoning = _detail(usage, key, "reasoning_tokens")
            self.reasoning_tokens = _later(self.reasoning_tokens, reasoning)

    def _take_meta(self, meta: Mapping[str, object]) -> None:
        """SGLang's own API: so far, in each event of a stream."""
        self.input_tokens = _later(self.input_tokens, _count(meta, "prompt_tokens"))
        self.output_tokens = _later(self.output_tokens, _count(meta, "completion_tokens"))
        self.cached_tokens = _later(self.cached_tokens, _count(meta, "cached_tokens"))


def produced(reported: int | None, streamed: int, *, whole: bool, later: int = 0) -> int | None:
    """Tokens of output that a response reported; None: none. One that broke off may have reported
    less than it had streamed: in mid-stream usage is that of one choice, of several. ``later``:
    events with output after the report, which was that of an answer under way."""
    if reported is None or (whole and not later):
        return reported
    return max(reported + later, streamed)


def _later(known: int | None, count: int | None) -> int | None:
    return count if count or known is None else known


def _detail(usage: Mapping[str, object], part: str, name: str) -> int | None:
    details = usage.get(part)
    return _count(details, name) if isinstance(details, dict) else None


def _count(usage: Mapping[str, object], name: str) -> int | None:
    value = usage.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and is_possible(value):
        return value
    return None
