"""A request that waits for its pool, as a queue sees it."""

from __future__ import annotations

from math import inf

from msgspec import Struct

Place = tuple[int, str]
"""An endpoint's slot, and the LoRA adapter that is needed there: those that wait for a place of an
adapter must not stand in the way of those whose adapter runs. "": none is needed."""


class Item(Struct, eq=False):
    """Compared by identity: one is in one queue, once."""

    id: str
    flow: str
    """Whose share of the pool it takes: a tenant, or what a trusted header names."""
    user: str
    """Among whom a flow's share is divided; "": nobody in particular."""
    priority: int
    """Class: higher goes first; below 0 it may be shed."""
    weight: float
    """Of its flow, against other flows of the same class; above 0."""
    tokens: float
    """Prompt and expected output, tokens: what a bound of the queue counts."""
    cost: float
    """Work for the pool, as expected when it came: tokens of prefill, an output token at its worth
    in these."""
    arrived_s: float
    prompt_tokens: float = 0.0
    """Cached ones as well."""
    output_tokens: float = 0.0
    """As expected; when it has ended, as they were."""
    stated_tokens: float = 0.0
    """Of output, at most, as far as that was stated."""
    output_worth: float = 0.0
    """Of an output token when it was given out, in `spent`. What it has really cost is counted by
    the same measure: or a measure that was too high when it was charged would become a credit for
    its flow."""
    expires_s: float = inf
    """When it has waited for too long."""
    due_s: float = inf
    """When its first token is wanted, of an objective: the earliest goes first within a user."""
    place: Place = (0, "")
    """Where it waits; set by the queue."""
    waits: bool = False
    """It is in the queue; set by the queue."""
    charged: bool = False
    """It was served; set by the queue."""
    spent: float = 0.0
    """As `cost`, but as expected when it was given out, and in the end as it was. Items that are
    given out at one time are charged by one measure, whenever they came; set by the queue."""
    price: float = 0.0
    """What its flow was charged for it; set by the queue."""
    divided: bool = False
    """It was charged to its user as well; set by the queue."""
    order: int = 0
    """Place in the order of arrival; set by the queue."""
