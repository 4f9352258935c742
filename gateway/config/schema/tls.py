"""TLS on both sides of the gateway: towards clients, and towards replicas."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from gateway.config.schema.fault import Fault, raise_faults
from gateway.config.schema.secret import Secret
from gateway.config.schema.section import Section


class ServerTls(Section):
    """The certificate that a listener shows."""

    certificate: Secret
    """PEM certificate chain."""
    key: Secret
    """PEM private key."""


class UpstreamTls(Section):
    """TLS from Envoy to the replicas."""

    ca: Secret | None = None
    """PEM certificates that replicas must be signed by. Null: the system's."""
    server_name: str | None = None
    """Name that the replicas' certificates are for; sent as SNI. Needed for `verify`."""
    verify: bool = True
    """Check the replicas' certificates."""

    @model_validator(mode="after")
    def _checkable(self) -> Self:
        if self.verify and not self.server_name:
            fault = Fault(
                ("server_name",),
                "the name that the replicas' certificates are for",
                got="none",
                hint="replicas are reached by address, so there is no other name to check; "
                "verify: false switches the check off",
            )
            raise_faults("tls", [fault])
        return self
