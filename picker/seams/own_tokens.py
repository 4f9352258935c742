"""The seam to tokenizers of our own: a model's, from its folder, in this process."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from picker.prompt.forms import Form
from picker.request.claim import Claim


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt whose tokens are wanted."""

    pool: str
    model: str
    """Name of the base model, as the pool's replicas call it."""
    root: str | None
    """Where they say that they have it from."""
    form: Form
    document: Mapping[str, object] = field(repr=False)
    """The request's body; of a heavy one without large members."""
    text: str | None = field(repr=False)
    """Of a completion: its prompt."""
    size_bytes: int
    heavy_body: bytes | None = field(default=None, repr=False)
    """Of a conversation whose large members are not in the document."""


class OwnTokens(Protocol):
    """Makes the tokens that an engine would make."""

    def ids(self, asked: Asked) -> bytes | Future[bytes | None] | None:
        """Token ids, 4 bytes each in this machine's order; None when they are not known here."""
        ...

    def heard(self, claim: Claim, address: str, prompt_tokens: int) -> None:
        """So many tokens an engine has reported for a prompt that it has answered."""

    def doubted(self, pool: str) -> bool:
        """The pool's engines make other tokens than we do."""
        ...


class NoOwnTokens:
    """There is no tokenizer."""

    def ids(self, asked: Asked) -> bytes | Future[bytes | None] | None:
        """See `OwnTokens`."""
        return None

    def heard(self, claim: Claim, address: str, prompt_tokens: int) -> None:
        """See `OwnTokens`."""

    def doubted(self, pool: str) -> bool:
        """See `OwnTokens`."""
        return False
