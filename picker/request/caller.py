"""Who sent a request: what the gate makes of its head, before its body is looked at."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from policies.limits.plan import TenantPolicy, matches

ANONYMOUS: Final = "anonymous"


class Caller(Struct, frozen=True):
    """A tenant, and the key or user that came for it."""

    policy: TenantPolicy
    key: str = ""
    """Id of the API key, "" without one."""
    line: str = ""
    """Id of the first key of those that it was rotated from: limits by key are kept under it."""
    user: str = ""
    """User named by a trusted header or a token's claim; "": the request's body may name one."""
    models: tuple[str, ...] = ("*",)
    """Patterns of the models that the key may use, within the tenant's."""
    credentials: tuple[str, ...] = ()
    """Request headers that prove its identity: they are removed before a replica sees them."""
    idle_only: bool = False
    """It asks for what nobody waits for, such as a line of a batch: see `picker.admission.idle`."""

    @property
    def tenant(self) -> str:
        """Name of the tenant."""
        return self.policy.tenant

    @property
    def may_use_all(self) -> bool:
        """Whether no model is closed to it."""
        return "*" in self.policy.models and "*" in self.models

    @property
    def limits_tokens(self) -> bool:
        """Whether an enforced limit counts tokens or money."""
        return self.policy.limits_tokens

    def may_use(self, model: str) -> bool:
        """Whether tenant and key are allowed the model."""
        return matches(model, self.policy.models) and matches(model, self.models)


ANYBODY: Final = Caller(TenantPolicy(ANONYMOUS))
"""Without an identity and without limits."""
UNKNOWN: Final = Caller(TenantPolicy(""))
"""Before the gate has identified it."""
