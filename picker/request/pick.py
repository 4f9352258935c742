"""A chosen endpoint, with those to try after it."""

from __future__ import annotations

from dataclasses import dataclass

from picker.request.role import Role


@dataclass(frozen=True, slots=True)
class Pick:
    """Endpoints for one role, best first; at least one."""

    role: Role
    addresses: tuple[str, ...]
    """``ip:port``."""
    matched_tokens: float
    """Of the prompt, that the first one should have cached."""
    scores: tuple[float, ...] = ()
    """Of the addresses, as the policy gave them."""

    @property
    def address(self) -> str:
        """The first choice."""
        return self.addresses[0]
