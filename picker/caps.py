"""Caps on the parts of one request. A module of its own: the process that reads bodies needs little
else of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Caps:
    """A request with more of one of these is refused, in words that name the cap."""

    prompts: int = 8_192
    """Prompts, inputs, documents, or pairs of texts that one request has for the engine."""
    messages: int = 20_000
    """Messages of a conversation, or input items of the Responses API."""
    tools: int = 4_096
    """Definitions of tools or functions."""
    media: int = 1_024
    """Images, audio clips and the like."""
    values: int = 2_000_000
    """JSON values in a body: each of them takes more memory when it is read than in the body."""


DEFAULT_CAPS: Final = Caps()
