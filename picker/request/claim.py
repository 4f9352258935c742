"""How many tokens a prompt has, as we say, to be compared with what its engine reports."""

from __future__ import annotations

from msgspec import Struct

from picker.prompt.forms import Form


class Claim(Struct, frozen=True):
    """Made by a tokenizer of our own."""

    pool: str
    model: str
    """Name of the base model."""
    form: Form
    tokens: int
