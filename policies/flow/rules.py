"""What a queue is allowed to hold, and how it orders its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of what may wait in one class."""

    max_requests: float = inf
    max_tokens: float = inf
    """See `FlowRules`."""


@dataclass(frozen=True, slots=True)
class FlowRules:
    """Bounds of one pool's queue."""

    max_requests: int = 10_000
    """Waiting."""
    max_tokens: float = 50_000_000.0
    """Prompt and expected output of all that wait."""
    aging_s: float = 5.0
    """A class that has waited for so long gets a twentieth of what those above it get. Classes
    below 0 get nothing of what those from 0 on get: they are shed instead."""
    classes: Mapping[int, Bounds] = field(default_factory=dict)
    """By priority; a class that is not among them may fill the queue, whose bounds hold for all:
    what is of a higher class takes its place then."""


DEFAULT_FLOW: Final = FlowRules()
