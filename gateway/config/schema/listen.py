"""The address that clients connect to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.schema.section import Section
from gateway.config.schema.terms import IpAddress, Port, Seconds
from gateway.config.schema.tls import ServerTls


class Listen(Section):
    """Where clients connect."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on. 0.0.0.0: every interface."""
    port: Port = 8080
    """TCP port."""
    tls: ServerTls | None = None
    """TLS for clients. Null: plain HTTP."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 64 << 20
    """Longest request body, bytes. A longer one is answered with 413."""
    stream_idle_timeout_s: Seconds = 1800.0
    """A request on which nothing moves for this long, seconds, is ended. There is no limit on
    the whole length of a stream."""
    drain_timeout_s: Seconds = 30.0
    """When Penstock is asked to stop, running requests have this long to finish, seconds."""
