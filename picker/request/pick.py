"""A chosen endpoint, with those to try after it."""

from __future__ import annotations

from msgspec import Struct

from picker.request.role import Role
from policies.routing.types import Features


class Pick(Struct, frozen=True):
    """Endpoints for one role, best first; at least one."""

    role: Role
    addresses: tuple[str, ...]
    """``ip:port``."""
    features: Features
    """What was seen of the first one."""
    scores: tuple[float, ...] = ()
    """Of the addresses, as the policy gave them."""

    @property
    def matched_tokens(self) -> float:
        """Of the prompt, that the first choice should have cached."""
        return self.features.matched_tokens

    @property
    def address(self) -> str:
        """The first choice."""
        return self.addresses[0]
