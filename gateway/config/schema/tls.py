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
    certificate: Secret | None = None
    """PEM certificate chain that Penstock shows to replicas that ask for one (mutual TLS)."""
    key: Secret | None = None
    """PEM private key of `certificate`."""

    def faults(self) -> Iterator[Fault]:
        """The name to check, and the certificate to show."""
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            yield Fault((missing,), "both `certificate` and `key`, or none of them", got="none")
        if self.verify and not self.server_name:
            yield Fault(
                ("server_name",),
                "the name that the replicas' certificates are for",
                got="none",
                hint="replicas are reached by address, so there is no other name to check; "
                "verify: false switches the check off",
            )
