"""The address of the admin API, and its token."""

from __future__ import annotations

from gateway.config.schema.secret import Secret
from gateway.config.schema.section import Section
from gateway.config.schema.terms import IpAddress, Port


class Admin(Section):
    """The admin API: status, metrics, health. Keep it away from clients."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on. An address that other machines reach needs `token`."""
    port: Port = 8090
    """TCP port."""
    token: Secret | None = None
    """What callers send in `Authorization: Bearer`, at least 16 characters. Null: no token is
    asked for, which is only possible on an address that no other machine reaches."""
