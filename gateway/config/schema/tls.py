"""TLS on both sides of the gateway: towards clients, and towards replicas."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.schema.fault import Fault
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

    def faults(self) -> Iterator[Fault]:
        """The name to check."""
        if self.verify and not self.server_name:
            yield Fault(
                ("server_name",),
                "the name that the replicas' certificates are for",
                got="none",
                hint="replicas are reached by address, so there is no other name to check; "
                "verify: false switches the check off",
            )
